"""What the collector takes: segments per second beside a bare Starlette endpoint in the same run.

Both are processes of their own, get the same segments from the same client over kept connections, and
take turns round by round, so that other work on the machine hits both. The collector does all that it
does in a cluster: reviews tokens (with a fake Kubernetes API), checks every record, and commits each
segment to a directory before it answers. The bare endpoint reads the body and answers.
"""

import argparse
import http.client
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from bench.figures import Figure, percentile, table
from bench.load import post_all, request_bytes
from bench.machine import Machine, file_system, memory_directory, this_machine
from bench.records import BOOT_ID, KINDS, POD, POD_UID, PodKind, recorded
from bench.servers import Server, cpu_s, pod_number, resident_mib
from sidecar.collector_client import SEGMENTS_PATH
from sidecar.record import to_ndjson
from sidecar.segment import compressed
from sidecar.settings import Settings
from tests.e2e.commands import Running, environment, messages, until

PODS: Final = 64
"""Pods that ship again and again: no single one meets the collector's limit per pod."""

SEGMENT_RECORDS: Final = 20
"""Windows of 15 s in the default flush interval of 5 min."""

SINGLE_PART: Final = 4


@dataclass(frozen=True, slots=True)
class Case:
    """What is posted. `fresh`: each segment comes from a pod not seen before, so its token is reviewed.

    So it is in a cluster, too: tokens are remembered for some seconds, and a pod ships each 5 minutes.
    """

    kind: PodKind
    connections: int
    fresh: bool = False

    def count(self, segments: int) -> int:
        """Return how many segments to post, of so many wanted: fewer where each waits for the last."""
        return segments if self.connections > 1 else max(1, segments // SINGLE_PART)

    @property
    def name(self) -> str:
        tokens = ", each token new" if self.fresh else ""
        return f"{self.kind.name}, {self.connections} at a time{tokens}"


CASES: Final = (
    Case(KINDS[0], 1),
    Case(KINDS[0], 16),
    Case(KINDS[0], 16, fresh=True),
    Case(KINDS[2], 1),
    Case(KINDS[2], 16),
)


# -- segments ------------------------------------------------------------------------------------


@dataclass
class Source:
    """Makes requests: segments of many pods and processes, all different, with their pods' tokens."""

    templates: dict[str, bytes]
    tokens: Sequence[str]
    _boots: int = 0
    _next_fresh: int = PODS

    def requests(self, case: Case, count: int) -> list[bytes]:
        first = self._next_fresh if case.fresh else 0
        if case.fresh:
            self._next_fresh += count
        self._boots += 1
        numbers = range(first, first + count) if case.fresh else [n % PODS for n in range(count)]
        return [self._request(case.kind, pod, index) for index, pod in enumerate(numbers)]

    def segment(self, kind: PodKind, pod: int, index: int) -> bytes:
        """Return the segment of a pod, of a process of its own."""
        owner = pod_number(pod)
        boot = f"{self._boots:04x}{index:08x}"
        changes = ((POD_UID, owner.pod_uid), (POD, owner.pod), (BOOT_ID, boot))
        ndjson = self.templates[kind.name]
        for old, new in changes:
            ndjson = ndjson.replace(old.encode(), str(new).encode())
        return compressed(ndjson)

    def _request(self, kind: PodKind, pod: int, index: int) -> bytes:
        headers = {
            "Authorization": f"Bearer {self.tokens[pod]}",
            "Content-Type": "application/gzip",
        }
        return request_bytes(SEGMENTS_PATH, self.segment(kind, pod, index), headers)


def template(kind: PodKind) -> bytes:
    """Return a segment of the default flush interval, as NDJSON."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=memory_directory()) as directory:
        records = recorded(kind, 0.2, Path(directory))
    windows = [record for record in records if record.event == "window"][:SEGMENT_RECORDS]
    if len(windows) < SEGMENT_RECORDS:
        raise RuntimeError(f"only {len(windows)} windows in 0.2 h")
    return "".join(map(to_ndjson, windows)).encode()


# -- servers -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Measured:
    """A server that is measured."""

    name: str
    url: str
    pid: int


@contextmanager
def servers(directory: Path, pods: int) -> Iterator[tuple[Measured, Measured, Sequence[str]]]:
    """Start the collector, the bare endpoint, and the API that the collector asks."""
    stored = directory / "stored"
    stored.mkdir()
    arguments = (
        "--listen",
        "127.0.0.1:0",
        "--backend",
        "directory",
        "--transport-directory",
        stored,
    )
    with Server("cluster", directory, "--pods", str(pods)) as cluster, Server("bare") as bare:
        env = environment(KUBECONFIG=cluster.about["kubeconfig"])
        log = directory / "collector.log"
        with Running("collector", *arguments, log=log, env=env) as collector:
            url = collector.until(lambda: _listening(collector.log))
            until(lambda: _status(url, "/readyz") == 200)
            yield (
                Measured("collector", url, collector.process.pid),
                Measured("bare", bare.about["url"], bare.process.pid),
                cluster.about["tokens"],
            )


def _listening(log: str) -> str:
    """Return where the collector listens, as its log says; nothing before it does."""
    lines = messages(log.rpartition("\n")[0]).splitlines()
    return next((line.split()[-1] for line in lines if line.startswith("listening on ")), "")


def _status(url: str, path: str) -> int:
    return _asked(url, path)[0]


def _asked(url: str, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def reviews(collector: Measured) -> int:
    """Return how many tokens the collector has had reviewed."""
    _, text = _asked(collector.url, "/metrics")
    name = "emissions_collector_token_reviews_total{"
    return sum(int(float(line.split()[-1])) for line in text.splitlines() if line.startswith(name))


# -- rounds --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Round:
    """One server, one case, once."""

    per_s: float
    p50_s: float
    p99_s: float
    cpu_s: float
    """CPU seconds of the server per segment."""


@dataclass(slots=True)
class Rounds:
    """What was measured of one case, by server."""

    case: Case
    segment_bytes: int
    by_server: dict[str, list[Round]] = field(default_factory=dict)

    @property
    def ratio(self) -> Figure:
        """The collector's segments per second over those of the bare endpoint, round by round."""
        pairs = zip(self.by_server["collector"], self.by_server["bare"], strict=True)
        return Figure.of(ours.per_s / bare.per_s for ours, bare in pairs)

    @property
    def pods(self) -> float:
        """How many pods ship that many segments at the default flush interval."""
        per_s = Figure.of(one.per_s for one in self.by_server["collector"]).median
        return float(f"{per_s * Settings().flush_interval:.2g}")


def run_round(server: Measured, requests: Sequence[bytes], connections: int) -> Round:
    before_s = cpu_s(server.pid)
    answers = post_all(server.url, requests, connections)
    return Round(
        answers.per_s,
        percentile(answers.latencies_s, 0.5),
        percentile(answers.latencies_s, 0.99),
        (cpu_s(server.pid) - before_s) / len(requests),
    )


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks for."""

    rounds: int
    segments: int


@dataclass(slots=True)
class Results:
    """All that was measured."""

    place: str
    cases: list[Rounds]
    rss_mib: dict[str, list[float]] = field(default_factory=dict)
    reviews: int = 0
    posted: int = 0


def measured(wanted: Wanted) -> Results:
    templates = {case.kind.name: template(case.kind) for case in CASES}
    fresh = sum(case.fresh for case in CASES) * wanted.rounds * wanted.segments
    with tempfile.TemporaryDirectory(prefix="bench-", dir=memory_directory()) as directory:
        place = Path(directory)
        with servers(place, PODS + fresh) as (collector, bare, tokens):
            source = Source(templates, tokens)
            results = Results(file_system(place), [_empty(case, source) for case in CASES])
            both = (collector, bare)
            _warm_up(both, source)
            results.rss_mib = {server.name: [resident_mib(server.pid)] for server in both}
            for number in range(wanted.rounds):
                _one_of_each(results, both if number % 2 else both[::-1], source, wanted.segments)
            for server in both:
                results.rss_mib[server.name].append(resident_mib(server.pid))
            results.reviews = reviews(collector)
            results.posted = sum(case.count(wanted.segments) for case in CASES) * wanted.rounds
    return results


def _empty(case: Case, source: Source) -> Rounds:
    return Rounds(case, len(source.segment(case.kind, 0, 0)))


def _warm_up(both: Sequence[Measured], source: Source) -> None:
    for server in both:
        for kind in (KINDS[0], KINDS[2]):
            run_round(server, source.requests(Case(kind, 16), PODS), 16)


def _one_of_each(results: Results, turn: Sequence[Measured], source: Source, segments: int) -> None:
    for rounds in results.cases:
        requests = source.requests(rounds.case, rounds.case.count(segments))
        first = source.requests(Case(rounds.case.kind, 16), PODS)
        for server in turn:
            post_all(server.url, first, 16)  # so that the tokens of these pods are known
            taken = run_round(server, requests, rounds.case.connections)
            rounds.by_server.setdefault(server.name, []).append(taken)


# -- output --------------------------------------------------------------------------------------


def show(machine: Machine, results: Results, wanted: Wanted) -> None:
    print(
        f"Collector, {machine}\nsegments of {SEGMENT_RECORDS} records (5 min) to {results.place}; "
        f"median of {wanted.rounds} rounds (lowest–highest) of {wanted.segments} segments, a "
        f"{SINGLE_PART}th of them one at a time"
    )
    for rounds in results.cases:
        print(f"\n{rounds.case.name}; segments of {rounds.segment_bytes / 1000:.1f} kB")
        head = ("", "segments/s", "p50 ms", "p99 ms", "server CPU ms each")
        print(table(head, [_row(name, rounds.by_server[name]) for name in ("collector", "bare")]))
        print(f"  collector / bare = {rounds.ratio.shown()}")
        if rounds.case.fresh:
            print(f"  at full load: what about {rounds.pods:,.0f} pods ship that flush each 5 min")
    print()
    for name, (before, after) in results.rss_mib.items():
        print(f"RSS of {name}: {before:.0f} MiB after warming up, {after:.0f} MiB at the end")
    print(
        f"{results.posted} segments posted to each after warming up; {results.reviews} tokens reviewed"
    )


def _row(name: str, rounds: Sequence[Round]) -> tuple[str, ...]:
    return (
        name,
        Figure.of(one.per_s for one in rounds).shown(),
        Figure.of(one.p50_s for one in rounds).shown(1e3),
        Figure.of(one.p99_s for one in rounds).shown(1e3),
        Figure.of(one.cpu_s for one in rounds).shown(1e3),
    )


def as_json(machine: Machine, results: Results, wanted: Wanted) -> dict[str, Any]:
    return {
        "machine": machine.as_json(),
        "rounds": wanted.rounds,
        "segments_per_round": wanted.segments,
        "records_per_segment": SEGMENT_RECORDS,
        "stored_on": results.place,
        "cases": [
            {
                "case": rounds.case.name,
                "segment_bytes": rounds.segment_bytes,
                "ratio": rounds.ratio.as_json(),
                **{
                    name: [asdict(one) for one in taken] for name, taken in rounds.by_server.items()
                },
            }
            for rounds in results.cases
        ],
        "rss_mib_before_and_after": results.rss_mib,
        "token_reviews": results.reviews,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.collector", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON in place of tables")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default 5)")
    parser.add_argument(
        "--segments", type=int, default=200, help="segments per case and round (default 200)"
    )
    given = parser.parse_args()
    if given.rounds < 1 or given.segments < 1:
        parser.error("--rounds and --segments are 1 or more")
    wanted = Wanted(given.rounds, given.segments)
    machine = this_machine()
    results = measured(wanted)
    if given.json:
        print(json.dumps(as_json(machine, results, wanted), indent=2))
    else:
        show(machine, results, wanted)


if __name__ == "__main__":
    main()
