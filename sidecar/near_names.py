"""Names close to a mistyped one, for the hint of an error."""

from collections.abc import Iterable

CUTOFF = 0.6
"""How alike they must be, 0 to 1, as difflib reckons it."""


def near_names(name: str, known: Iterable[str], most: int = 1, cutoff: float = CUTOFF) -> list[str]:
    """Return so many of the known names at most, closest first."""
    import difflib  # noqa: PLC0415 - of no use to who has typed everything right

    return difflib.get_close_matches(name, list(known), n=most, cutoff=cutoff)


def hint(near: list[str], otherwise: str) -> str:
    """Return the question whether the closest was meant; with none, what to do instead."""
    return f"did you mean {near[0]}?" if near else otherwise
