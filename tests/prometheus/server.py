"""A real Prometheus on loopback, which scrapes what the chart's monitors say, and answers PromQL."""

import json
import re
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from tests.e2e.commands import PATIENCE_S, until

SCRAPE_S = 1

Series = tuple[dict[str, str], list[tuple[float, float]]]


@dataclass(frozen=True)
class Target:
    """An address, and what service discovery would say of it (without `__meta_kubernetes_`)."""

    address: str
    meta: Mapping[str, str]


class Prometheus:
    """The server as a context manager."""

    def __init__(
        self, directory: Path, jobs: Iterable[Mapping[str, Any]], rules: Path | None = None
    ) -> None:
        self._directory = directory
        config: dict[str, Any] = {
            "global": {
                "scrape_interval": f"{SCRAPE_S}s",
                "scrape_timeout": f"{SCRAPE_S}s",
                "evaluation_interval": "1s",
            },
            "scrape_configs": list(jobs),
        }
        if rules is not None:
            config["rule_files"] = [str(rules)]
        self._config = directory / "prometheus.yml"
        self._config.write_text(yaml.safe_dump(config))
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]

    def __enter__(self) -> Self:
        command = (
            "prometheus",
            f"--config.file={self._config}",
            f"--storage.tsdb.path={self._directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{self._port}",
            "--log.level=warn",
        )
        with (self._directory / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        until(self._is_ready)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def log(self) -> str:
        """What it had to complain about."""
        return (self._directory / "prometheus.log").read_text()

    def ask(self, expr: str) -> list[tuple[dict[str, str], float]]:
        """Answer an instant query: labels and value of each series."""
        found = self._result(expr)
        if found["resultType"] == "scalar":
            return [({}, float(found["result"][1]))]
        return [(one["metric"], float(one["value"][1])) for one in found["result"]]

    def value(self, expr: str) -> float | None:
        """Answer an instant query of one series; None where there is none."""
        found = self.ask(expr)
        assert len(found) <= 1, found
        return found[0][1] if found else None

    def scraped(self, selector: str) -> list[Series]:
        """Return every sample of the last ten minutes, as it was scraped."""
        return [
            (one["metric"], [(at, float(value)) for at, value in one["values"]])
            for one in self._result(f"{selector}[10m]")["result"]
        ]

    def targets(self) -> list[dict[str, Any]]:
        """What it scrapes, and how that goes."""
        active: list[dict[str, Any]] = self._get("/api/v1/targets")["data"]["activeTargets"]
        return active

    def _result(self, expr: str) -> dict[str, Any]:
        answer = self._get(f"/api/v1/query?{urllib.parse.urlencode({'query': expr})}")
        assert not answer.get("warnings"), answer
        found: dict[str, Any] = answer["data"]
        return found

    def _get(self, path: str) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self._port}{path}"
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as response:
            answer: dict[str, Any] = json.load(response)
        return answer

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, self.log
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/-/ready", timeout=5) as one:
                return bool(one.status == 200)
        except OSError:
            return False


# -- as the Prometheus operator makes scrape configs of monitors --------------------------------------


def job_of_pods(monitor: Mapping[str, Any], targets: Iterable[Target]) -> dict[str, Any]:
    """Make the job of a PodMonitor."""
    spec, metadata = monitor["spec"], monitor["metadata"]
    (endpoint,) = spec["podMetricsEndpoints"]
    taken = {
        "namespace": "namespace", "container": "pod_container_name", "pod": "pod_name",
    }  # fmt: skip
    limits = {_snake(name): spec[name] for name in spec if name.endswith("Limit")}
    job = f"{metadata['namespace']}/{metadata['name']}"
    return {**_job(job, endpoint, taken, targets), **limits}


def job_of_service(monitor: Mapping[str, Any], targets: Iterable[Target]) -> dict[str, Any]:
    """Make the job of a ServiceMonitor; the operator names it after the Service."""
    (endpoint,) = monitor["spec"]["endpoints"]
    taken = {"namespace": "namespace", "service": "service_name", "pod": "pod_name"}
    made = _job(monitor["metadata"]["name"], endpoint, taken, targets)
    if "tlsConfig" in endpoint:
        made["tls_config"] = {_snake(name): value for name, value in endpoint["tlsConfig"].items()}
    return made


def _job(
    name: str, endpoint: Mapping[str, Any], taken: Mapping[str, str], targets: Iterable[Target]
) -> dict[str, Any]:
    told = [
        {"source_labels": [f"__meta_kubernetes_{source}"], "target_label": label}
        for label, source in taken.items()
    ]
    return {
        "job_name": name,
        "scheme": endpoint.get("scheme", "http"),
        "metrics_path": endpoint.get("path", "/metrics"),
        "relabel_configs": [*told, *map(_rule, endpoint.get("relabelings", ()))],
        "metric_relabel_configs": list(map(_rule, endpoint.get("metricRelabelings", ()))),
        "static_configs": [
            {
                "targets": [one.address],
                "labels": {f"__meta_kubernetes_{k}": v for k, v in one.meta.items()},
            }
            for one in targets
        ],
    }


def _rule(rule: Mapping[str, Any]) -> dict[str, Any]:
    return {_snake(name): value for name, value in rule.items()}


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])([A-Z])", lambda match: f"_{match[1].lower()}", name)
