"""The tables of a report, the slow and obvious way: all records in a list, group by group."""

import math
import re
from collections import defaultdict
from dataclasses import fields
from datetime import UTC, datetime

from sidecar.report.balance import Balance
from sidecar.report.claims import NODES_OWN, Claims, Nodes, NoPlaceInTime, Place
from sidecar.report.measures import GROUPINGS, Measures
from sidecar.report.settle import settle
from sidecar.windows import rfc3339

SUMS = (
    "duration_s",
    "gap_s",
    "cpu_energy_kwh",
    "ram_energy_kwh",
    "gpu_energy_kwh",
    "energy_kwh",
    "facility_energy_kwh",
    "water_l",
    "emissions_g",
    "embodied_g",
    "cpu_reserved_idle_energy_kwh",
    "gpu_reserved_idle_energy_kwh",
)

BOUNDS = ("emissions_low_g", "emissions_high_g")

IN_PROPORTION = (
    "facility_energy_kwh",
    "water_l",
    "emissions_g",
    "emissions_low_g",
    "emissions_high_g",
)


def tables(records, selection):
    """{name: {keys: Measures}} and {node: Balance}, of records that are each there once."""
    records = list(records)
    kept, nodes = _settled(records, selection)
    taken = [
        (record, _keeps(record, kept.get(record.record_id, (1.0, 1.0, 1.0))))
        for record in records
        if record.pod_method != NODES_OWN and _is_taken(record, selection)
    ]
    found = {}
    for name, keys in GROUPINGS.items():
        if name == "phases":  # no record of these tests marks any: tests/report/test_phases.py
            found[name] = {}
            continue
        groups = defaultdict(list)
        for record, amounts in taken:
            dimensions = _dimensions(record)
            groups[tuple(dimensions[key] for key in keys)].append((record, amounts))
        found[name] = {key: _measures(group) for key, group in groups.items()}
    return found, None if selection.projects else nodes


def moment(text):
    """A time with a zone, in the years that count; else None."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    if found.tzinfo is None or not 2000 <= found.year < 2200:
        return None
    return found.astimezone(UTC)


def _bound(text):
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _takes(start, selection):
    if (selection.since or selection.until) and start is None:
        return False
    if selection.since and start < _bound(selection.since):
        return False
    return not selection.until or start < _bound(selection.until)


def _is_taken(record, selection):
    if selection.projects and record.project not in selection.projects:
        return False
    return _takes(moment(record.window_start), selection)


def _settled(records, selection):
    """What each record keeps by its id, and the balance of each node."""
    known = Nodes()
    claims = Claims(known)
    for record in records:
        try:
            claims.add(record, Place.of(record))
        except NoPlaceInTime:
            claims.add(record, None)
    kept, balances = {}, {}
    for node in claims.node_numbers():
        balance = Balance(known.names[node])
        for stretch in settle(claims.of_node(node)):
            for claim, parts in zip(stretch.claims, stretch.kept or (), strict=False):
                kept[records[claim.row].record_id] = parts
            start = datetime.fromtimestamp(stretch.start_s, UTC)
            if _takes(start, selection):
                grams = [
                    records[claim.row].pue * records[claim.row].carbon_intensity_g_per_kwh
                    for claim in stretch.claims
                    if None
                    not in (
                        records[claim.row].pue,
                        records[claim.row].carbon_intensity_g_per_kwh,
                    )
                ]
                balance.add_stretch(stretch, sum(grams) / len(grams) if grams else None)
        if balance.end_s > balance.start_s:
            balances[node, balance.node] = balance
    return kept, balances


def _keeps(record, kept):
    """The amounts of a record after settling."""
    amounts = {name: getattr(record, name) for name in SUMS}
    amounts |= {name: getattr(record, name) for name in BOUNDS}
    parts = [getattr(record, f"{name}_energy_kwh") or 0.0 for name in ("cpu", "ram", "gpu")]
    cut = sum(part * (1 - keep) for part, keep in zip(parts, kept, strict=True))
    amounts["energy_taken_off_kwh"] = cut
    if cut <= 0:
        return amounts
    left = max(0.0, 1 - cut / sum(parts))
    factors = dict.fromkeys(IN_PROPORTION, left)
    for name, keep in zip(("cpu", "ram", "gpu"), kept, strict=True):
        factors |= {f"{name}_energy_kwh": keep, f"{name}_reserved_idle_energy_kwh": keep}
    for name, factor in factors.items():
        if amounts.get(name) is not None:
            amounts[name] *= factor
    if amounts["energy_kwh"] is not None:
        amounts["energy_kwh"] = max(0.0, amounts["energy_kwh"] - cut)
    return amounts


def _dimensions(record):
    start = moment(record.window_start)
    return {
        "project": record.project,
        "experiment": record.experiment,
        "run": record.run_id or None,
        "namespace": record.namespace,
        "workload": record.workload,
        "pool": _pool(record),
        "region": record.region,
        "day": start and start.date().isoformat(),
        "weekday": start and start.weekday(),
        "hour": start and start.hour,
    }


def _pool(record):
    for text, pattern in (
        (record.vm_scale_set, r"aks-([a-z0-9]+)-[0-9]+-vmss\Z"),
        (record.node, r"aks-([a-z0-9]+)-[0-9]+-vmss"),
    ):
        match = re.match(pattern, text or "")
        if match:
            return match[1]
    return None


def _measures(group):
    metered = [(record, amounts) for record, amounts in group if record.event != "start"]
    values = {name: _sum(amounts[name] for _, amounts in metered) for name in SUMS}
    starts = [moment(record.window_start) for record, _ in group]
    ends = [moment(record.window_end) for record, _ in group]
    starts, ends = list(filter(None, starts)), list(filter(None, ends))
    for column, names in (
        ("quality", ("measured", "estimated", "modelled")),
        ("carbon_intensity_level", ("zone", "country", "world", "set")),
    ):
        for name in names:
            values[f"energy_{name}_kwh"] = math.fsum(
                amounts["energy_kwh"] or 0.0
                for record, amounts in metered
                if (getattr(record, column) or "set") == name
            )
    values["cpu_utilization"] = _mean(_use(metered, "cpu_utilization"))
    values["gpu_utilization"] = _mean(_use(metered, "gpu_utilization"))
    values["carbon_intensity_time_weighted_g_per_kwh"] = _mean(
        (record.carbon_intensity_g_per_kwh, record.duration_s)
        for record, _ in metered
        if record.carbon_intensity_g_per_kwh is not None
    )
    both = [
        (amounts["emissions_g"], amounts["facility_energy_kwh"])
        for _, amounts in metered
        if None not in (amounts["emissions_g"], amounts["facility_energy_kwh"])
    ]
    facility = math.fsum(energy for _, energy in both)
    values["carbon_intensity_g_per_kwh"] = (
        math.fsum(grams for grams, _ in both) / facility if facility else None
    )
    of_runs = [(record, amounts) for record, amounts in metered if record.run_id]
    of_gpus = [(record, amounts) for record, amounts in metered if (_gpu_hours(record) or 0) > 0]
    for suffix, some in (("", metered), ("_of_runs", of_runs), ("_of_gpus", of_gpus)):
        values[f"emissions{suffix}_g"] = _sum(amounts["emissions_g"] for _, amounts in some)
        values[f"embodied{suffix}_g"] = _sum(amounts["embodied_g"] for _, amounts in some)
        low, high = (
            zip(*(_bounds(amounts) for _, amounts in some), strict=True) if some else ((), ())
        )
        values[f"emissions_low{suffix}_g"], values[f"emissions_high{suffix}_g"] = (
            _sum(low),
            _sum(high),
        )
    known = [amounts for _, amounts in metered if amounts["emissions_g"] is not None]
    bounded = [amounts for amounts in known if None not in [amounts[name] for name in BOUNDS]]
    if not bounded:
        values |= dict.fromkeys(BOUNDS)
    values["energy_with_emissions_kwh"] = _sum(amounts["energy_kwh"] for amounts in known)
    values["facility_energy_with_emissions_kwh"] = _sum(
        amounts["facility_energy_kwh"] for amounts in known
    )
    measures = Measures(
        records=len(metered),
        records_without_bounds=len(known) - len(bounded),
        records_without_embodied=sum(amounts["embodied_g"] is None for _, amounts in metered),
        records_without_emissions=sum(amounts["emissions_g"] is None for _, amounts in metered),
        runs=len({(record.project, record.run_id) for record, _ in group if record.run_id}),
        pods=len({record.pod_uid or record.pod for record, _ in group} - {None, ""}),
        window_start=rfc3339(min(starts).timestamp()) if starts else None,
        window_end=rfc3339(max(ends).timestamp()) if ends else None,
        energy_taken_off_kwh=math.fsum(amounts["energy_taken_off_kwh"] for _, amounts in metered),
        gpu_hours=_sum(_gpu_hours(record) for record, _ in metered),
        **values,
    )
    assert {item.name for item in fields(measures)} >= values.keys()
    return measures


def _bounds(amounts):
    """Of what is known, at least and at most; without bounds it is itself."""
    grams = amounts["emissions_g"]
    if grams is None:
        return None, None
    low, high = (grams if amounts[name] is None else amounts[name] for name in BOUNDS)
    return min(low, grams), max(high, grams)


def _gpu_hours(record):
    shares = [g.share for g in record.gpus if g.share is not None and 0 <= g.share <= 1 + 1e-6]
    return sum(shares) * record.duration_s / 3600 if shares else None


def _use(metered, column):
    for record, _ in metered:
        value = getattr(record, column)
        if value is not None and 0 <= value <= 1 + 1e-6:
            yield value, record.duration_s


def _sum(values):
    known = [value for value in values if value is not None]
    return math.fsum(known) if known else None


def _mean(weighted):
    known = list(weighted)
    weight = math.fsum(weight for _, weight in known)
    return math.fsum(value * weight for value, weight in known) / weight if weight else None
