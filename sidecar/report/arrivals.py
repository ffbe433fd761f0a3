"""Which pods that asked to be tracked have records, whatever was selected, and what is missing."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Final

import ibis
import ibis.expr.types as ir
import pyarrow as pa

from sidecar.report.claims import NODES_OWN
from sidecar.report.dataset import Dataset
from sidecar.report.engine import Engine
from sidecar.report.expressions import schema
from sidecar.report.figures.inputs import Amounts, MissingPod, PodKind, PodsLookedUp
from sidecar.report.tracked_pods import LastWords, TrackedPod

_AMOUNTS: Final = tuple(item.name for item in fields(Amounts))
_COLUMNS: Final = schema(("pod_key", "pod_method", "event", "start_us", *_AMOUNTS))
_ASKED: Final = {"uid": "string", "since_us": "int64"}

LEAST: Final = 1e-6
"""Part of what a sidecar told: less is rounding."""


def looked_up(pods: Sequence[TrackedPod], dataset: Dataset, engine: Engine) -> PodsLookedUp:
    """Compare the pods with all records of a dataset. Raises the engine's errors."""
    try:
        arrived = _arrived(pods, dataset, engine) if pods else {}
    finally:
        engine.close()
    missing = (_missing(pod, arrived.get(pod.uid)) for pod in pods)
    return PodsLookedUp(len(pods), tuple(pod for pod in missing if pod is not None))


def _missing(pod: TrackedPod, arrived: Amounts | None) -> MissingPod | None:
    """Return what is missing of a pod; None where nothing is."""
    words = pod.words or LastWords()
    kind: PodKind = pod.kind if arrived is None else "incomplete"
    rest = words.amounts if arrived is None else _rest(words, arrived)
    if rest is None:
        return None
    return MissingPod(
        pod.namespace, pod.pod, kind, pod.reason, words.project, words.unshipped_records, rest
    )


def _rest(words: LastWords, arrived: Amounts) -> Amounts | None:
    """Return what was told less what arrived; None where it is all there by now.

    Both are of the container's last life, and as records say it, before anything is settled.
    """
    if not (words.unshipped_records or words.refused_segments):
        return None
    if _since_us(words) is None:
        return Amounts()
    told = words.amounts
    energy_kwh = _less(told.energy_kwh, arrived.energy_kwh)
    if energy_kwh is not None and energy_kwh <= LEAST * (told.energy_kwh or 0.0):
        return None
    return Amounts(*(_less(getattr(told, name), getattr(arrived, name)) for name in _AMOUNTS))


def _less(told: float | None, arrived: float | None) -> float | None:
    return None if told is None or arrived is None else max(0.0, told - arrived)


def _since_us(words: LastWords | None) -> int | None:
    try:
        moment = datetime.fromisoformat((words and words.window_start) or "")
    except ValueError:
        return None
    return None if moment.tzinfo is None else round(moment.timestamp() * 1e6)


def _arrived(pods: Sequence[TrackedPod], dataset: Dataset, engine: Engine) -> Mapping[str, Amounts]:
    """Add up by pod what came since the start that its last words tell of; pods without records lack."""
    records = _records(dataset, engine)
    if records is None:
        return {}
    rows = {"uid": [pod.uid for pod in pods], "since_us": [_since_us(pod.words) for pod in pods]}
    types = pa.schema([("uid", pa.string()), ("since_us", pa.int64())])
    asked = engine.loaded("asked", pa.table(rows, schema=types), _ASKED)
    joined = records.inner_join(asked, records.pod_key == asked.uid)
    counts = (joined.event != "start") & (
        joined.since_us.isnull() | (joined.start_us >= joined.since_us)
    )
    sums = joined.group_by("uid").agg(**{name: joined[name].sum(where=counts) for name in _AMOUNTS})
    return {
        row.pop("uid"): Amounts(**row)
        for batch in engine.batches(sums)
        for row in batch.to_pylist()
    }


def _records(dataset: Dataset, engine: Engine) -> ir.Table | None:
    """Return all records of pods; None where there are none."""
    found = []
    if dataset.staged:
        found.append(engine.scanned("arrived_staged", dataset.staged, _COLUMNS))
    if dataset.days:
        paths = dataset.paths_of(dataset.days)
        found.append(engine.scanned("arrived_compacted", paths, _COLUMNS))
    if not found:
        return None
    records = ibis.union(*found) if len(found) > 1 else found[0]
    return records.filter(records.pod_method.fill_null("") != NODES_OWN)
