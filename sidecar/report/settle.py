"""Settle the pods of one node: claims of more energy than it had are cut down to it. Pure.

Sidecars of one method conserve energy without talking to one another (`estimate.attribution`). Where
methods mix (one pod measured, its neighbour by its requests), or late answers and tick rounding blur
use, single records can claim too much together. So for each stretch of a node's time, and for CPU, RAM
and GPU each (GPUs device by device first, then all of them):

1. The node's energy E is what those say who know it best (`Claim.rank`), of these who cover most of
   the stretch, and of these the highest: readings of one node at nearly one time differ by their
   jitter, and with the highest no claims of one method are cut for it. Time that they do not cover is
   told by others.
2. Measured claims M_i come first: kept is M_i · min(1, E / Σ M).
3. Estimated claims X_i share what is left, X_i · min(1, (E − Σ kept M) / Σ X); and at each moment no
   more than what the measured ones leave of the node's highest power then, so that a pod that claims
   the whole node for a minute gets nothing of the hour around it.
4. unallocated = E − Σ kept − what pods without records used (only a node meter knows these). It is its
   own line and never spread.

Claims are only ever cut, so Σ pods + untracked + unallocated = E holds by construction.

A stretch is the shortest time that no window reaches out of: with windows of one length that is one
window, with 15 s beside 60 s a minute. So every record lies in one stretch as a whole; only the cap at a
moment spreads it, evenly over its window. Shorter would be wrong: a record of 60 s does not say when in
the minute its energy was used.

Sources that look now and then (`Claim.is_late`) blur a burst into the windows beside it. Over all
windows their sums are right, so where such a stretch does not fit, all of the same ten minutes are
settled as one: what does not fit in one window fits in the next.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

COMPONENTS: Final = ("cpu", "ram", "gpu")
CPU, RAM, GPU = range(3)

TOUCH_S: Final = 0.002
"""Windows whose names overlap by less only touch: both times are rounded to a millisecond."""

NO_UUID: Final = -1
"""Stands for the GPUs that only the VM's size tells of: nobody can say which of them is which."""

LATE_SPAN_S: Final = 600.0
"""Ten minutes of the clock: many times what late answers blur, and a part of a day."""

LEAST_KWH: Final = 1e-18
"""Some picojoules: less is no energy, and would be divided by."""

LEAST_SHARE: Final = 1e-6
"""A smaller share of a device does not tell the device's energy."""

ROUNDING: Final = 1e-12
"""Claims that exceed by less (relative) are within: sums of floats, taken in another order."""


class DeviceClaim(NamedTuple):
    """A GPU in a record: kWh of it claimed, and the share (0..1) that is of the device's energy."""

    device: int
    energy_kwh: float
    share: float
    is_measured: bool


class Claim(NamedTuple):
    """One record of one pod (kWh, NaN where null; CPU, RAM, GPU), in seconds of its node's time.

    `row` is the caller's name for it, `boot` the process that wrote it. `rank` tells who knows the node
    better (higher), for each component. With `is_nodes_own` it is the node meter's: it says what the
    node used (`node_kwh`) and what no pod did (`energy_kwh`), and claims nothing. The window has a
    length, and energies are finite and not negative. With `is_late` CPU energy may be of the windows
    beside it.
    """

    row: int
    boot: int
    start_s: float
    end_s: float
    is_nodes_own: bool
    is_measured: bool
    rank: tuple[int, int, int]
    energy_kwh: tuple[float, float, float]
    node_kwh: tuple[float, float, float]
    devices: tuple[DeviceClaim, ...] = ()
    is_late: bool = False


class Part(NamedTuple):
    """What one claim wants of one pool of energy; `claim` is its place among the stretch's claims."""

    claim: int
    start_s: float
    end_s: float
    energy_kwh: float
    is_measured: bool


class Told(NamedTuple):
    """What one record says that a pool of energy had in the record's window."""

    boot: int
    start_s: float
    end_s: float
    energy_kwh: float
    rank: int


@dataclass(frozen=True, slots=True)
class Balance:
    """One component over one stretch, kWh: node = pods + untracked + unallocated.

    `claimed` is what the records of pods claim, `pods` what they keep of it. `untracked` is what pods
    without records used; 0 where there is no node meter to tell, it is then inside `unallocated`.
    """

    node: float
    claimed: float
    pods: float
    untracked: float

    @property
    def unallocated(self) -> float:
        """Return what no pod used: never spread."""
        return max(0.0, self.node - self.pods - self.untracked)


@dataclass(frozen=True, slots=True)
class Stretch:
    """A settled stretch of a node's time.

    `kept` is, for each claim, the part (0..1) it keeps of each component; None where all keep all.
    """

    start_s: float
    end_s: float
    claims: Sequence[Claim]
    balances: tuple[Balance, Balance, Balance]
    kept: tuple[tuple[float, float, float], ...] | None


def settle(claims: Iterable[Claim]) -> Iterator[Stretch]:
    """Settle the claims of one node, given in the order of their starts; one stretch at a time."""
    for _, span in itertools.groupby(stretches(claims), key=_span):
        apart = [settle_stretch(stretch) for stretch in span]
        if len(apart) > 1 and _is_blurred(apart):
            yield settle_stretch([claim for stretch in apart for claim in stretch.claims])
        else:
            yield from apart


def _span(stretch: Sequence[Claim]) -> float:
    """Return which ten minutes of the clock a stretch begins in."""
    return stretch[0].start_s // LATE_SPAN_S


def _is_blurred(apart: Sequence[Stretch]) -> bool:
    """Whether CPU claims are cut in some of these stretches, and late answers may be why."""
    is_late = any(claim.is_late for stretch in apart for claim in stretch.claims)
    return is_late and any(parts[CPU] < 1 for stretch in apart for parts in stretch.kept or ())


def stretches(claims: Iterable[Claim]) -> Iterator[list[Claim]]:
    """Part claims, in the order of their starts, where no window reaches over."""
    gathered: list[Claim] = []
    end_s = -math.inf
    for claim in claims:
        if gathered and claim.start_s > end_s - TOUCH_S:
            yield gathered
            gathered, end_s = [], -math.inf
        gathered.append(claim)
        end_s = max(end_s, claim.end_s)
    if gathered:
        yield gathered


def settle_stretch(claims: Sequence[Claim]) -> Stretch:
    """Settle claims whose windows hang together."""
    if len(claims) == 1 and (alone := _settled_alone(claims[0])):
        return Stretch(claims[0].start_s, claims[0].end_s, claims, alone, None)
    settled = [_settle_component(claims, component) for component in (CPU, RAM)]
    settled.append(_settle_gpus(claims))
    kept: tuple[tuple[float, float, float], ...] | None = None
    if any(parts is not None for _, parts in settled):
        whole = [1.0] * len(claims)
        cpu, ram, gpu = (whole if parts is None else parts for _, parts in settled)
        kept = tuple(zip(cpu, ram, gpu, strict=True))
    cpu_balance, ram_balance, gpu_balance = (balance for balance, _ in settled)
    return Stretch(
        start_s=min(claim.start_s for claim in claims),
        end_s=max(claim.end_s for claim in claims),
        claims=claims,
        balances=(cpu_balance, ram_balance, gpu_balance),
        kept=kept,
    )


def _settled_alone(claim: Claim) -> tuple[Balance, Balance, Balance] | None:
    """Settle a pod that has the node for itself, the usual case; None where it claims too much."""
    if claim.is_nodes_own:
        return None
    balances: list[Balance] = []
    for energy, node in zip(claim.energy_kwh, claim.node_kwh, strict=True):
        claimed = energy if energy > 0 else 0.0  # NaN is not
        known = node if node >= 0 else claimed
        if claimed > known:
            return None
        balances.append(Balance(known, claimed, claimed, 0.0))
    cpu, ram, gpu = balances
    return cpu, ram, gpu


# -- one component -----------------------------------------------------------------------------------


def _settle_component(
    claims: Sequence[Claim], component: int
) -> tuple[Balance, list[float] | None]:
    """Return the balance, and the part of it that each claim keeps (None: all of it)."""
    parts = [
        Part(n, claim.start_s, claim.end_s, claim.energy_kwh[component], claim.is_measured)
        for n, claim in enumerate(claims)
        if not claim.is_nodes_own and claim.energy_kwh[component] > 0
    ]
    told = _told(claims, component)
    node = pool_energy(told)
    return _outcome(claims, component, parts, cut(parts, node, told), node)


def _outcome(
    claims: Sequence[Claim],
    component: int,
    parts: list[Part],
    kept: list[float] | None,
    node: float,
) -> tuple[Balance, list[float] | None]:
    """Put together what becomes of a component; `kept` are the kWh that the parts keep."""
    claimed = math.fsum(part.energy_kwh for part in parts)
    pods = claimed if kept is None else math.fsum(kept)
    known = 0.0 if math.isnan(node) else node
    untracked = min(max(0.0, _all_pods(claims, component) - pods), max(0.0, known - pods))
    balance = Balance(known, claimed, pods, untracked)
    return balance, None if kept is None else fractions(parts, kept, len(claims))


def fractions(parts: Sequence[Part], kept: Sequence[float], claims: int) -> list[float]:
    """Return the part (0..1) that each claim keeps of what all its parts want."""
    wanted, left = [0.0] * claims, [0.0] * claims
    for part, energy in zip(parts, kept, strict=True):
        wanted[part.claim] += part.energy_kwh
        left[part.claim] += energy
    return [
        min(1.0, have / want) if want > 0 else 1.0 for have, want in zip(left, wanted, strict=True)
    ]


def _all_pods(claims: Sequence[Claim], component: int) -> float:
    """Return what all pods used, with records or without, as the node's own meter counts it."""
    own = (
        claim.node_kwh[component] - claim.energy_kwh[component]
        for claim in claims
        if claim.is_nodes_own
    )
    return math.fsum(energy for energy in own if energy > 0)  # NaN is not


def _told(claims: Sequence[Claim], component: int) -> list[Told]:
    """Gather what records say of the node; where one says nothing it had at least what that claims."""
    told: list[Told] = []
    for claim in claims:
        energy, rank = claim.node_kwh[component], claim.rank[component]
        if math.isnan(energy):
            energy, rank = claim.energy_kwh[component], -1
        if not math.isnan(energy):
            told.append(Told(claim.boot, claim.start_s, claim.end_s, energy, rank))
    return told


# -- GPUs --------------------------------------------------------------------------------------------


def _settle_gpus(claims: Sequence[Claim]) -> tuple[Balance, list[float] | None]:
    """Settle each device that several pods claim, then all devices together.

    A sidecar may see its own devices only: the node has at least all that are claimed.
    """
    told = _told(claims, GPU)
    node = pool_energy(told)
    wanted = _gpu_parts(claims)
    if len({claim.boot for claim in claims}) < 2 or not any(claim.devices for claim in claims):
        return _outcome(claims, GPU, wanted, cut(wanted, node, told), node)
    devices = _settle_devices(claims)
    if devices.are_seen_in_part and devices.energy_kwh > node:
        node, told = devices.energy_kwh, []  # nobody tells the node's power at a moment
    within = [
        part._replace(energy_kwh=part.energy_kwh * devices.kept.get((part.claim, place), 1.0))
        for place, part in _places(wanted)
    ]
    kept = cut(within, node, told)
    if kept is None and devices.kept:
        kept = [part.energy_kwh for part in within]
    return _outcome(claims, GPU, wanted, kept, node)


def _gpu_parts(claims: Sequence[Claim]) -> list[Part]:
    """Part each claim by devices in proportion to what its record says of them; else it is one part."""
    parts: list[Part] = []
    for n, claim in enumerate(claims):
        whole = claim.energy_kwh[GPU]
        if claim.is_nodes_own or not whole > 0:
            continue
        total = math.fsum(device.energy_kwh for device in claim.devices)
        if total < LEAST_KWH:
            parts.append(Part(n, claim.start_s, claim.end_s, whole, claim.is_measured))
            continue
        parts += [
            Part(
                n,
                claim.start_s,
                claim.end_s,
                whole * device.energy_kwh / total,
                device.is_measured,
            )
            for device in claim.devices
        ]
    return parts


def _places(parts: list[Part]) -> Iterator[tuple[int, Part]]:
    """Yield each part with its place among those of its claim."""
    for _, group in itertools.groupby(parts, key=lambda part: part.claim):
        yield from enumerate(group)


def _tells_its_device(device: DeviceClaim) -> bool:
    return device.energy_kwh >= LEAST_KWH and device.share >= LEAST_SHARE


class _Devices(NamedTuple):
    """All devices: their energy, and what is kept where it is not all, by claim and place in it."""

    energy_kwh: float
    kept: dict[tuple[int, int], float]
    are_seen_in_part: bool


def _settle_devices(claims: Sequence[Claim]) -> _Devices:
    """Settle device by device. A share tells the device's energy: energy / share."""
    parts: dict[int, list[Part]] = {}
    places: dict[int, list[int]] = {}
    told: dict[int, list[Told]] = {}
    for n, claim in enumerate(claims):
        window = (claim.start_s, claim.end_s)
        for place, device in enumerate(claim.devices):
            if device.device == NO_UUID or not _tells_its_device(device):
                continue
            said = Told(claim.boot, *window, device.energy_kwh / device.share, claim.rank[GPU])
            told.setdefault(device.device, []).append(said)
            if not claim.is_nodes_own:
                part = Part(n, *window, device.energy_kwh, device.is_measured)
                parts.setdefault(device.device, []).append(part)
                places.setdefault(device.device, []).append(place)
    kept: dict[tuple[int, int], float] = {}
    pools = {uuid: pool_energy(said_of) for uuid, said_of in told.items()}
    for uuid, wanted in parts.items():
        left = cut(wanted, pools[uuid], told[uuid]) or ()
        for part, place, energy in zip(wanted, places[uuid], left, strict=False):
            kept[part.claim, place] = energy / part.energy_kwh
    seen = {device.device for claim in claims for device in claim.devices} - {NO_UUID}
    most = max(len(claim.devices) for claim in claims)
    return _Devices(math.fsum(pools.values()), kept, are_seen_in_part=len(seen) > most)


# -- one pool of energy ------------------------------------------------------------------------------


def pool_energy(told: Sequence[Told]) -> float:
    """Return what a pool of energy had over the stretch, kWh; NaN where nobody says."""
    if len(told) < 2:
        return told[0].energy_kwh if told else math.nan
    of_boots: dict[int, list[Told]] = {}
    for item in told:
        of_boots.setdefault(item.boot, []).append(item)
    boot, items = max(of_boots.items(), key=_knowledge)
    energy = math.fsum(item.energy_kwh for item in items)
    span_s = max(item.end_s for item in told) - min(item.start_s for item in told)
    if len(of_boots) == 1 or _covered_s(items) >= span_s - TOUCH_S:
        return energy
    for length_s, places in moments(told):
        if all(told[place].boot != boot for place in places):
            energy += _highest_kw([told[place] for place in places]) * length_s
    return energy


def _knowledge(boot: tuple[int, list[Told]]) -> tuple[int, float, float]:
    _, items = boot
    energy = math.fsum(item.energy_kwh for item in items)
    return min(item.rank for item in items), round(_covered_s(items), 2), energy


def _covered_s(items: Sequence[Told]) -> float:
    return math.fsum(map(_length_s, items))


def _length_s(item: Part | Told) -> float:
    return item.end_s - item.start_s


def _highest_kw(told: Sequence[Told]) -> float:
    """Return the highest power (kWh per second) among those who know best; 0 where nobody tells."""
    best = max((item.rank for item in told), default=0)
    known = (item for item in told if item.rank == best)
    return max((item.energy_kwh / _length_s(item) for item in known), default=0.0)


def moments(windows: Sequence[Part | Told]) -> Iterator[tuple[float, list[int]]]:
    """Yield the seconds between each two boundaries, and which windows hold them."""
    changes = sorted(
        change
        for place, window in enumerate(windows)
        for change in ((window.start_s, 1, place), (window.end_s, 0, place))
    )
    active: dict[int, None] = {}
    for (moment_s, begins, place), (next_s, _, _) in itertools.pairwise(changes):
        if begins:
            active[place] = None
        else:
            active.pop(place, None)
        if active and next_s > moment_s:
            yield next_s - moment_s, list(active)


def cut(parts: Sequence[Part], pool: float, told: Sequence[Told]) -> list[float] | None:
    """Return the kWh that each part keeps of a pool of so many kWh; None where all keep all.

    Without `told`, what is there at a moment is not looked at.
    """
    if not parts or math.isnan(pool):
        return None
    wanted = [part.energy_kwh for part in parts]
    measured = math.fsum(part.energy_kwh for part in parts if part.is_measured)
    factor = 1.0 if measured <= pool * (1 + ROUNDING) else pool / measured
    kept = [part.energy_kwh * (factor if part.is_measured else 1.0) for part in parts]
    places = [place for place, part in enumerate(parts) if not part.is_measured]
    if places:
        if told and not _is_one_window(parts):
            _cut_at_moments(parts, kept, told)
        left = max(0.0, pool - measured * factor)
        estimated = math.fsum(kept[place] for place in places)
        if estimated > left + pool * ROUNDING:
            for place in places:
                kept[place] *= left / estimated
    return None if kept == wanted else kept


def _is_one_window(parts: Sequence[Part]) -> bool:
    first = parts[0]
    return all(part.start_s == first.start_s and part.end_s == first.end_s for part in parts)


def _cut_at_moments(parts: Sequence[Part], kept: list[float], told: Sequence[Told]) -> None:
    """Cut estimated parts to what measured ones leave of the node's highest power at each moment."""
    windows: list[Part | Told] = [*parts, *told]
    taken = [0.0] * len(parts)
    for length_s, places in moments(windows):
        here = [place for place in places if place < len(parts)]
        powers = {place: kept[place] / _length_s(parts[place]) for place in here}
        estimated = [place for place in here if not parts[place].is_measured]
        wanted = math.fsum(powers[place] for place in estimated)
        most = _highest_kw([told[place - len(parts)] for place in places if place >= len(parts)])
        room = max(0.0, most - math.fsum(powers.values()) + wanted)
        if wanted > room + most * ROUNDING:
            for place in estimated:
                taken[place] += powers[place] * (1 - room / wanted) * length_s
    for place, energy in enumerate(taken):
        kept[place] = max(0.0, kept[place] - energy)
