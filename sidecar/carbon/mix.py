"""Carbon intensity of an energy mix: the shares of its sources times their life-cycle intensity."""

import math
from collections.abc import Iterable, Mapping

from sidecar.catalogue.rows import EnergySource
from sidecar.units import Figure


def parse_mix(text: str, known: Iterable[EnergySource]) -> dict[EnergySource, float]:
    """Shares (they sum to 1) of a mix such as `coal=20,gas=30,wind=50`, in percent or any unit.

    Raises ValueError on an unknown source, a source named twice, and an amount that is no finite
    number, is negative, or zero throughout.
    """
    sources = tuple(known)
    by_name = {name: source for source in sources for name in (source.name, *source.aliases)}
    amounts: dict[EnergySource, float] = {}
    for part in text.split(","):
        name, _, amount = part.partition("=")
        source = by_name.get(" ".join(name.replace("_", " ").split()).casefold())
        if source is None:
            names = ", ".join(known_source.name for known_source in sources)
            raise ValueError(
                f"energy mix {text!r}: unknown source {name.strip()!r}; write it like "
                f"coal=20,gas=30,wind=50 with {names}"
            )
        if source in amounts:
            raise ValueError(f"energy mix {text!r}: {source.name} is named twice; add the two up")
        amounts[source] = _amount(text, source.name, amount)
    return _normalised(text, amounts)


def mix_figure(shares: Mapping[EnergySource, float]) -> Figure:
    """Weighted mean of the sources' life-cycle intensities in gCO2e/kWh; its bounds likewise.

    The shares sum to 1. The year is that of the oldest factor used.
    """
    used = [(source, share) for source, share in shares.items() if share > 0]
    value = _mean((source.intensity.value, share) for source, share in used)
    low = _mean((source.intensity.low, share) for source, share in used)
    high = _mean((source.intensity.high, share) for source, share in used)
    years = [source.intensity.year for source, _ in used if source.intensity.year is not None]
    parts = ", ".join(f"{source.name} {100 * share:.3g} %" for source, share in used)
    # Without the detail behind the colon, which differs by energy source.
    origins = "; ".join(dict.fromkeys(source.intensity.source.split(": ")[0] for source, _ in used))
    return Figure(
        value=value,
        unit=used[0][0].intensity.unit,
        low=min(low, value),
        high=max(high, value),
        source=f"computed from energy mix ({parts}); {origins}",
        year=min(years, default=None),
    )


def _amount(text: str, name: str, amount: str) -> float:
    try:
        value = float(amount.strip().removesuffix("%"))
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise ValueError(
            f"energy mix {text!r}: {amount.strip()!r} is no amount of {name}; give a number of 0 "
            f"or more, such as {name}=20"
        )
    return value


def _normalised(text: str, amounts: Mapping[EnergySource, float]) -> dict[EnergySource, float]:
    # Scaled by the largest first, so that no sum overflows.
    largest = max(amounts.values())
    if largest == 0:
        raise ValueError(f"energy mix {text!r}: all amounts are zero; give at least one share")
    scaled = {source: amount / largest for source, amount in amounts.items()}
    total = math.fsum(scaled.values())
    return {source: amount / total for source, amount in scaled.items()}


def _mean(weighted: Iterable[tuple[float, float]]) -> float:
    """Weighted mean that rounding cannot push beyond its terms."""
    terms = tuple(weighted)
    mean = math.fsum(value * share for value, share in terms)
    return min(max(mean, min(terms)[0]), max(terms)[0])
