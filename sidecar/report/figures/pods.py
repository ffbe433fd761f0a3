"""Pods that asked to be tracked and of which records are missing. What they told is in no sum."""

from collections.abc import Iterable
from dataclasses import asdict, fields
from typing import Any, Final

from sidecar.report.figures.inputs import Amounts, MissingPod, PodsLookedUp
from sidecar.report.figures.numbers import total

PODS_SHOWN: Final = 1000
"""Pods that are named of each list; the counts are of all."""

_AMOUNTS: Final = tuple(item.name for item in fields(Amounts))


def pods_coverage(looked_up: PodsLookedUp | None) -> dict[str, Any]:
    """Return the pods without records, and those whose last ones are missing.

    The lists are null where nobody looked, or `pods_failure` says why nothing came of it. Pods that
    begin only now are counted apart: their records are still to come.
    """
    if looked_up is None or looked_up.failure is not None:
        unknown = ("pods_asked", "pods_without_records", "pods_incomplete", "pods_not_arrived")
        counts = ("pods_without_records_count", "pods_incomplete_count", "pods_starting_count")
        failure = None if looked_up is None else looked_up.failure
        return {"pods_failure": failure, **dict.fromkeys((*unknown, *counts))}
    missing = looked_up.missing
    without = [pod for pod in missing if pod.kind not in {"starting", "incomplete"}]
    incomplete = [pod for pod in missing if pod.kind == "incomplete"]
    return {
        "pods_failure": None,
        "pods_asked": looked_up.asked,
        "pods_without_records_count": len(without),
        "pods_without_records": _listed(without),
        "pods_incomplete_count": len(incomplete),
        "pods_incomplete": _listed(incomplete),
        "pods_starting_count": sum(pod.kind == "starting" for pod in missing),
        "pods_not_arrived": {
            name: total(getattr(pod.amounts, name) for pod in missing) for name in _AMOUNTS
        },
    }


def _listed(pods: Iterable[MissingPod]) -> list[dict[str, Any]]:
    """Return the first pods: those that told most, then by name."""
    ordered = sorted(
        pods, key=lambda pod: (-(pod.amounts.energy_kwh or 0.0), pod.namespace, pod.pod)
    )
    return [_row(pod) for pod in ordered[:PODS_SHOWN]]


def _row(pod: MissingPod) -> dict[str, Any]:
    return {
        "namespace": pod.namespace,
        "pod": pod.pod,
        "kind": pod.kind,
        "reason": pod.reason,
        "project": pod.project,
        "records": pod.records,
        **asdict(pod.amounts),
    }
