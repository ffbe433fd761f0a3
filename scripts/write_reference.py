"""Write the reference pages of docs/reference from the code: the same code, the same bytes.

usage: python scripts/write_reference.py [DIRECTORY]
"""

import ast
import contextlib
import csv
import importlib
import inspect
import io
import json
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, Final

from prometheus_client import ProcessCollector
from pydantic import TypeAdapter

import sidecar
from sidecar import outbox
from sidecar.cli import main as command_line
from sidecar.cli.catalogue import TABLES
from sidecar.cli.config import SUBCOMMANDS
from sidecar.cli.options import CARBON, PLACE
from sidecar.codecarbon_config import RULES
from sidecar.collector import metrics as collector_metrics
from sidecar.exporters import codecarbon_csv, energy_metrics
from sidecar.exporters.prometheus import BUILD, Metric
from sidecar.exporters.summary import Totals, summary_mapping
from sidecar.injector import metrics as injector_metrics
from sidecar.node_meter import metrics as node_meter_metrics
from sidecar.record import SCHEMA, EmissionRecord, GpuRecord
from sidecar.report.figures.descriptions import DOCUMENT_KEYS, MEASURES
from sidecar.report.measures import GROUPINGS
from sidecar.settings import (
    Group,
    declared_settings,
    default_text,
    environment_name,
    flag_name,
)
from sidecar.tracking import options
from sidecar.units import Figure

REPOSITORY: Final = Path(__file__).resolve().parent.parent
TABLES_DIRECTORY: Final = REPOSITORY / "sidecar" / "catalogue" / "tables"
HELP_COLUMNS: Final = "100"
GENERATED: Final = "<!-- Written by `make docs` from the code. Change the code, not this page. -->"

CONSTANT_MODULES: Final = (
    "sidecar.estimate.power",
    "sidecar.estimate.embodied",
    "sidecar.estimate.codecarbon",
    "sidecar.factors",
    "sidecar.carbon.intensity",
    "sidecar.carbon.series",
    "sidecar.carbon.keeper",
    "sidecar.windows",
    "sidecar.agent",
    "sidecar.journal.append",
    "sidecar.meters.gpu_tally",
    "sidecar.meters.rapl",
    "sidecar.units",
)
"""The modules whose constants decide numbers or times that a reader of records may ask for."""

UNIT_OF_SUFFIX: Final = {
    "KG_PER_KWH": "kg/kWh",
    "G_PER_KWH": "g/kWh",
    "KG_PER_GB": "kg/GB",
    "WATTS_PER_LOGICAL_CPU": "W per logical CPU",
    "RAM_GB": "GB",
    "_KG": "kg",
    "_W": "W",
    "_S": "s",
    "_H": "h",
}

VOLUME_FILES: Final = (
    (
        "records/<stem>.<seq>.ndjson",
        "the open segment, one JSON object a line; the stem is `<pod uid>.<12 hex digits>` or "  # noqa: ISC004
        "`run.<…>`, seq the number of its first record",
    ),
    ("records/<stem>.<seq>.ndjson.gz", "a closed segment; with a transport until it is shipped"),
    ("records/refused/", "segments that the far side will never take; why is in the log"),
    ("records/.<stem>.owner", "locked by the process that writes these segments"),
    ("summary.json", "running totals of a run, replaced atomically"),
    ("summary.<stem>.json", "the same of a run beside another on this volume"),
    (".owner", "locked by the process that writes `summary.json`"),
    ("emissions.csv", "one cumulative row per run, in the columns of CodeCarbon 3.3.2"),
    ("emissions.<stem>.csv", "the same of a run that shares the volume with another machine"),
    (
        ".emissions.csv.lock",
        "empty; the lock that lets several processes write `emissions.csv`",
    ),
    ("emissions.csv.<n>.bak", "what stood in `emissions.csv` and could not be kept there"),
    (
        "intensity/<source>.<zone>.json",
        "the last answers of a source of carbon intensity over time; may be deleted",
    ),
    ("intensity/<source>.<zone>.lock", "empty; the lock that lets one process ask for several"),
    ("reports/v1/index.html", "the page of the report, with those in `projects/` and `runs/`"),
    ("reports/v1/summary.json", "what `report` found, as one document; see below"),
    ("reports/v1/projects.csv", "one row per project; all tables below, as CSV and as Parquet"),
    (
        "reports/v1/boamps/",
        "a run each, in the format of BoAmps, for the 500 largest; `boamps.ndjson` has all",
    ),
    ("reports/v1/.emissions-report", "says that nothing in there is read as records"),
)

CSV_COLUMNS: Final = {
    "timestamp": "end of the last window, UTC, without a zone as CodeCarbon writes it",
    "project_name": "`project`",
    "run_id": "`run_id`; the row of a run is replaced at each window",
    "experiment_id": "`experiment`, empty if unknown",
    "duration": "seconds metered",
    "emissions": "kg CO2e, with PUE",
    "emissions_rate": "kg CO2e per second",
    "cpu_power": "mean W with PUE: energy over duration",
    "gpu_power": "mean W with PUE",
    "ram_power": "mean W with PUE",
    "cpu_energy": "kWh with PUE",
    "gpu_energy": "kWh with PUE",
    "ram_energy": "kWh with PUE",
    "energy_consumed": "kWh with PUE: `facility_energy_kwh`",
    "water_consumed": "litres",
    "country_name": "name of the country",
    "country_iso_code": "ISO 3166 alpha-3, `unknown` if unknown",
    "region": "empty: no state or province is guessed",
    "cloud_provider": "`provider`",
    "cloud_region": "`region`",
    "os": "platform of the process",
    "python_version": "Python of the process",
    "codecarbon_version": "`emissions-sidecar` and its version",
    "cpu_count": "logical CPUs of the node",
    "cpu_model": "as `/proc/cpuinfo` names it",
    "gpu_count": "GPUs of the node",
    "gpu_model": "count × model",
    "longitude": "empty: nothing is geolocated",
    "latitude": "empty: nothing is geolocated",
    "ram_total_size": "GiB of the node",
    "tracking_mode": "`machine` if the whole node is recorded, else `process`",
    "cpu_utilization_percent": "mean of the node",
    "gpu_utilization_percent": "mean of the observed GPUs",
    "ram_utilization_percent": "of the node",
    "ram_used_gb": "GiB used on the node",
    "on_cloud": "always `N`: carbonboard 3.3.2 fails on rows of Azure that say `Y`",
    "pue": "power usage effectiveness",
    "wue": "L/kWh",
}

TOTAL_KEYS: Final = {
    "windows": "number of windows added up",
    "failure": "why records are not on the volume; null when they are",
    "carbon_intensity_g_per_kwh": "the last one used",
}

TABLE_TEXTS: Final = {
    "regions.csv": "Azure regions: grid zone, carbon intensity, PUE, WUE",
    "vm_sizes.csv": "Azure VM sizes: vCPUs, memory, CPU candidates, GPUs",
    "cpus.csv": "CPU models: watts per hardware thread, TDP",
    "cpu_generations.csv": "from vendor, family and model number to a generation",
    "gpus.csv": "GPUs as NVML names them: power limit and idle draw",
    "countries.csv": "countries, the European Union, the world: carbon intensity",
    "energy_sources.csv": "ways to generate electricity, for an energy mix",
    "efficiency.csv": "average PUE and WUE of all Azure data centres",
    "equivalents.csv": "everyday things that the report compares emissions with",
    "energy_mixes.csv": "electricity generated per country and source, in TWh",
    "codecarbon_tdp.csv": "rows of CodeCarbon's CPU table, for its power model",
    "codecarbon_intensity.csv": "rows of CodeCarbon's country table, to compare with",
    "sources.csv": "every source the other tables name",
}


def table(heading: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a Markdown table; line breaks and bars in cells are made safe."""
    lines = ["| " + " | ".join(heading) + " |", "|" + " --- |" * len(heading)]
    lines += ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|") or " "


def code(text: object) -> str:
    """Return text as code, empty text as nothing."""
    return f"`{text}`" if str(text) else ""


def page(title: str, *parts: str) -> str:
    """Join a page from its parts."""
    text = "\n\n".join((f"# {title}", GENERATED, *parts))
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


# --- settings and commands ----------------------------------------------------------------------


def settings_page() -> str:
    """Return every setting: flag, environment variable, default, what it takes and means."""
    few = ", ".join(code(flag_name(name)) for name in (*PLACE, *CARBON))
    return page(
        "Settings",
        "A flag goes before the environment variable, that before a "
        "[configuration file](../how-to/configure-with-a-file.md), that before the default. "
        "An empty variable counts as unset. A secret has no flag, and no place in a file. "
        "An unknown `EMISSIONS_*` variable or key of a file, or a bad value, is one line and exit "
        "code 2. "
        "Durations are written like `500ms`, `15s`, `1m`, `2h`; "
        "a plain number is seconds.",
        f"## Metering\n\n`run`, `exec`, `detect`; `estimate` takes the flags {few}.",
        _settings_table("meter"),
        "The annotations `emissions/project`, `emissions/experiment` and `emissions/interval` of a "
        "pod are used where no setting speaks; `emissions/interval` also where only the environment "
        "does, for that is the cluster's default. See [record](record.md) for what is recorded.\n\n"
        "In a pod (`POD_UID` is set) `run` does not end at a bad setting: it says so, meters nothing, "
        "and waits for its signal (exit code 0), so that the pod's other containers start.",
        "## Carbon intensity over time\n\n`run`, `exec`, `detect`, `when`, `collector`. See "
        "[set the carbon intensity](../how-to/set-the-carbon-intensity.md).",
        _settings_table("intensity"),
        "## Trackers\n\n`run`, `exec`, `detect`. See [show a run in a tracker]"
        "(../how-to/show-a-run-in-a-tracker.md).",
        _settings_table("track"),
        "## Shipping\n\n`run`, `exec` (without `--listen` and `--termination-log`), `detect`.",
        _settings_table("ship"),
        "## Azure Blob\n\n`run`, `exec`, `detect`, `collector`; `report` and `verify` for `az://…`, "
        "without `--blob-container`.",
        _settings_table("blob"),
        "## Python API\n\nWhat `sidecar.EmissionsTracker` and `sidecar.phase` read beside the above, "
        "which they take from environment and files, too. `exec` sets it for its command.",
        _settings_table("program"),
        "## Collector\n\n`collector`, which takes `--listen`, `--transport-directory` and the "
        "log's, too.",
        _settings_table("collector"),
        "## Files\n\nThe key is the setting's name, such as `vm_size`. A file that is found in the "
        "working "
        f"directory may not have: {_kept_from_found_files()}. Secrets are refused in every file.",
        "## CodeCarbon's configuration\n\nWhat `config import-codecarbon` makes of each key of "
        "CodeCarbon "
        "3.3.2's configuration.",
        table(("key", "verdict", "setting", "what to know"), map(_rule_row, sorted(RULES))),
    )


def _kept_from_found_files() -> str:
    kept = (
        item.name
        for item in declared_settings("meter", "intensity", "track", "ship", "blob")
        if not item.metadata["in_project_file"] and not item.metadata["secret"]
    )
    return ", ".join(map(code, kept))


def _rule_row(key: str) -> tuple[str, str, str, str]:
    rule = RULES[key]
    return code(key), rule.verdict, code(rule.setting or ""), rule.note


def _settings_table(group: Group) -> str:
    rows = (
        (
            "" if item.metadata["secret"] or group == "program" else code(flag_name(item.name)),
            code(environment_name(item.name)),
            code(default_text(item)),
            code(item.metadata["metavar"]),
            item.metadata["help"] + _units_of(item),
        )
        for item in declared_settings(group)
    )
    return table(("flag", "environment", "default", "takes", "meaning"), rows)


def _units_of(item: Field[Any]) -> str:
    """Name the words a choice takes, which its error text knows."""
    try:
        item.metadata["parse"]("?")
    except ValueError as error:
        found = re.search(r"is not one of: (.*)", str(error))
        if found:
            words = ", ".join(code(word) for word in found[1].split(", "))
            return f"; one of {words}"
    return ""


def commands_page() -> str:
    """Return the help text of every command."""
    about = (
        "Exit codes: 0; 1 where an output could not be written; 2 for a wrong flag, setting or "
        "name; 130 after Ctrl+C; `exec` gives its command's own (126 and 127 where it cannot be "
        "started, 128 + n where signal n ended it)."
    )
    helps = [
        f"## {' '.join(words)}\n\n```text\n{help_of(*words)}\n```" for words in command_words()
    ]
    return page("Commands", about, f"## emissions-sidecar\n\n```text\n{help_of()}\n```", *helps)


def command_words() -> Iterator[tuple[str, ...]]:
    """Yield every command, the tables of `catalogue` and what `config` does."""
    for name in command_line.COMMANDS:
        yield (name,)
        if name == "catalogue":
            yield from ((name, sub) for sub in (*TABLES, "refresh"))
        if name == "config":
            yield from ((name, sub) for sub in SUBCOMMANDS)


def help_of(*words: str) -> str:
    """Return what `emissions-sidecar WORDS --help` prints, at a fixed width."""
    with _environment({"COLUMNS": HELP_COLUMNS, "NO_COLOR": "1"}):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            command_line.main([*words, "--help"])
    return printed.getvalue().strip()


@contextlib.contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# --- record and files ---------------------------------------------------------------------------


def record_page() -> str:
    """Return every field of the record."""
    return page(
        f"Record, schema {SCHEMA}",
        "One JSON object a line (NDJSON), one line per window. Units are in the names. What is not "
        "known is `null`, never 0. Times are RFC 3339 in UTC. "
        "As JSON Schema: [record.schema.json](record.schema.json).",
        "## Fields",
        table(("field", "type", "meaning"), map(_field_row, fields(EmissionRecord))),
        "## GPUs\n\nEach element of `gpus`:",
        table(("field", "type", "meaning"), map(_field_row, fields(GpuRecord))),
    )


def _field_row(item: Field[Any]) -> tuple[str, str, str]:
    return code(item.name), type_text(item.type), item.metadata["description"]


def type_text(kind: object) -> str:
    """Return the name of a type as a reader of JSON knows it."""
    names: dict[object, str] = {str: "text", int: "integer", float: "number", type(None): "null"}
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, types.UnionType) or origin is typing.Union:
        return " or ".join(type_text(part) for part in arguments)
    if origin is typing.Literal:
        return ", ".join(code(word) for word in arguments)
    if origin is tuple:
        return "list of objects"
    if arguments[1:] == (float,):
        return "object of numbers"
    return names.get(kind, "object of text")


def record_schema() -> str:
    """Return the JSON Schema of a record, with the descriptions of its fields."""
    schema = TypeAdapter(EmissionRecord).json_schema()
    described = ((EmissionRecord, schema), (GpuRecord, schema["$defs"]["GpuRecord"]))
    for kind, part in described:
        for item in fields(kind):
            part["properties"][item.name]["description"] = item.metadata["description"]
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def files_page() -> str:
    """Return every file on the volume, with its keys or columns."""
    totals = summary_mapping(Totals(EmissionRecord(), 0), None)
    columns = ((code(name), CSV_COLUMNS[name]) for name in codecarbon_csv.COLUMNS)
    return page(
        "Files",
        "## On the volume",
        table(("file", "holds"), ((code(name), text) for name, text in VOLUME_FILES)),
        "## `summary.json`\n\nTotals of one run so far; sums over its windows where a sum makes "
        "sense, else the last value.",
        table(("key", "meaning"), map(_total_row, totals)),
        "## `emissions.csv`\n\nThe columns of CodeCarbon 3.3.2 in its order. All energies and powers "
        "here are with PUE, as CodeCarbon's are.",
        table(("column", "holds"), columns),
        "## `reports/v1/summary.json`\n\nBounded, whatever the report is of: `rows_left_out` says how "
        "many rows of each table it has no room for.",
        table(("key", "meaning"), ((code(name), text) for name, text in DOCUMENT_KEYS.items())),
        "## Tables in `reports/v1`\n\nEach as CSV and as Parquet, with all rows; one that would have "
        "none is not there. Their columns are those they are grouped by, and the measures below.",
        table(
            ("file", "a row for each"),
            ((code(f"{name}.csv"), ", ".join(keys)) for name, keys in GROUPINGS.items() if keys),
        ),
        table(("measure", "meaning"), ((code(name), text) for name, text in MEASURES.items())),
    )


def _total_row(name: str) -> tuple[str, str]:
    described = {item.name: item.metadata["description"] for item in fields(EmissionRecord)}
    return code(name), TOTAL_KEYS.get(name) or described[name]


# --- catalogue ----------------------------------------------------------------------------------


def catalogue_page() -> str:
    """Return every table with columns, rows and sources."""
    about = (
        "The tables are in [sidecar/catalogue/tables](../../sidecar/catalogue/tables); their licences "
        "and attributions in [LICENSE.md](../../sidecar/catalogue/LICENSE.md). How the bounds were "
        "set: [quality and bounds](../explanation/quality-and-bounds.md)."
    )
    parts, rows = [], []
    for path in sorted(TABLES_DIRECTORY.glob("*.csv")):
        name, text = path.name, TABLE_TEXTS.get(path.name, "")
        header, lines = _csv(name)
        rows.append((code(name), str(len(lines)), text))
        keys = sorted(_source_keys(header, lines))
        sources = "Sources: " + ", ".join(map(code, keys)) + "." if keys else ""
        listed = ", ".join(map(code, header))
        parts.append(
            f"### {name}\n\n{_sentence(text)}{len(lines)} rows. {sources}\n\nColumns: {listed}."
        )
    _, sources_lines = _csv("sources.csv")
    parts = [
        about,
        table(("table", "rows", "holds"), rows),
        *parts,
        "## Sources",
        table(("key", "source", "licence", "year"), map(tuple, sources_lines)),
    ]
    return page("Catalogue", *parts)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}. " if text else ""


def _csv(name: str) -> tuple[list[str], list[list[str]]]:
    with (TABLES_DIRECTORY / name).open(encoding="utf-8", newline="") as stream:
        header, *lines = csv.reader(stream)
    return header, lines


def _source_keys(header: list[str], lines: list[list[str]]) -> set[str]:
    known = {line[0] for line in _csv("sources.csv")[1]}
    cells = (
        cell
        for line in lines
        for column, cell in zip(header, line, strict=True)
        if column.endswith("source")
    )
    parts = (part.partition(":")[0].strip() for cell in cells for part in cell.split("|"))
    return {part for part in parts if part in known}


# --- constants ----------------------------------------------------------------------------------


def constants_page() -> str:
    """Return every named figure of the formulas."""
    about = (
        "The formulas that use them: [power model](../explanation/power-model.md), "
        "[attribution](../explanation/attribution.md), "
        "[carbon intensity](../explanation/carbon-intensity.md)."
    )
    parts = [about]
    for name in CONSTANT_MODULES:
        path = name.replace(".", "/") + ".py"
        doc = (inspect.getdoc(importlib.import_module(name)) or "").partition("\n\n")
        rows = list(_constant_rows(name))
        parts.append(f"## {name}\n\n{doc[0]} Code: [{path}](../../{path}).")
        if name.startswith("sidecar.estimate") and doc[2]:
            parts.append(doc[2])
        parts.append(table(("constant", "value", "unit", "source and meaning"), rows))
    return page("Constants", *parts)


def _constant_rows(module_name: str) -> Iterator[tuple[str, str, str, str]]:
    module = importlib.import_module(module_name)
    for name, text in _documented_constants(Path(inspect.getfile(module))):
        value = getattr(module, name)
        if isinstance(value, Figure):
            year = f" ({value.year})" if value.year else ""
            shown = f"{value.value:.6g} ({value.low:.6g} to {value.high:.6g})"
            yield code(name), shown, value.unit, f"{value.source}{year}. {text}".rstrip(". ") + "."
        elif isinstance(value, Mapping):
            for key, amount in value.items():
                yield f"{code(name)} {key}", f"{amount:.9g}", unit_of(name), text
        elif isinstance(value, int | float):
            yield code(name), f"{value:.9g}", unit_of(name), text
        elif isinstance(value, str):
            yield code(name), value, "", text
        elif hasattr(value, "low"):
            yield code(name), f"{value.value:g} ({value.low:g} to {value.high:g})", "", text


def unit_of(name: str) -> str:
    """Return the unit that the end of a constant's name carries."""
    return next((unit for suffix, unit in UNIT_OF_SUFFIX.items() if name.endswith(suffix)), "")


def _documented_constants(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the public constants of a module, each with the text that follows it."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    for index, node in enumerate(body):
        name = _constant_name(node)
        if name is None:
            continue
        after = body[index + 1] if index + 1 < len(body) else None
        yield name, _text_of(after)


def _constant_name(node: ast.stmt) -> str | None:
    target = node.targets[0] if isinstance(node, ast.Assign) else None
    if isinstance(node, ast.AnnAssign):
        target = node.target
    if isinstance(target, ast.Name) and target.id.isupper() and not target.id.startswith("_"):
        return target.id
    return None


def _text_of(node: ast.stmt | None) -> str:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return inspect.cleandoc(str(node.value.value))
    return ""


# --- metrics ------------------------------------------------------------------------------------

UNITS: Final = ("joules", "grams", "watts", "seconds", "bytes", "litres", "ratio")
"""Base units, as names of metrics carry them."""

ENDPOINT_TEXTS: Final = {
    "Sidecar": "`run` with `--listen`; in pods port 9877. Counters are those of the process, and hold "
    "what is final: until it is settled where the pod runs (mostly a second, 75 s where IMDS is "
    "blocked) they stay at 0. They never fall, and are the sums of the records that were written.",
    "Node meter": "`node-meter`, port 9879. What became of its own records is told under the names of "
    "the sidecar's: `emissions_journal_…`, `emissions_unshipped_…`, `emissions_shipped_…`, "
    "`emissions_shipping_…`, `emissions_refused_segments_total`.",
    "Collector": "`collector`, port 8080.",
    "Webhook": "`webhook`, port 9443, https.",
}
ENDPOINT_METRICS: Final[Mapping[str, tuple[Metric, ...]]] = {
    "Sidecar": (*energy_metrics.METRICS, *outbox.METRICS),
    "Node meter": node_meter_metrics.METRICS,
    "Collector": collector_metrics.METRICS,
    "Webhook": injector_metrics.METRICS,
}


def metrics_page() -> str:
    """Return every metric of every endpoint."""
    parts = [
        f"## {name}\n\n{ENDPOINT_TEXTS[name]}\n\n{table(METRIC_HEADING, map(_metric_row, metrics))}"
        for name, metrics in ENDPOINT_METRICS.items()
    ]
    return page(
        "Metrics",
        "What `/metrics` of each service tells Prometheus, in base units. What is not known has no "
        "series, or an empty label: never 0. How to scrape, alert and look: "
        "[watch with Prometheus](../how-to/watch-with-prometheus.md).",
        *parts,
        "## All of them\n\nThe version, and what the process itself uses as prometheus-client tells it.",
        table(METRIC_HEADING, (_metric_row(BUILD), *_process_rows())),
    )


METRIC_HEADING: Final = ("metric", "type", "unit", "labels", "meaning")


def _metric_row(metric: Metric) -> tuple[str, str, str, str, str]:
    labels = "; ".join(f"`{label.name}`: {label.meaning}" for label in metric.labels)
    return code(metric.name), metric.kind, metric_unit(metric.name), labels, metric.help


def metric_unit(name: str) -> str:
    """Return the unit that a metric's name carries; a rate of units as it is spelled there."""
    words = name.removesuffix("_total").split("_")
    if "per" in words:
        at = words.index("per")
        return f"{words[at - 1]} per {words[at + 1]}"
    return words[-1] if words[-1] in UNITS else ""


def _process_rows() -> Iterator[tuple[str, str, str, str, str]]:
    for family in ProcessCollector(registry=None).collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        yield code(name), family.type, metric_unit(name), "", family.documentation


# --- Python API ---------------------------------------------------------------------------------


def python_api_page() -> str:
    """Return what the package offers, and the parameters of the trackers beside CodeCarbon's."""
    offered = ((name, getattr(sidecar, name)) for name in sidecar.__all__)
    trackers = ", ".join(code(f"{kind.__name__}") for kind in _WITH_PARAMETERS)
    rules = ((code(name), rule.verdict, rule.note) for name, rule in options.RULES.items())
    return page(
        "Python API",
        "What `import sidecar` offers; the rest of the package is not part of it. How to use it: "
        "[meter Python code](../how-to/meter-python-code.md).",
        table(("name", "is"), ((code(name), _api_text(thing)) for name, thing in offered)),
        *(_members(kind) for kind in (sidecar.EmissionsTracker, sidecar.EmissionsData)),
        f"## Parameters\n\nThose of CodeCarbon 3.3.2, in its order, for {trackers}; the last six are "
        "none of `EmissionsTracker`. One that is not offered changes nothing, and that is said in the "
        "log, once; so is a value that cannot be: the default holds then.",
        table(("parameter", "here", "how it differs, or what to do instead"), rules),
    )


_WITH_PARAMETERS: Final = (
    sidecar.EmissionsTracker,
    sidecar.OfflineEmissionsTracker,
    sidecar.track_emissions,
)


def _api_text(thing: object) -> str:
    return (inspect.getdoc(thing) or "").partition("\n\n")[0]


def _members(kind: type) -> str:
    """Return the public attributes of a class, or the columns of a result."""
    if kind is sidecar.EmissionsData:
        names = ", ".join(code(item.name) for item in fields(kind))
        return f"## EmissionsData\n\n{_api_text(kind)}\n\n{names}, and `values`: all of it by name."
    rows = [
        (code(name), _api_text(member))
        for name, member in vars(kind).items()
        if not name.startswith("_")
    ]
    return f"## {kind.__name__}\n\n" + table(("name", "does"), rows)


# --- all of it ----------------------------------------------------------------------------------

PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "settings.md": settings_page,
    "commands.md": commands_page,
    "record.md": record_page,
    "record.schema.json": record_schema,
    "files.md": files_page,
    "catalogue.md": catalogue_page,
    "constants.md": constants_page,
    "metrics.md": metrics_page,
    "python-api.md": python_api_page,
}


def main() -> int:
    """Write all pages; the directory is docs/reference unless given."""
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY / "docs" / "reference"
    directory.mkdir(parents=True, exist_ok=True)
    for name, write in PAGES.items():
        (directory / name).write_text(write(), encoding="utf-8")
    sys.stdout.write(f"{len(PAGES)} pages written to {directory}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
