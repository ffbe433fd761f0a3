"""The columns of records in tables: those of `EmissionRecord`, and what is derived from each alone.

Written once, in DuckDB's SQL: whatever the engine that adds up, records are read, checked and derived
by one reader, and travel on as Parquet. Amounts keep their names and units.
"""

import json
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, cast, get_args, get_origin, get_type_hints

from sidecar.phases import NAME_CHARACTERS_MAX, NAMES_MAX, SECONDS_MAX
from sidecar.record import SCHEMA, EmissionRecord, GpuRecord
from sidecar.report.claims import LARGEST_KWH, SHORTEST_S
from sidecar.report.settle import LEAST_KWH

ABSURD: Final = 1e15
"""No amount of a record is as large, in any of its units: sums stay finite and exact enough."""

SHARE_MAX: Final = 1 + 1e-6
"""Shares and utilisations above it are of nothing, and are not known then."""

MAP: Final = "MAP(VARCHAR, VARCHAR)"
PHASES: Final = "MAP(VARCHAR, DOUBLE)"
_MAPS: Final = (MAP, PHASES)

_LATER: Final = ("phases", "carbon_intensity_at", "carbon_intensity_kind")
"""Columns that came after the first version: the lines of older sidecars end before them."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the schema: its type in SQL, whether it may be null, and the texts it may hold."""

    name: str
    sql_type: str
    is_nullable: bool
    allowed: tuple[str, ...] = ()


def _columns_of(schema: type) -> Iterator[Column]:
    hints = get_type_hints(schema)
    for item in fields(schema):
        hint, options = hints[item.name], cast("tuple[str, ...]", ())
        is_nullable = isinstance(hint, types.UnionType) or get_origin(hint) is typing.Union
        if is_nullable:
            (hint,) = (part for part in get_args(hint) if part is not type(None))
        if get_origin(hint) is typing.Literal:
            options, hint = get_args(hint), str
        yield Column(item.name, _sql_type(hint), is_nullable, options)


def _sql_type(hint: Any) -> str:  # noqa: ANN401 - any type of a field
    if get_origin(hint) is tuple:
        parts = ", ".join(f"{item.name} {item.sql_type}" for item in GPU_COLUMNS)
        return f"STRUCT({parts})[]"
    if get_origin(hint) is not None:
        return PHASES if get_args(hint)[1] is float else MAP
    return {str: "VARCHAR", float: "DOUBLE", int: "BIGINT"}[hint]


GPU_COLUMNS: Final = tuple(_columns_of(GpuRecord))
COLUMNS: Final = tuple(_columns_of(EmissionRecord))
AMOUNTS: Final = tuple(
    item.name
    for item in COLUMNS
    if item.sql_type == "DOUBLE"
    and item.name.endswith(("_kwh", "_g", "_l", "_s", "_seconds", "_gib"))
)
"""Numbers that are never negative, as `sidecar.validation` has them."""

BY_RESERVATION: Final = ("requests", "whole-node", "process-tree")
"""Ways to find the share of a GPU that do not look at the device, as `claims` has them."""

KEPT: Final = ("kept_cpu", "kept_ram", "kept_gpu")
"""The part (0..1) a settled record keeps of each component; null where it keeps all."""


def structure() -> str:
    """Return the type of a record for DuckDB's `from_json`."""
    kinds: dict[str, Any] = {item.name: item.sql_type for item in COLUMNS}
    kinds["gpus"] = [{item.name: item.sql_type for item in GPU_COLUMNS}]
    return json.dumps(kinds)


# -- is a line what the schema says? -----------------------------------------------------------------

OURS: Final = "ours"
"""The shape of a line as `sidecar.record.to_ndjson` writes it: known without taking it apart."""

_TEXT: Final = r'"(?:[^"\\]|\\.)*"'
_TOKENS: Final = {"VARCHAR": _TEXT, "DOUBLE": r"-?[0-9][0-9.eE+-]*", "BIGINT": "-?[0-9]+"}


def line_pattern() -> str:
    """Return the regular expression (RE2) of a line as `sidecar.record.to_ndjson` writes it.

    Whether its texts and numbers are JSON is left to the parser.
    """
    return _object_pattern(COLUMNS)


def _object_pattern(columns: Iterable[Column]) -> str:
    pattern = r"\{"
    for number, item in enumerate(columns):
        member = f'{"," if number else ""}"{item.name}":{_value_pattern(item)}'
        pattern += f"(?:{member})?" if item.name in _LATER else member
    return pattern + r"\}"


def _value_pattern(column: Column) -> str:
    if column.name == "gpus":
        return _several(r"\[", _object_pattern(GPU_COLUMNS), r"\]")
    if column.sql_type in _MAPS:
        value = _TEXT if column.sql_type == MAP else _TOKENS["DOUBLE"]
        token = _several(r"\{", f"{_TEXT}:{value}", r"\}")
    else:
        token = _TOKENS[column.sql_type]
    return f"(?:{token}|null)" if column.is_nullable else token


def _several(begin: str, member: str, end: str) -> str:
    return f"{begin}(?:{member}(?:,{member})*)?{end}"


_NUMBERS: Final = frozenset({"UBIGINT", "BIGINT", "DOUBLE", "HUGEINT"})
_ACCEPTED: Final[Mapping[str, frozenset[str]]] = {
    "VARCHAR": frozenset({"VARCHAR"}),
    "DOUBLE": _NUMBERS,
    "BIGINT": frozenset({"UBIGINT", "BIGINT"}),
}


def is_sound_shape(shape: Any) -> bool:  # noqa: ANN401 - JSON of any form
    """Tell whether a line of this shape (DuckDB's `json_structure`) surely is a record by its types.

    What is not surely one is looked at line by line (`sidecar.report.read`), so no is always right.
    """
    return isinstance(shape, dict) and all(_fits(item, shape) for item in COLUMNS)


def _fits(column: Column, shape: Mapping[str, Any]) -> bool:
    kind = shape.get(column.name, "NULL")
    if column.name == "gpus":
        return isinstance(kind, list) and len(kind) == 1 and _is_sound_list(kind[0])
    if kind == "NULL":
        return column.is_nullable
    if column.sql_type in _MAPS:
        members = frozenset({"VARCHAR"}) if column.sql_type == MAP else _NUMBERS
        # An empty object's members have no type.
        return kind == "JSON" or (isinstance(kind, dict) and _kinds(kind) <= members)
    return isinstance(kind, str) and kind in _ACCEPTED[column.sql_type]


def _kinds(shape: Mapping[str, Any]) -> set[str]:
    """Return the types of an object's members; one that is not plain is of none."""
    return {kind if isinstance(kind, str) else "" for kind in shape.values()}


def _is_sound_list(member: Any) -> bool:  # noqa: ANN401
    if member == "NULL":
        return True
    return isinstance(member, dict) and all(_fits(item, member) for item in GPU_COLUMNS)


def sound_sql() -> str:
    """Return the SQL that tells whether a line's values are sure to be a record's."""
    reals = [item.name for item in COLUMNS if item.sql_type == "DOUBLE"]
    tests = [f"schema = {SCHEMA}", "record_id <> ''"]
    tests += [f"{_moment(name)} IS NOT NULL" for name in ("window_start", "window_end")]
    tests += [
        f"coalesce({item.name}, '{item.allowed[0]}') IN {item.allowed}"
        for item in COLUMNS
        if item.allowed
    ]
    tests += [f"coalesce({name}, 0.0) BETWEEN 0.0 AND {ABSURD!r}" for name in AMOUNTS]
    tests += [f"isfinite(coalesce({name}, 0.0))" for name in reals if name not in AMOUNTS]
    tests += [f"{item.name} IS NOT NULL" for item in COLUMNS if item.sql_type == MAP]
    tests.append(f"phases IS NULL OR ({_sound_phases_sql()})")
    tests.append(f"len(list_filter(gpus, lambda g: {_sound_gpu_sql()})) = len(gpus)")
    return _all(tests)


def _sound_gpu_sql() -> str:
    reals = [item.name for item in GPU_COLUMNS if item.sql_type == "DOUBLE"]
    return _all(["g.model IS NOT NULL", *(f"isfinite(coalesce(g.{name}, 0.0))" for name in reals)])


def _sound_phases_sql() -> str:
    """Tell of phases that they surely are as `sidecar.validation` wants them; other names are for it."""
    name = f"[!-~]([ -~]{{0,{NAME_CHARACTERS_MAX - 2}}}[!-~])?"
    number = "cardinality(phases)"
    tests = [
        f"{number} <= {NAMES_MAX + 1}",
        f"len(list_filter(map_keys(phases), lambda n: regexp_full_match(n, '{name}'))) = {number}",
        f"len(list_filter(map_values(phases), lambda s: s BETWEEN 0 AND {SECONDS_MAX!r})) = {number}",
    ]
    return _all(tests)


def _all(tests: Iterable[str]) -> str:
    return "coalesce(" + " AND ".join(f"({test})" for test in tests) + ", false)"


# -- what is derived -----------------------------------------------------------------------------------

CANONICAL_TIME: Final = r"2[01]\d{2}-\d{2}-\d{2}T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?Z"
"""Times as sidecars write them, of the years in `sidecar.validation.YEARS`."""

_RECORD_ID: Final = r"^([A-Za-z0-9-]{1,64}\.[A-Za-z0-9-]{1,64})\.(0|[1-9][0-9]{0,11})$"
_POOL: Final = "^aks-([a-z0-9]+)-[0-9]+-vmss"
_NODE_ENERGIES: Final = tuple(
    f"{whose}{part}_energy_kwh" for whose in ("", "node_") for part in ("cpu", "ram", "gpu")
)


def _moment(name: str) -> str:
    """Return SQL for the time in a column of text, UTC; null where it is none."""
    return (
        f"CASE WHEN regexp_full_match({name}, '{CANONICAL_TIME}') "
        f"THEN try_cast(left({name}, length({name}) - 1) AS TIMESTAMP) END"
    )


def _comparable() -> str:
    """Return SQL that tells whether a record can be compared with others of its node.

    As `sidecar.report.claims` does: it metered for some time and no more than a node can, and its id
    and times say when.
    """
    plausible = [f"coalesce({name}, 0.0) <= {LARGEST_KWH!r}" for name in _NODE_ENERGIES]
    tests = ["event <> 'start'", "boot IS NOT NULL", "start_us IS NOT NULL", "end_us IS NOT NULL"]
    return _all([*tests, *plausible, "(node IS NOT NULL OR vm_id IS NOT NULL)"])


_NODE_KEY: Final = (
    "CAST(to_json([cluster, node, "
    "CASE WHEN node IS NOT NULL AND cluster IS NOT NULL THEN NULL ELSE vm_id END]) AS VARCHAR)"
)
_DEVICES: Final = (
    f"list_filter(gpus, lambda g: g.energy_kwh BETWEEN 0.0 AND {LARGEST_KWH!r} "
    f"AND coalesce(g.share, 0.0) BETWEEN 0.0 AND {SHARE_MAX!r})"
)
"""The devices whose numbers are not lies, as `claims` takes them."""

_SHARES: Final = f"list_filter(gpus, lambda g: g.share BETWEEN 0.0 AND {SHARE_MAX!r})"

_DERIVED: Final[tuple[Mapping[str, str], ...]] = (
    {
        "start_at": _moment("window_start"),
        "end_at": _moment("window_end"),
        "boot": f"nullif(regexp_extract(record_id, '{_RECORD_ID}', 1), '')",
        "sequence": f"try_cast(nullif(regexp_extract(record_id, '{_RECORD_ID}', 2), '') AS BIGINT)",
    },
    {
        "start_us": "epoch_us(start_at)",
        "end_us": "epoch_us(end_at)",
        "day": "strftime(start_at, '%Y-%m-%d')",
        "weekday": "isodow(start_at) - 1",
        "hour": "hour(start_at)",
        "pool": (
            f"coalesce(nullif(regexp_extract(vm_scale_set, '{_POOL}$', 1), ''), "
            f"nullif(regexp_extract(node, '{_POOL}', 1), ''))"
        ),
        "pod_key": "coalesce(nullif(pod_uid, ''), nullif(pod, ''))",
        "gpu_hours": (
            f"list_sum(list_transform({_SHARES}, lambda g: g.share)) * duration_s / 3600.0"
        ),
    },
    {"node_key": f"CASE WHEN {_comparable()} THEN {_NODE_KEY} END"},
    {
        "start_s": "CASE WHEN node_key IS NOT NULL THEN start_us / 1e6 END",
        # Where the clock was set back it ends where it would have; settling needs a length.
        "until_s": (
            "CASE WHEN node_key IS NOT NULL THEN CASE WHEN end_us > start_us THEN end_us / 1e6 "
            f"ELSE start_us / 1e6 + greatest({SHORTEST_S!r}, duration_s) END END"
        ),
        "node_name": "coalesce(node, 'VM ' || vm_id)",
        "gpu_measured_part": (
            f"CASE WHEN list_sum(list_transform({_DEVICES}, lambda g: g.energy_kwh)) >= {LEAST_KWH!r} "
            f"THEN coalesce(list_sum(list_transform(list_filter({_DEVICES}, lambda g: coalesce("
            f"g.share_method, 'requests') NOT IN {BY_RESERVATION}), lambda g: g.energy_kwh)), 0.0) / "
            f"list_sum(list_transform({_DEVICES}, lambda g: g.energy_kwh)) END"
        ),
    },
)
DERIVED: Final[Mapping[str, str]] = {
    "boot": "VARCHAR",
    "sequence": "BIGINT",
    "start_us": "BIGINT",
    "end_us": "BIGINT",
    "day": "VARCHAR",
    "weekday": "BIGINT",
    "hour": "BIGINT",
    "pool": "VARCHAR",
    "pod_key": "VARCHAR",
    "gpu_hours": "DOUBLE",
    "node_key": "VARCHAR",
    "start_s": "DOUBLE",
    "until_s": "DOUBLE",
    "node_name": "VARCHAR",
    "gpu_measured_part": "DOUBLE",
}
"""Columns beside those of the record. `boot` and `sequence` are of its id; `start_us` and `end_us`
microseconds since the epoch; `day`, `weekday` (0 is Monday) and `hour` of the start, UTC; `gpu_hours`
Σ share · duration; `node_key` the node of a record that can be compared with others, `start_s` and
`until_s` the seconds of its window then; `gpu_measured_part` how much of the devices' energy is claimed
by a share that looks at the device."""


def derived_sql(source: str) -> str:
    """Return a query with all columns of records and those derived, of a query with the former."""
    query = source
    for step in _DERIVED:
        added = ", ".join(
            f"CAST({sql} AS {DERIVED[name]}) AS {name}" if name in DERIVED else f"{sql} AS {name}"
            for name, sql in step.items()
        )
        query = f"SELECT *, {added} FROM ({query})"  # noqa: S608 - of this module's texts alone
    return f"SELECT * EXCLUDE (start_at, end_at) FROM ({query})"  # noqa: S608
