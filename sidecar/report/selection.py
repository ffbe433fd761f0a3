"""Which records a report is asked for."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Selection:
    """Which records count: projects by name (none = all), and windows by their start, RFC 3339.

    `since` is included, `until` is not.
    """

    projects: frozenset[str] = frozenset()
    since: str = ""
    until: str = ""
