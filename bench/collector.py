"""What the collector takes: segments per second beside Starlette endpoints in the same run.

All are processes of their own, get the same segments from the same client over kept connections, and
take turns round by round, so that other work on the machine hits all. The collector does all that it
does in a cluster: reviews tokens (with a fake Kubernetes API), checks every record, and commits each
segment to a directory before it answers. Beside it: `bare` reads the body and answers; `durable`
inflates it, too, and stores it as the collector does, without a look at what it is; `durable, JSON`
reads the lines before, as anybody must who wants to know whose records they are.

`--gibibytes` posts so much more, in segments as large as they may be, and watches the memory.
"""

import argparse
import http.client
import json
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from bench.figures import Figure, percentile, table
from bench.load import post_all, request_bytes
from bench.machine import Machine, file_system, memory_directory, this_machine
from bench.records import BOOT_ID, KINDS, POD, POD_UID, PodKind, recorded
from bench.servers import Server, cpu_clock_s, pod_number, resident_mib
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

BESIDE: Final = {"bare": (), "durable": ("durable",), "durable, JSON": ("durable", "--json")}
"""What the collector is compared with, and how it is begun."""

GIBIBYTE: Final = 1024**3
LARGE_BYTES: Final = 800_000
LARGE_RECORDS: Final = 40
"""Of the noise in a segment as large as it may be: compressed, that has some 0.9 MB of at most 1 MiB."""


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
    _chance: random.Random = field(default_factory=lambda: random.Random(0))
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
        return self._of_pod(self.templates[kind.name], pod, index)

    def _of_pod(self, ndjson: bytes, pod: int, index: int) -> bytes:
        owner = pod_number(pod)
        boot = f"{self._boots:04x}{index:08x}"
        changes = ((POD_UID, owner.pod_uid), (POD, owner.pod), (BOOT_ID, boot))
        for old, new in changes:
            ndjson = ndjson.replace(old.encode(), str(new).encode())
        return compressed(ndjson)

    def large_requests(self, count: int) -> list[bytes]:
        """Return segments as large as may be, of so many pods; their text does not compress well."""
        self._boots += 1
        line, *_ = self.templates[KINDS[0].name].splitlines(keepends=True)
        begin, _, rest = line.partition(f"{BOOT_ID}.".encode())
        _, _, end = rest.partition(b'"')
        ndjson = b""
        for number in range(LARGE_RECORDS):
            word = self._chance.randbytes(LARGE_BYTES // LARGE_RECORDS).hex()
            written = end.replace(
                b'"annotations":{', f'"annotations":{{"emissions/x":"{word}",'.encode()
            )
            ndjson += begin + f'{BOOT_ID}.{number}"'.encode() + written
        pods = [(self._boots * count + index) % PODS for index in range(count)]
        return [self._posted(pod, self._of_pod(ndjson, pod, pod)) for pod in pods]

    def _request(self, kind: PodKind, pod: int, index: int) -> bytes:
        return self._posted(pod, self.segment(kind, pod, index))

    def _posted(self, pod: int, content: bytes) -> bytes:
        headers = {
            "Authorization": f"Bearer {self.tokens[pod]}",
            "Content-Type": "application/gzip",
        }
        return request_bytes(SEGMENTS_PATH, content, headers)


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


@dataclass(frozen=True, slots=True)
class Servers:
    """The collector, what it is compared with, and the tokens of the pods that the collector knows."""

    collector: Measured
    beside: Sequence[Measured]
    tokens: Sequence[str]

    @property
    def all(self) -> Sequence[Measured]:
        return (self.collector, *self.beside)


@contextmanager
def servers(directory: Path, pods: int) -> Iterator[Servers]:
    """Start the collector, the endpoints beside it, and the API that the collector asks."""
    stored = directory / "stored"
    stored.mkdir()
    flags = ("--listen", "127.0.0.1:0", "--backend", "directory", "--transport-directory", stored)
    with ExitStack() as stack:
        cluster = stack.enter_context(Server("cluster", directory, "--pods", str(pods)))
        beside = [_beside(stack, name, directory) for name in BESIDE]
        env = environment(KUBECONFIG=cluster.about["kubeconfig"])
        log = directory / "collector.log"
        collector = stack.enter_context(Running("collector", *flags, log=log, env=env))
        url = collector.until(lambda: _listening(collector.log))
        until(lambda: _status(url, "/readyz") == 200)
        measured = Measured("collector", url, collector.process.pid)
        yield Servers(measured, beside, cluster.about["tokens"])


def _beside(stack: ExitStack, name: str, directory: Path) -> Measured:
    command, *options = BESIDE[name] or ("bare",)
    arguments: list[str | Path] = [command]
    if command == "durable":
        place = directory / name.replace(", ", "-")
        place.mkdir()
        arguments += [place, *options]
    server = stack.enter_context(Server(*arguments))
    return Measured(name, server.about["url"], server.process.pid)


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

    def ratio(self, name: str) -> Figure:
        """The collector's segments per second over those of another, round by round."""
        pairs = zip(self.by_server["collector"], self.by_server[name], strict=True)
        return Figure.of(ours.per_s / other.per_s for ours, other in pairs)

    @property
    def pods(self) -> float:
        """How many pods ship that many segments at the default flush interval."""
        per_s = Figure.of(one.per_s for one in self.by_server["collector"]).median
        return float(f"{per_s * Settings().flush_interval:.2g}")


def run_round(server: Measured, requests: Sequence[bytes], connections: int) -> Round:
    before_s = cpu_clock_s(server.pid)
    answers = post_all(server.url, requests, connections)
    return Round(
        answers.per_s,
        percentile(answers.latencies_s, 0.5),
        percentile(answers.latencies_s, 0.99),
        (cpu_clock_s(server.pid) - before_s) / len(requests),
    )


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks for."""

    rounds: int
    segments: int
    gibibytes: float


@dataclass(slots=True)
class Results:
    """All that was measured. `large_mib`: the collector's memory while large segments were posted."""

    place: str
    cases: list[Rounds]
    rss_mib: dict[str, list[float]] = field(default_factory=dict)
    reviews: int = 0
    posted: int = 0
    large_mib: list[float] = field(default_factory=list)


def measured(wanted: Wanted) -> Results:
    templates = {case.kind.name: template(case.kind) for case in CASES}
    fresh = sum(case.fresh for case in CASES) * wanted.rounds * wanted.segments
    with tempfile.TemporaryDirectory(prefix="bench-", dir=memory_directory()) as directory:
        place = Path(directory)
        with servers(place, PODS + fresh) as started:
            source = Source(templates, started.tokens)
            results = Results(file_system(place), [_empty(case, source) for case in CASES])
            _warm_up(started.all, source)
            results.rss_mib = {server.name: [resident_mib(server.pid)] for server in started.all}
            for number in range(wanted.rounds):
                turn = started.all if number % 2 else started.all[::-1]
                _one_of_each(results, turn, source, wanted.segments)
            for server in started.all:
                results.rss_mib[server.name].append(resident_mib(server.pid))
            results.reviews = reviews(started.collector)
            results.posted = sum(case.count(wanted.segments) for case in CASES) * wanted.rounds
            results.large_mib = list(post_large(started.collector, source, wanted.gibibytes))
    return results


def _empty(case: Case, source: Source) -> Rounds:
    return Rounds(case, len(source.segment(case.kind, 0, 0)))


def _warm_up(turn: Sequence[Measured], source: Source) -> None:
    for server in turn:
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


def post_large(collector: Measured, source: Source, gibibytes: float) -> Iterator[float]:
    """Post the largest segments, 16 at a time; yield the collector's memory as it goes, in MiB."""
    posted = 0
    while posted < gibibytes * GIBIBYTE:
        requests = source.large_requests(16)
        post_all(collector.url, requests, 16)
        posted += sum(map(len, requests))
        yield resident_mib(collector.pid)


# -- output --------------------------------------------------------------------------------------


def show(machine: Machine, results: Results, wanted: Wanted) -> None:
    print(
        f"Collector, {machine}\nsegments of {SEGMENT_RECORDS} records (5 min) to {results.place}; "
        f"median of {wanted.rounds} rounds (lowest–highest) of {wanted.segments} segments, a "
        f"{SINGLE_PART}th of them one at a time"
    )
    for rounds in results.cases:
        print(f"\n{rounds.case.name}; segments of {rounds.segment_bytes / 1000:.1f} kB")
        head = (
            "",
            "segments/s",
            "p50 ms",
            "p99 ms",
            "server CPU ms each",
            "collector's rate / its",
        )
        print(table(head, [_row(name, rounds) for name in ("collector", *BESIDE)]))
        if rounds.case.fresh:
            print(f"  at full load: what about {rounds.pods:,.0f} pods ship that flush each 5 min")
    print()
    for name, (before, after) in results.rss_mib.items():
        print(f"RSS of {name}: {before:.0f} MiB after warming up, {after:.0f} MiB at the end")
    print(
        f"{results.posted} segments posted to each after warming up; {results.reviews} tokens reviewed"
    )
    if results.large_mib:
        tenth = max(1, len(results.large_mib) // 10)
        begin, end = max(results.large_mib[:tenth]), max(results.large_mib[-tenth:])
        print(
            f"{wanted.gibibytes:g} GiB in segments of 0.9 MB, 16 at a time: RSS of "
            f"the collector {begin:.0f} MiB in the first tenth, {end:.0f} MiB in the last, "
            f"{max(results.large_mib):.0f} MiB at most"
        )


def _row(name: str, rounds: Rounds) -> tuple[str, ...]:
    taken = rounds.by_server[name]
    return (
        name,
        Figure.of(one.per_s for one in taken).shown(),
        Figure.of(one.p50_s for one in taken).shown(1e3),
        Figure.of(one.p99_s for one in taken).shown(1e3),
        Figure.of(one.cpu_s for one in taken).shown(1e3),
        "" if name == "collector" else rounds.ratio(name).shown(),
    )


def as_json(machine: Machine, results: Results, wanted: Wanted) -> dict[str, Any]:
    return {
        "machine": machine.as_json(),
        "wanted": asdict(wanted),
        "records_per_segment": SEGMENT_RECORDS,
        "stored_on": results.place,
        "cases": [
            {
                "case": rounds.case.name,
                "segment_bytes": rounds.segment_bytes,
                "ratio": {name: rounds.ratio(name).as_json() for name in BESIDE},
                **{
                    name: [asdict(one) for one in taken] for name, taken in rounds.by_server.items()
                },
            }
            for rounds in results.cases
        ],
        "rss_mib_before_and_after": results.rss_mib,
        "large_mib": results.large_mib,
        "token_reviews": results.reviews,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.collector", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--json", action="store_true", help="print JSON in place of tables")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default 5)")
    parser.add_argument(
        "--segments", type=int, default=200, help="segments per case and round (default 200)"
    )
    parser.add_argument(
        "--gibibytes", type=float, default=0.1, help="in large segments at the end (default 0.1)"
    )
    given = parser.parse_args()
    if given.rounds < 1 or given.segments < 1:
        parser.error("--rounds and --segments are 1 or more")
    wanted = Wanted(given.rounds, given.segments, given.gibibytes)
    machine = this_machine()
    results = measured(wanted)
    if given.json:
        print(json.dumps(as_json(machine, results, wanted), indent=2))
    else:
        show(machine, results, wanted)


if __name__ == "__main__":
    main()
