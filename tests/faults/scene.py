"""Pods that ship, a far side, and what of it arrived there."""

import itertools
import json
import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sidecar.record import EmissionRecord, to_ndjson
from sidecar.segment import SegmentName, decompressed
from tests.e2e.commands import Running, environment, sidecar
from tests.fakes.azurite import Azurite
from tests.fakes.fault_proxy import FaultProxy
from tests.fakes.kubernetes_api import FakeKubernetesApi
from tests.report.histories import START_S, Clock, Process

KILLED = "no end"
"""What `verify` notices of a process that was killed."""

QUICK = ("--interval", "1s", "--flush-interval", "1s")
"""The shortest windows there are, each shipped as it ends."""

Row = dict[str, Any]

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Pod:
    """A pod alone on its node: the records of two never claim more than one node together."""

    number: int = 0
    project: str = "demo"
    namespace: str = "team-a"

    @property
    def uid(self) -> str:
        return f"{self.number:08d}-0000-4000-8000-00000000000a"

    @property
    def name(self) -> str:
        return f"train-{self.number}"

    @property
    def node(self) -> str:
        return f"node-{self.number}"

    @property
    def environment(self) -> dict[str, str]:
        """What the downward API gives it."""
        return {
            "POD_UID": self.uid,
            "POD_NAME": self.name,
            "POD_NAMESPACE": self.namespace,
            "NODE_NAME": self.node,
            "EMISSIONS_PROJECT": self.project,
            "EMISSIONS_ATTRIBUTION": "whole-node",
        }

    def token(self, api: FakeKubernetesApi, **about: Any) -> str:
        """Its projected token for the collector."""
        known = {
            "namespace": self.namespace,
            "pod": self.name,
            "pod_uid": self.uid,
            "node": self.node,
        }
        return api.token(**{**known, **about})

    def history(self, windows: int = 3, boot: str = "boot") -> list[EmissionRecord]:
        """Records of one whole process of it, no window like another."""
        dice = random.Random(windows)
        process = Process(stem=f"{self.uid}.{boot}", clock=Clock(START_S)).begin()
        for _ in range(windows):
            process.meter(round(dice.uniform(1, 60), 3), run_id=f"{dice.getrandbits(120):x}")
        columns = {
            "project": self.project,
            "namespace": self.namespace,
            "pod": self.name,
            "node": self.node,
        }
        return [replace(record, **columns) for record in process.end().records]


def ndjson(records: Iterable[EmissionRecord]) -> bytes:
    """One segment of these records."""
    return "".join(map(to_ndjson, records)).encode()


def sidecar_of(
    pod: Pod, volume: Path, *arguments: str, log: Path | None = None, **env: str
) -> Running:
    """`run` in a pod, shipping the way `env` says. Its log goes beside the volume."""
    log = log or volume.parent / f"{pod.name}-{next(_numbers)}.log"
    return Running(
        *("run", "--volume", volume, *QUICK, *arguments),
        log=log,
        env=environment(**pod.environment, **env),
    )


def through_collector(url: str, token: str, directory: Path) -> dict[str, str]:
    """Settings of a sidecar that ships through a collector."""
    file = directory / f"token-{next(_numbers)}"
    file.write_text(token)
    return {
        "EMISSIONS_TRANSPORT": "collector",
        "EMISSIONS_COLLECTOR_URL": url,
        "EMISSIONS_COLLECTOR_TOKEN_FILE": str(file),
    }


# -- the volume --------------------------------------------------------------------------------------


def segments_on(volume: Path) -> list[Path]:
    """Segments on a volume, open and closed."""
    paths = (volume / "records").glob("*.ndjson*")
    return sorted(path for path in paths if SegmentName.of_file(path.name))


def rows_on(volume: Path) -> list[Row]:
    """Records on a volume while a process may write, ship and delete them: whole lines only."""
    rows: dict[str, Row] = {}
    for path in segments_on(volume):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            continue
        text = decompressed(content) if path.suffix == ".gz" else content
        for line in text.splitlines(keepends=True):
            if line.endswith(b"\n"):
                row = json.loads(line)
                rows[row["record_id"]] = row
    return list(rows.values())


def ids(rows: Iterable[Row]) -> set[str]:
    """Their record ids."""
    return {row["record_id"] for row in rows}


def sequences(rows: Iterable[Row]) -> list[int]:
    """Sequence numbers of one process's records, in order."""
    return sorted(int(row["record_id"].rpartition(".")[2]) for row in rows)


# -- the far side ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Store:
    """A container of Azurite, and how commands reach it."""

    azurite: Azurite
    container: str

    def credential(self, proxy: FaultProxy | None = None) -> dict[str, str]:
        """What names the container, through a proxy or not."""
        text = self.azurite.connection_string
        if proxy is not None:
            text = self.azurite.connection_string_at(proxy.host, proxy.port)
        return {
            "EMISSIONS_BLOB_CONNECTION_STRING": text,
            "EMISSIONS_BLOB_CONTAINER": self.container,
        }

    def shipping(self, proxy: FaultProxy | None = None) -> dict[str, str]:
        """Settings of a sidecar that ships straight here."""
        return {"EMISSIONS_TRANSPORT": "blob", **self.credential(proxy)}

    @property
    def blobs(self) -> dict[str, bytes]:
        return self.azurite.blobs(self.container)

    @property
    def names(self) -> list[str]:
        """Names of all blobs."""
        with self.azurite.container(self.container) as client:
            return sorted(client.list_blob_names())

    @property
    def rows(self) -> list[Row]:
        """Records of all blobs, blob by blob."""
        texts = [decompressed(content) for _, content in sorted(self.blobs.items())]
        return [json.loads(line) for text in texts for line in text.splitlines()]

    def grows_by(self, blobs: int, running: Running) -> None:
        """Wait until so many more have arrived."""
        goal = len(self.names) + blobs
        running.until(lambda: len(self.names) >= goal)

    def read(self, command: str) -> Row:
        """`verify` or `report` of it."""
        env = {"EMISSIONS_BLOB_CONNECTION_STRING": self.azurite.connection_string}
        return answer(command, f"az://{self.container}", **env)

    def verified(self, *notices: str) -> Row:
        """`verify` finds no violation, and notices exactly this."""
        return checked(self.read("verify"), notices)


def answer(command: str, source: str | Path, **env: str) -> Row:
    """The JSON of a command that reads records, and ends with 0."""
    source = str(source)
    outcome = sidecar(command, source, "--json", env=environment(**env))
    assert outcome.code == 0, outcome.stdout + outcome.stderr
    found: Row = json.loads(outcome.stdout)
    return found


def checked(verdict: Row, notices: Iterable[str]) -> Row:
    """The verdict, with no violation, no record twice, and exactly these notices."""
    assert verdict["violations"] == []
    assert verdict["duplicates"] == 0
    assert {notice["kind"] for notice in verdict["notices"]} == set(notices), verdict["notices"]
    return verdict


def verified(directory: Path, *notices: str) -> Row:
    """`verify` of a directory finds no violation, and notices exactly this."""
    return checked(answer("verify", directory), notices)


def segment_of(blob_name: str) -> SegmentName:
    """The segment's name; of one that was handed over, the plain one."""
    file = blob_name.rpartition("/")[2].replace(".handed-over", "")
    name = SegmentName.of_file(file)
    assert name is not None, blob_name
    return name


def status_url(running: Running) -> str:
    """Where `run --listen` serves its status."""

    def told() -> str:
        lines = [line for line in running.log.splitlines() if "listening on http" in line]
        return json.loads(lines[0])["message"].split()[-1] if lines else ""

    return running.until(told)
