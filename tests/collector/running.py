"""A collector in a thread, and segments to send to it."""

import json
import threading
from dataclasses import replace

import requests

from sidecar.collector.app import Parts, collector_app
from sidecar.collector.cluster import open_cluster
from sidecar.collector.limits import Limits
from sidecar.record import EmissionRecord, to_ndjson
from sidecar.segment import compressed
from sidecar.serving import Service, Serving
from sidecar.transport.directory import DirectoryTransport
from tests.e2e.commands import PATIENCE_S, Running, environment, messages, until
from tests.fakes.kubernetes_api import AUDIENCE, Known

POD = Known()
BOOT = "b0071d00"


def record(sequence=1, owner=POD, **changes):
    """A record of a pod, by default that of the fake API's tokens."""
    base = EmissionRecord(
        record_id=f"{owner.pod_uid}.{BOOT}.{sequence}",
        tool_version="0.1.0",
        project="demo",
        cluster="aks-1",
        namespace=owner.namespace,
        pod=owner.pod,
        pod_uid=owner.pod_uid,
        node=owner.node,
        window_start="2026-11-22T08:00:00.000Z",
        window_end="2026-11-22T08:00:15.000Z",
        duration_s=15.0,
        energy_kwh=1.0,
    )
    return replace(base, **changes)


def ndjson(*records):
    return "".join(map(to_ndjson, records)).encode()


def segment(*records):
    return compressed(ndjson(*records or (record(),)))


class RunningCollector:
    """A collector in a thread of this process."""

    def __init__(
        self, api, root, tmp_path, *, backend=None, limits=None, serving=None, cluster=None, **parts
    ) -> None:
        kubeconfig = api.kubeconfig(tmp_path / "kubeconfig")
        self.parts = Parts(
            backend=backend or DirectoryTransport(root),
            cluster=cluster or open_cluster({"KUBECONFIG": str(kubeconfig)}),
            audience=AUDIENCE,
            limits=limits or Limits(),
            **parts,
        )
        serving = serving or Serving(host="127.0.0.1", port=0, drain_s=0, finish_s=5)
        self.service = Service(collector_app(self.parts), serving, self.parts.readiness)
        self._thread = threading.Thread(target=self.service.run)

    def start(self) -> None:
        self._thread.start()
        until(lambda: self.service.port)

    def stop(self) -> None:
        self.service.stop()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.service.port}"

    def get(self, path, token=None):
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return requests.get(self.url + path, headers=headers, timeout=PATIENCE_S)

    def post(self, content, token, **headers):
        return post(self.url, content, token, **headers)

    def metric(self, name, **labels) -> float:
        return self.parts.metrics.registry.get_sample_value(name, labels) or 0.0


def post(url, content, token, **headers):
    given = {"Authorization": f"Bearer {token}", "Content-Type": "application/gzip"}
    given |= {name.replace("_", "-"): text for name, text in headers.items()}
    return requests.post(f"{url}/v1/segments", data=content, headers=given, timeout=PATIENCE_S)


def stored_files(root):
    """Names of the segments that are stored."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*.ndjson.gz"))


class CollectorProcess(Running):
    """The command as a process, with a directory or as `env` says; end it, or leave the context."""

    def __init__(self, api, tmp_path, *arguments, **env) -> None:
        kubeconfig = api.kubeconfig(tmp_path / "kubeconfig")
        super().__init__(
            *("collector", "--listen", "127.0.0.1:0", *arguments),
            log=tmp_path / f"collector-{len(list(tmp_path.iterdir()))}.log",
            env=environment(KUBECONFIG=str(kubeconfig), **env),
        )

    def url(self) -> str:
        """Where it listens, as its log says; waits for that."""
        return self.until(lambda: self._told("listening on ")).split()[-1]

    def said(self, text) -> str:
        """The log's line with this text; waits for it."""
        return self.until(lambda: self._told(text))

    def _told(self, text) -> str:
        whole = self.log.rpartition("\n")[0]
        lines = messages(whole).splitlines()
        return next((line for line in lines if text in line), "")

    def log_rows(self):
        """The log, which is JSON line by line."""
        return [json.loads(line) for line in self.log.splitlines()]
