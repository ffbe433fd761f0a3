"""Write the Grafana dashboard of the Helm chart: the same script, the same bytes.

usage: python scripts/write_dashboard.py [FILE]

Grafana knows more of a panel than is said here; what is left out are its defaults. A batch job is most
often over when one looks: what happened in the time shown is asked with the identities of all that time.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

REPOSITORY: Final = Path(__file__).resolve().parent.parent
DASHBOARD: Final = REPOSITORY / "helm/emissions-sidecar/dashboards/emissions-sidecar.json"

WIDTH: Final = 24
DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
JOULES_PER_KWH: Final = "3.6e6"

Kind = Literal["timeseries", "stat", "bargauge", "table"]


@dataclass(frozen=True)
class Query:
    """PromQL, and how its series are called."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """One panel; `width` is of 24."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    kind: Kind = "timeseries"
    width: int = 12
    height: int = 8
    text: str = ""
    is_stacked: bool = False


@dataclass(frozen=True)
class Row:
    """Panels under a heading."""

    title: str
    panels: tuple[Panel, ...]


# --- what is asked ------------------------------------------------------------------------------

_CHOSEN: Final = 'cluster=~"$cluster", namespace=~"$namespace", project=~"$project"'
_INFO: Final = f"emissions_info{{{_CHOSEN}}}"
_OF_IDENTITY: Final = ("cluster", "project", "workload", "region")


def of_pods(value: str, by: str = "", *, info: str = _INFO, on: str = "namespace, pod") -> str:
    """Give series of the pods chosen what `by` names of their identity."""
    labels = ", ".join(one for one in by.split(", ") if one in _OF_IDENTITY)
    return f"{value} * on ({on}) group_left ({labels}) topk by ({on}) (1, {info})"


def in_range(metric: str, by: str = "") -> str:
    """Sum what a counter of pods rose by in the time shown; pods that have ended count, too."""
    rise = of_pods(f"increase({metric}[$__range])", by, info=f"max_over_time({_INFO}[$__range])")
    return f"sum by ({by}) ({rise})" if by else f"sum({rise})"


def now(metric: str, by: str) -> str:
    """Sum the rate of a counter of pods: of joules that is their power in W."""
    return f"sum by ({by}) ({of_pods(f'rate({metric}[$__rate_interval])', by)})"


def own(value: str) -> str:
    """Take what the sidecars' processes use, and not other processes of their pods."""
    return of_pods(value, on="namespace, pod, instance")


def of_nodes(value: str) -> str:
    """Give series of node meters the labels of their nodes."""
    return (
        f"{value} * on (namespace, pod) group_left (node) "
        'topk by (namespace, pod) (1, emissions_node_meter_info{cluster=~"$cluster"})'
    )


def rate(metric: str, by: str) -> str:
    """Sum the rate of a counter of a service."""
    return f"sum by ({by}) (rate({metric}[$__rate_interval]))"


def quantile(share: str, metric: str, by: str = "le") -> str:
    """Return a quantile of a histogram of a service."""
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', by)})"


ENERGY: Final = "emissions_energy_joules_total"
CO2E: Final = "emissions_co2e_grams_total"
RESERVED_IDLE: Final = "emissions_reserved_idle_energy_joules_total"
NODE: Final = "emissions_node_meter_energy_joules_total"
UNALLOCATED: Final = "emissions_node_meter_unallocated_energy_joules_total"


def idle_share(component: str) -> str:
    """Return the part of the energy of one component that its pods held and did not use."""
    selected = f'{{component="{component}"}}'
    return (
        f"{now(f'{RESERVED_IDLE}{selected}', 'project')} / {now(f'{ENERGY}{selected}', 'project')}"
    )


TOTALS: Final = Row(
    "In the time shown",
    (
        Panel(
            "Energy",
            "kwatth",
            (Query(f"{in_range(ENERGY)} / {JOULES_PER_KWH}"),),
            kind="stat",
            width=4,
            height=5,
            text="Of the pods, without the data centre's own part. Prometheus sees a pod from its first "
            "scrape to its last; the records, and so the report, have all of it.",
        ),
        Panel(
            "Emissions (CO2e)",
            "massg",
            (
                Query(in_range(CO2E), "CO2e"),
                Query(in_range("emissions_co2e_low_grams_total"), "low"),
                Query(in_range("emissions_co2e_high_grams_total"), "high"),
            ),
            kind="stat",
            width=8,
            height=5,
            text="Of operation, with the data centre's own part (PUE), and its bounds.",
        ),
        Panel(
            "Embodied (CO2e)",
            "massg",
            (Query(in_range("emissions_embodied_co2e_grams_total")),),
            kind="stat",
            width=4,
            height=5,
            text="The pods' part of what making the machines emitted; not in the emissions.",
        ),
        Panel(
            "Water",
            "litre",
            (Query(in_range("emissions_water_litres_total")),),
            kind="stat",
            width=4,
            height=5,
        ),
        Panel(
            "Pods metered now",
            "short",
            (Query(f"count(topk by (namespace, pod) (1, {_INFO}))"),),
            kind="stat",
            width=4,
            height=5,
        ),
    ),
)
WHOSE: Final = Row(
    "Whose",
    (
        Panel(
            "Energy by project",
            "kwatth",
            (Query(f"{in_range(ENERGY, 'project')} / {JOULES_PER_KWH}", "{{project}}"),),
            kind="bargauge",
            width=8,
        ),
        Panel(
            "Emissions by project",
            "massg",
            (Query(in_range(CO2E, "project"), "{{project}}"),),
            kind="bargauge",
            width=8,
        ),
        Panel(
            "Emissions by namespace",
            "massg",
            (Query(in_range(CO2E, "namespace"), "{{namespace}}"),),
            kind="bargauge",
            width=8,
        ),
        Panel(
            "Emissions per hour by project",
            "massg",
            (Query(f"3600 * {now(CO2E, 'project')}", "{{project}}"),),
            width=8,
            is_stacked=True,
        ),
        Panel(
            "Pace, as a multiple of the budget",
            "short",
            (
                Query("project:emissions_budget_burn:ratio6h", "{{project}}, 6 h"),
                Query("project:emissions_budget_burn:ratio3d", "{{project}}, 3 d"),
            ),
            width=8,
            text="At 1 the budget of 30 days lasts 30 days. Of the chart's rules, for the projects in "
            "metrics.rules.budgetKg.",
        ),
        Panel(
            "Emissions of workloads",
            "massg",
            (
                Query(
                    f"topk(20, {in_range(CO2E, 'project, namespace, workload')})",
                    "{{project}} {{namespace}}/{{workload}}",
                ),
            ),
            kind="table",
            width=8,
            text="The twenty that emitted most in the time shown.",
        ),
    ),
)
HOW: Final = Row(
    "How",
    (
        Panel(
            "Power by component",
            "watt",
            (Query(now(ENERGY, "component"), "{{component}}"),),
            is_stacked=True,
            text="Of the pods, without the data centre's own part.",
        ),
        Panel(
            "Power by project",
            "watt",
            (Query(now(ENERGY, "project"), "{{project}}"),),
            is_stacked=True,
        ),
        Panel(
            "Held and idle: GPUs",
            "percentunit",
            (Query(idle_share("gpu"), "{{project}}"),),
            width=8,
            text="Part of the GPU energy that was spent while nothing ran on the pods' GPUs.",
        ),
        Panel(
            "Held and idle: CPUs",
            "percentunit",
            (Query(idle_share("cpu"), "{{project}}"),),
            width=8,
            text="Part of the CPU energy that was idle power of CPUs that pods held and did not use.",
        ),
        Panel(
            "Utilisation of the nodes, as their pods see it",
            "percentunit",
            (
                Query(
                    f"avg by (component) ({of_pods('emissions_utilization_ratio')})",
                    "{{component}}",
                ),
            ),
            width=8,
        ),
        Panel(
            "Carbon intensity by region (g/kWh)",
            "short",
            (
                Query(
                    f"{JOULES_PER_KWH} * avg by (region) "
                    f"({of_pods('emissions_carbon_intensity_grams_per_joule', 'region')})",
                    "{{region}}",
                ),
            ),
            text="Used by the pods in their last windows.",
        ),
        Panel(
            "Power by quality of the numbers",
            "watt",
            (
                Query(
                    f"sum by (quality) (({of_pods('sum by (namespace, pod) (emissions_power_watts)')})"
                    " * on (namespace, pod) group_left (quality) "
                    "topk by (namespace, pod) (1, emissions_method_info))",
                    "{{quality}}",
                ),
            ),
            is_stacked=True,
            text="measured: counters; estimated: a model fed with measured use; modelled: tables alone.",
        ),
    ),
)
NODES: Final = Row(
    "Nodes (where the node meter runs)",
    (
        Panel(
            "Power of the nodes by component",
            "watt",
            (
                Query(
                    f"sum by (component) ({of_nodes(f'rate({NODE}[$__rate_interval])')})",
                    "{{component}}",
                ),
            ),
            width=8,
            is_stacked=True,
        ),
        Panel(
            "Used by no pod, by component",
            "watt",
            (
                Query(
                    f"sum by (component) ({of_nodes(f'rate({UNALLOCATED}[$__rate_interval])')})",
                    "{{component}}",
                ),
            ),
            width=8,
            is_stacked=True,
            text="What no pod used of its node: idle power of what is not requested, and the system.",
        ),
        Panel(
            "Used by no pod, by node",
            "percentunit",
            (
                Query(
                    f"sum by (node) ({of_nodes(f'rate({UNALLOCATED}[$__rate_interval])')}) "
                    f"/ sum by (node) ({of_nodes(f'rate({NODE}[$__rate_interval])')})",
                    "{{node}}",
                ),
            ),
            width=8,
            text="Part of a node's energy that no pod used.",
        ),
        Panel(
            "Pods by node",
            "short",
            (Query(f"sum by (node) ({of_nodes('emissions_node_meter_pods')})", "{{node}}"),),
            width=8,
        ),
        Panel(
            "GPUs that no pod holds",
            "watt",
            (
                Query(
                    "sum by (node) ("
                    + of_nodes(
                        "rate(emissions_node_meter_gpu_unallocated_energy_joules_total"
                        "[$__rate_interval])"
                    )
                    + ")",
                    "{{node}}",
                ),
            ),
            width=8,
        ),
        Panel(
            "Answers of the node meters to pods",
            "reqps",
            (Query(rate("emissions_node_meter_requests_total", "outcome"), "{{outcome}}"),),
            width=8,
        ),
    ),
)
SHIPPING: Final = Row(
    "Ways of the records",
    (
        Panel(
            "Records that wait in pods",
            "short",
            (
                Query("sum(emissions_unshipped_records)", "to be shipped"),
                Query("sum(emissions_journal_waiting_records)", "to be written"),
            ),
            width=8,
        ),
        Panel(
            "Sidecars in trouble",
            "short",
            (
                Query("sum(emissions_shipping_failing)", "cannot ship"),
                Query("sum(emissions_journal_failing)", "cannot write"),
                Query(
                    "sum(increase(emissions_refused_segments_total[1h]))", "segments refused, 1 h"
                ),
                Query("count(emissions_unshipped_segments > 3)", "with more than 3 segments"),
            ),
            width=8,
        ),
        Panel(
            "Records shipped, and stored by the collector",
            "cps",
            (
                Query("sum(rate(emissions_shipped_records_total[$__rate_interval]))", "shipped"),
                Query("sum(rate(emissions_collector_records_total[$__rate_interval]))", "stored"),
            ),
            width=8,
        ),
        Panel(
            "Segments at the collector",
            "cps",
            (Query(rate("emissions_collector_segments_total", "outcome"), "{{outcome}}"),),
            width=8,
        ),
        Panel(
            "Time to answer a sidecar",
            "s",
            (
                Query(
                    quantile("0.99", "emissions_collector_request_duration_seconds", "le, route"),
                    "p99 {{route}}",
                ),
            ),
            width=8,
        ),
        Panel(
            "Token reviews",
            "cps",
            (Query(rate("emissions_collector_token_reviews_total", "outcome"), "{{outcome}}"),),
            width=8,
        ),
    ),
)
INJECTION: Final = Row(
    "Injection",
    (
        Panel(
            "Pods by what became of them",
            "reqps",
            (
                Query(
                    rate("emissions_injector_requests_total", "outcome, reason"),
                    "{{outcome}} {{reason}}",
                ),
            ),
            width=8,
            text="Admission requests; the API server asks again about a pod that others changed.",
        ),
        Panel(
            "Time to answer the API server",
            "s",
            (
                Query(quantile("0.99", "emissions_injector_request_duration_seconds"), "p99"),
                Query(quantile("0.5", "emissions_injector_request_duration_seconds"), "p50"),
            ),
            width=8,
        ),
        Panel(
            "The webhook's certificate expires in",
            "s",
            (
                Query(
                    "min(emissions_injector_certificate_expiry_timestamp_seconds) - time()", "left"
                ),
            ),
            kind="stat",
            width=8,
        ),
    ),
)
OURSELVES: Final = Row(
    "What this costs",
    (
        Panel(
            "CPU of the sidecars",
            "percentunit",
            (
                Query(
                    f"avg({own('rate(process_cpu_seconds_total[$__rate_interval])')})",
                    "mean",
                ),
                Query(
                    f"max({own('rate(process_cpu_seconds_total[$__rate_interval])')})",
                    "most",
                ),
            ),
            width=8,
            text="Of one CPU.",
        ),
        Panel(
            "Memory of the sidecars",
            "bytes",
            (
                Query(f"avg({own('process_resident_memory_bytes')})", "mean"),
                Query(f"max({own('process_resident_memory_bytes')})", "most"),
            ),
            width=8,
        ),
        Panel(
            "Versions",
            "short",
            (Query("count by (version) (emissions_build_info)", "{{version}}"),),
            width=8,
            text="Processes by version of emissions-sidecar.",
        ),
    ),
)
ROWS: Final = (TOTALS, WHOSE, HOW, NODES, SHIPPING, INJECTION, OURSELVES)


# --- as Grafana reads it ------------------------------------------------------------------------


def variable(name: str, label: str) -> dict[str, Any]:
    """Choose values of a label of the pods; all of them is also those without any."""
    query = f"label_values(emissions_info, {name})"
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": "values"},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def targets(panel: Panel) -> Iterator[dict[str, Any]]:
    """Return the queries of a panel; those of a moment ask for one value alone."""
    for letter, query in zip("ABCDEF", panel.queries, strict=False):
        target: dict[str, Any] = {
            "refId": letter,
            "datasource": DATASOURCE,
            "expr": query.expr,
            "legendFormat": query.legend,
        }
        if panel.kind != "timeseries":
            target |= {"instant": True, "range": False}
        if panel.kind == "table":
            target |= {"format": "table"}
        yield target


def panel_json(number: int, panel: Panel, place: tuple[int, int]) -> dict[str, Any]:
    """Return a panel at its place, (x, y)."""
    x, y = place
    custom = {"stacking": {"mode": "normal"}, "fillOpacity": 25} if panel.is_stacked else {}
    made: dict[str, Any] = {
        "id": number,
        "title": panel.title,
        "description": panel.text,
        "type": panel.kind,
        "datasource": DATASOURCE,
        "gridPos": {"h": panel.height, "w": panel.width, "x": x, "y": y},
        "fieldConfig": {"defaults": {"unit": panel.unit, "custom": custom}, "overrides": []},
        "targets": list(targets(panel)),
    }
    if panel.kind == "bargauge":
        made["options"] = {"orientation": "horizontal", "displayMode": "basic"}
    if panel.kind == "table":
        # The time is that of the question, the same in each line.
        made["transformations"] = [{"id": "organize", "options": {"excludeByName": {"Time": True}}}]
    return made


def panels_json() -> Iterator[dict[str, Any]]:
    """Return rows and panels from left to right, and down."""
    number, y = 1, 0
    for row in ROWS:
        place = {"h": 1, "w": WIDTH, "x": 0, "y": y}
        heading = {"id": number, "title": row.title, "type": "row", "gridPos": place, "panels": []}
        yield {**heading, "collapsed": False}
        number, x, y = number + 1, 0, y + 1
        height = 0
        for panel in row.panels:
            if x + panel.width > WIDTH:
                x, y, height = 0, y + height, 0
            yield panel_json(number, panel, (x, y))
            number, x, height = number + 1, x + panel.width, max(height, panel.height)
        y += height


def dashboard() -> dict[str, Any]:
    """Return the dashboard."""
    return {
        "title": "Emissions",
        "uid": "emissions-sidecar",
        "description": "Written by `make docs`. Change scripts/write_dashboard.py, not this file.",
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "timezone": "utc",
        "tags": ["emissions"],
        "refresh": "1m",
        "time": {"from": "now-24h", "to": "now"},
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "type": "datasource",
                    "query": "prometheus",
                    "label": "Prometheus",
                },
                variable("cluster", "Cluster"),
                variable("namespace", "Namespace"),
                variable("project", "Project"),
            ]
        },
        "panels": list(panels_json()),
    }


def dashboard_text() -> str:
    """Return the dashboard as JSON."""
    return json.dumps(dashboard(), indent=2) + "\n"


def main() -> int:
    """Write the dashboard into the chart, unless another file is given."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else DASHBOARD
    path.write_text(dashboard_text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
