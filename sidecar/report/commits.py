"""Which compacted parts of a dataset count: the log of commits beside them.

Beside the records lies `compacted/`: parts (`project=…/month=…/part-<day>-<digest>.parquet`), the sums
of each day (`sums/…`), what became of the nodes' energy (`balances/…`), and
`commits/commit-<generation>.json`. A commit is made whole or not at all, and says which files hold a
day from now on and which they replace. A file that no commit names does not count: whoever is killed
in between leaves only such. Names are relative to `compacted/`.

A project with many records on a day has a part of its own, the others share one (`project=_several`), so
that there are few files however many projects there are. Days are never merged: a record that comes late
changes one day, and not a month.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

from sidecar.report.source import SourceUnreadable

FOLDER: Final = "compacted/"
COMMIT: Final = re.compile(
    r"(?P<base>(?:.*/)?compacted/)commits/commit-(?P<generation>\d{8})\.json"
)
RAW: Final = re.compile(r"(?P<base>(?:.*/)?compacted/)commits/raw-(?P<generation>\d{8})\.json\.gz")
PARQUET: Final = ".parquet"
FOREIGN: Final = "Parquet file that is no compacted part"

LAYOUT: Final = 1
"""Version of what commits and parts look like."""

SUMS_VERSION: Final = 2
"""Of the sums that are stored; those of another version are made anew from the records."""

COMMIT_BYTES_MAX: Final = 64 * 1024**2

_COUNTS: Final = ("records", "cut")
_DIGESTS: Final = ("ids", "sha256")
_DIGEST: Final = re.compile(r"[0-9A-Za-z]{0,128}", re.ASCII)
_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_NAME_CHARACTERS_MAX: Final = 1024
"""Of the name of a blob, as Azure has it."""


def is_of_compaction(name: str) -> bool:
    """Tell of a file whether it is where compaction writes."""
    return f"/{FOLDER}" in f"/{name}"


SEVERAL: Final = "_several"
"""Stands for the projects that share a part, in its name."""


@dataclass(frozen=True, slots=True)
class Part:
    """A file of records of one day, each once, settled. `cut` records keep less than all.

    `project` is None where several share it. `energy_kwh` is the sum before settling, `ids` a digest of
    the records' ids in any order.
    """

    name: str
    project: str | None
    day: str
    records: int
    cut: int
    energy_kwh: float
    ids: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Sums:
    """The file of a day's sums, by the hour (`sidecar.report.sums`), and what version they are of."""

    name: str
    version: int


@dataclass(frozen=True, slots=True)
class Commit:
    """What compaction of one day made: parts, sums and balances, and what these replace."""

    generation: int
    day: str
    parts: tuple[Part, ...]
    balances: str
    sums: Sums | None = None
    replaces: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """All files that it makes count."""
        sums = () if self.sums is None else (self.sums.name,)
        return (*(part.name for part in self.parts), *sums, self.balances)

    @property
    def name(self) -> str:
        """Its file, below `compacted/`."""
        return f"commits/commit-{self.generation:08d}.json"

    @property
    def raw_name(self) -> str:
        """The file that lists the raw files it holds; gone when these are."""
        return f"commits/raw-{self.generation:08d}.json.gz"

    def to_json(self) -> bytes:
        """Return the commit as its file holds it."""
        return json.dumps({"layout": LAYOUT, **asdict(self)}, ensure_ascii=True).encode() + b"\n"

    @classmethod
    def of_json(cls, content: bytes, name: str) -> Self:
        """Read a commit. Raises SourceUnreadable: without it no total would be true."""
        try:
            row: dict[str, Any] = json.loads(content)
            _require_sound(row, name)
            if row.pop("layout") != LAYOUT:
                raise SourceUnreadable(
                    f"{name}: made by a newer version of emissions-sidecar; update this one"
                )
            parts = tuple(Part(**part) for part in row.pop("parts"))
            replaces = tuple(row.pop("replaces"))
            sums = Sums(**found) if (found := row.pop("sums", None)) else None
            return cls(parts=parts, sums=sums, replaces=replaces, **row)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise SourceUnreadable(
                f"{name} is no commit of compacted records ({type(error).__name__}); restore it from "
                "a backup, the parts it names cannot be told from others without"
            ) from error


def _require_sound(row: Mapping[str, Any], name: str) -> None:
    """Raise ValueError where a commit says what no compaction writes; whoever wrote it is not trusted.

    Days stand in SQL and names lead to files.
    """
    match = COMMIT.fullmatch(name)
    numbered = [row["generation"], *(part[key] for part in row["parts"] for key in _COUNTS)]
    is_sound = (
        (match is None or row["generation"] == int(match["generation"]))
        and type(row["parts"]) is type(row["replaces"]) is list
        and all(type(number) is int and 0 <= number < 2**53 for number in numbered)
        and all(_DAY.fullmatch(day) for day in _days(row))
        and all(map(_is_name, _names(row)))
        and all(map(_is_measured, row["parts"]))
    )
    if not is_sound:
        raise ValueError("a value that no compaction writes")


def _days(row: Mapping[str, Any]) -> list[str]:
    return [row["day"], *(part["day"] for part in row["parts"])]


def _names(row: Mapping[str, Any]) -> list[object]:
    sums = row.get("sums")
    given = [row["balances"], *(part["name"] for part in row["parts"])]
    return [*given, *row["replaces"], *([sums["name"]] if sums else ())]


def _is_name(name: object) -> bool:
    """Whether it is a path below, of ordinary parts."""
    if not isinstance(name, str) or not name.isprintable() or "\\" in name:
        return False
    return len(name) <= _NAME_CHARACTERS_MAX and not {"", ".", ".."} & set(name.split("/"))


def _is_measured(part: Mapping[str, Any]) -> bool:
    energy_kwh = part["energy_kwh"]
    is_energy = type(energy_kwh) in (int, float) and 0 <= energy_kwh < math.inf
    is_of_one = isinstance(part["project"], str | None)
    return is_energy and is_of_one and all(_DIGEST.fullmatch(part[key]) for key in _DIGESTS)


@dataclass(frozen=True, slots=True)
class Live:
    """What counts of a folder `compacted/`, and the latest generation."""

    commits: tuple[Commit, ...] = ()

    @property
    def generation(self) -> int:
        """The latest; 0 = none."""
        return max((commit.generation for commit in self.commits), default=0)

    @property
    def standing(self) -> Sequence[Commit]:
        """The commits whose files count: those that no later one replaces.

        A day is compacted as a whole, so of a commit all counts or nothing. What did not change when a
        day was compacted again is stored under the same name, and counts by the later commit.
        """
        until: dict[str, int] = {}
        for commit in self.commits:
            until.update(dict.fromkeys(commit.replaces, commit.generation))
        return [
            commit
            for commit in self.commits
            if all(until.get(name, 0) <= commit.generation for name in commit.files)
        ]

    def names(self) -> set[str]:
        """All files that count, and the commits."""
        names = {name for commit in self.standing for name in commit.files}
        return names | {commit.name for commit in self.commits}

    @property
    def replaced(self) -> set[str]:
        """Files that counted once; the next compaction removes them."""
        return {name for commit in self.commits for name in commit.replaces} - self.names()


def live(commits: Iterable[Commit]) -> Live:
    """Put commits in their order."""
    return Live(tuple(sorted(commits, key=lambda commit: commit.generation)))
