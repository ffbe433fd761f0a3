"""What runs beside a training job loads nothing heavy: not by any path, not by a lazy import."""

import json
import os
import subprocess
import sys

import pytest

HEAVY = {
    "asyncio", "azure", "certifi", "comet_ml", "duckdb", "kubernetes", "mlflow", "msal", "numpy",
    "opentelemetry", "pandas", "pydantic", "requests", "rich", "starlette", "transformers", "urllib3",
    "uvicorn",
}  # fmt: skip

PRINT_LOADED = """
import json, sys
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
METER_ONE_COMMAND = """
import sys
import sidecar.cli.main
try:
    sys.exit(sidecar.cli.main.main())
except SystemExit as stopped:
    assert not stopped.code, stopped.code
"""


def loaded_by(program: str, *arguments: str) -> set[str]:
    """Top-level names of all modules that a fresh interpreter has after the program."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COV")}
    child = subprocess.run(
        [sys.executable, "-c", program + PRINT_LOADED, *arguments],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    return set(json.loads(child.stdout.splitlines()[-1]))


@pytest.mark.parametrize("module", ["sidecar", "sidecar.agent", "sidecar.cli.main"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    loaded = loaded_by(f"import {module}\n")
    assert "sidecar" in loaded
    assert loaded.isdisjoint(HEAVY), loaded & HEAVY


def test_a_program_that_decorates_and_does_not_call_loads_no_engine() -> None:
    program = """
from sidecar import EmissionsTracker, phase, track_emissions

@track_emissions
def train():
    pass

tracker = EmissionsTracker()
loaded = {name for name in sys.modules if name.startswith("sidecar.")}
assert loaded <= {"sidecar.tracker", "sidecar.phases", "sidecar.tracking"} | {
    f"sidecar.tracking.{name}" for name in ("options", "process", "results", "session", "wrapping")
}, loaded
"""
    assert loaded_by(f"import sys\n{program}").isdisjoint({"http", "ssl", "psutil", "pynvml"})


def test_metering_a_command_and_shipping_its_records_loads_nothing_heavy(tmp_path) -> None:
    shipping = ("--transport", "collector", "--ship-deadline", "1s", "--collector-url")
    nobody = ("http://127.0.0.1:9", "--collector-token-file", __file__)
    metered = (
        "exec",
        "--volume",
        str(tmp_path),
        *shipping,
        *nobody,
        "--",
        sys.executable,
        "-c",
        "",
    )
    loaded = loaded_by(METER_ONE_COMMAND, *metered)
    assert list(tmp_path.rglob("*.ndjson*"))
    assert loaded.isdisjoint(HEAVY), loaded & HEAVY
