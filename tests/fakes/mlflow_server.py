"""MLflow's own tracking server on a SQLite store, as a process on loopback.

usage: python -m tests.fakes.mlflow_server DATABASE
"""

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


def main(database: str) -> None:
    """Serve; the port is printed once it answers."""
    os.environ["_MLFLOW_SERVER_FILE_STORE"] = f"sqlite:///{database}"
    os.environ["_MLFLOW_SERVER_ARTIFACT_ROOT"] = f"{database}.artifacts"
    warnings.simplefilter("ignore")
    from mlflow.server import app
    from werkzeug.serving import make_server

    server = make_server("127.0.0.1", 0, app, threaded=True)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


@contextmanager
def serving(database: Path) -> Iterator[str]:
    """Serve a store; yields the address."""
    environ = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (database.parent / f"{database.name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.fakes.mlflow_server", str(database)],
            stdout=subprocess.PIPE, stderr=log, cwd=ROOT, env=environ,
        )  # fmt: skip
    try:
        port = process.stdout.readline().strip()
        assert port, log.name
        yield f"http://127.0.0.1:{port.decode()}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


if __name__ == "__main__":
    main(sys.argv[1])
