"""No test reaches a network: what leaves the machine raises, in this process.

Child processes are not patched; the environment they inherit tells them to ask no metadata service.
"""

import ipaddress
import os
import socket
from collections.abc import Callable
from typing import Any

import pytest

_NAMES_OF_LOOPBACK = {"localhost", "ip6-localhost", socket.gethostname()}

_PREFIXES_CLEARED = (
    "AZUREML_", "CODECARBON_", "COMET_", "EMISSIONS_", "KUBERNETES_", "MLFLOW_", "OTEL_", "POD_",
)  # fmt: skip
_NAMES_CLEARED = {"CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"} | {
    spelled
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
    for spelled in (name, name.upper())
}


class NetworkReachedError(RuntimeError):
    """A test tried to leave the machine. No OSError: code that survives outages would eat it."""


def _require_loopback(host: object, operation: str) -> None:
    name = host.decode() if isinstance(host, bytes) else str(host)
    if name in _NAMES_OF_LOOPBACK:
        return
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        is_loopback = False
    else:
        mapped = getattr(address, "ipv4_mapped", None)
        is_loopback = (mapped or address).is_loopback
    if not is_loopback:
        raise NetworkReachedError(
            f"{operation}: {name!r} is not a loopback address, and tests reach no network: "
            "start a server on 127.0.0.1 and pass its address to the code under test"
        )


def _guarded_method(name: str) -> Callable[..., Any]:
    """`socket.<name>` that checks the address, its last argument, of an internet socket."""
    original = getattr(socket.socket, name)

    def guarded(self: socket.socket, *args: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and isinstance(args[-1], tuple):
            _require_loopback(args[-1][0], f"socket.{name}")
        return original(self, *args)

    return guarded


def _guarded_lookup(name: str) -> Callable[..., Any]:
    """`socket.<name>` that checks the host, its first argument (none means this machine)."""
    original = getattr(socket, name)

    def guarded(host: Any, *args: Any, **options: Any) -> Any:
        passive = options.get("flags", args[4] if len(args) > 4 else 0) & socket.AI_PASSIVE
        if host and not passive:
            _require_loopback(host, f"socket.{name}")
        return original(host, *args, **options)

    return guarded


def forbid_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let connections and name look-ups of this process reach loopback and Unix sockets only."""
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, _guarded_method(name))
    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
        monkeypatch.setattr(socket, name, _guarded_lookup(name))


def clear_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what the machine's environment would tell the code under test and its children."""
    for name in list(os.environ):
        if name.startswith(_PREFIXES_CLEARED) or name in _NAMES_CLEARED:
            monkeypatch.delenv(name)
    monkeypatch.setenv("EMISSIONS_IMDS_ENDPOINT", "none")
