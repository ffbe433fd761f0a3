"""The numbers of the page about attribution are what the code computes, and it names what there is.

`python -m tests.contract.test_attribution_page` writes the tables into the page.
"""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from sidecar.estimate.attribution import shares_of
from sidecar.estimate.emissions import estimate_window
from sidecar.meters.pod.requests import Reservation
from sidecar.meters.reading import NodeUsage, PodMethod
from sidecar.report.settle import Claim, DeviceClaim, settle_stretch
from tests.estimate.far_ends import IDLE_W, MAX_W
from tests.estimate.histories import history_names, read_history
from tests.estimate.peers import rows
from tests.estimate.sidecars import factors_of
from tests.estimate.usages import gpu_usage

PAGE = Path(__file__).parent.parent.parent / "docs" / "explanation" / "attribution.md"
HOUR_S = 3600.0

# -- the worked example: one hour of a node, two pods ------------------------------------------------

NODE = NodeUsage(
    duration_s=HOUR_S,
    cpus=24,
    cpu_busy_s=6 * HOUR_S,
    cpu_total_s=24 * HOUR_S,
    memory_total_gib=220.0,
    memory_used_gib=None,
    package_energy_uj=None,
    gpus=(
        gpu_usage(uuid="GPU-0", energy_mj=720_000_000, utilization=None),
        gpu_usage(uuid="GPU-1", energy_mj=187_200_000, utilization=None),
    ),
    pod_cpu_s=None,
    pod_working_set_gib=None,
)  # fmt: skip

PODS = {
    "A": (Reservation(8.0, 100.0, 1.0), 5 * HOUR_S, 60.0, (1.0, 0.0)),
    "B": (Reservation(4.0, 64.0, 0.0), 0.8 * HOUR_S, 12.0, (0.0, 0.0)),
}


def estimate_of(pod, method):
    reservation, cpu_s, working_set_gib, device_shares = PODS[pod]
    usage = replace(NODE, pod_method=method)
    if method == "cgroup":
        gpus = tuple(
            replace(gpu, pod_share=share, share_method="node-meter")
            for gpu, share in zip(NODE.gpus, device_shares, strict=True)
        )
        usage = replace(usage, pod_cpu_s=cpu_s, pod_working_set_gib=working_set_gib, gpus=gpus)
    return estimate_window(usage, shares_of(usage, reservation, 2.0), factors_of(NODE))


def claim_of(row, pod, method):
    estimate = estimate_of(pod, method)
    is_measured = method == "cgroup"
    devices = tuple(
        DeviceClaim(number, gpu.energy.value, gpu.share or 0.0, is_measured)
        for number, gpu in enumerate(estimate.gpus)
    )
    return Claim(
        row=row,
        boot=row,
        start_s=0.0,
        end_s=HOUR_S,
        is_nodes_own=False,
        is_measured=is_measured,
        rank=(0, 0, 0),
        energy_kwh=energies(estimate),
        node_kwh=of_node(estimate),
        devices=devices,
    )


def energies(estimate):
    return tuple(part.value for part in (estimate.cpu, estimate.ram, estimate.gpu))


def of_node(estimate):
    return tuple(part.value for part in (estimate.node_cpu, estimate.node_ram, estimate.node_gpu))


SCENES = {
    "measured (`node-meter`, `cgroup`, …)": ("cgroup", "cgroup"),
    "`requests`": ("requests", "requests"),
    "`whole-node`, as recorded": ("whole-node", "whole-node"),
    "`whole-node`, settled": ("whole-node", "whole-node"),
    "A measured, B `whole-node`, as recorded": ("cgroup", "whole-node"),
    "A measured, B `whole-node`, settled": ("cgroup", "whole-node"),
}


def example_rows():
    for name, methods in SCENES.items():
        claims = [
            claim_of(n, pod, method)
            for n, (pod, method) in enumerate(zip(PODS, methods, strict=True))
        ]
        stretch = settle_stretch(claims)
        kept = stretch.kept if name.endswith("settled") and stretch.kept else [(1.0, 1.0, 1.0)] * 2
        got = [
            tuple(energy * part for energy, part in zip(claim.energy_kwh, parts, strict=True))
            for claim, parts in zip(claims, kept, strict=True)
        ]
        rest = sum(of_node(estimate_of("A", "cgroup"))) - sum(map(sum, got))
        yield name, got, 0.0 if abs(rest) < 1e-12 else rest


def example_table():
    lines = [
        "| | A: CPU + RAM + GPU | A | B: CPU + RAM + GPU | B | unallocated |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, got, rest in example_rows():
        cells = [cell for pod in got for cell in (" + ".join(map(wh, pod)), wh(sum(pod)))]
        sign = "−" if rest < 0 else ""
        lines.append(f"| {name} | {' | '.join(cells)} | {sign}{wh(rest)} |")
    return "\n".join(lines)


def wh(energy_kwh):
    return f"{abs(energy_kwh) * 1000:.2f}"


def node_table():
    node = estimate_of("A", "cgroup")
    idle_wh = IDLE_W * 24
    cpu, ram, gpu = (energy * 1000 for energy in of_node(node))
    return "\n".join(
        (
            "| of the node | | Wh |",
            "| --- | --- | --- |",
            f"| CPU, idle | 24 · {IDLE_W:g} W · 1 h | {idle_wh:.2f} |",
            f"| CPU, dynamic | 24 · ({MAX_W:g} − {IDLE_W:g}) W · 6/24 · 1 h | {cpu - idle_wh:.2f} |",
            f"| RAM | 0.399969 W/GiB · (220 − 2 · 24) GiB · 1 h | {ram:.2f} |",
            f"| GPU | counters: 200 Wh in use, 52 Wh idle | {gpu:.2f} |",
            f"| sum | | {cpu + ram + gpu:.2f} |",
        )
    )


def peers_table():
    names = history_names()
    head = " | ".join(f"{name}: error | attributed" for name in names)
    lines = [f"| split by | {head} |", "| --- |" + " --- |" * (2 * len(names))]
    for name, *figures in rows([read_history(name) for name in names]):
        cells = " | ".join(f"{figure:.1%}".replace("%", " %") for figure in figures)
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


TABLES = {"node": node_table, "example": example_table, "peers": peers_table}


def pattern_of(name):
    return re.compile(
        rf"(?P<begin><!-- computed: {name} -->\n\n)(?P<table>.*?)(?P<end>\n\n<!-- end -->)",
        re.DOTALL,
    )


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_the_page_is_what_the_code_computes(name):
    found = pattern_of(name).search(PAGE.read_text(encoding="utf-8"))
    assert found["table"] == TABLES[name](), "run python -m tests.contract.test_attribution_page"


def test_the_page_explains_every_method():
    text = PAGE.read_text(encoding="utf-8")
    assert [name for name in get_args(PodMethod) if f"`{name}`" not in text] == []


def test_the_example_conserves_energy_measured_requested_and_settled():
    for name, got, rest in example_rows():
        over = name.endswith("recorded")
        assert (rest < 0) == over, name
        assert all(math.isfinite(energy) for pod in got for energy in pod)


def test_the_shares_in_the_text_are_those_of_the_example():
    text = PAGE.read_text(encoding="utf-8")
    shares = estimate_of("A", "cgroup").shares
    assert f"s_cpu = 5 / 6 = {shares.cpu:.3f}" in text
    assert f"s_idle = 8 / 24 = {shares.idle:.3f}" in text
    assert f"s_ram = 60 / 220 = {shares.ram:.3f}" in text
    idle_wh = estimate_of("A", "cgroup").cpu_reserved_idle_kwh * 1000
    assert f"18.72 Wh · 8 / 24 · (1 − 5 / 8) = {idle_wh:.2f} Wh" in text


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    for name, table in TABLES.items():
        text = pattern_of(name).sub(lambda m, table=table: m["begin"] + table() + m["end"], text)
    PAGE.write_text(text, encoding="utf-8")
