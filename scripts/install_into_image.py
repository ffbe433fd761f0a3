"""Install the package into a virtual environment of its own, for the Dockerfile: `… DIRECTORY`.

Runs in a build stage, from the root of the source, with the stage's own Python and pip and without a
shell. The same inputs give the same bytes: pinned packages, compiled in one order and by content
instead of time, every file with the time `SOURCE_DATE_EPOCH`. From the environment: `EXTRAS` and
`PIP_ARGS` as in the Dockerfile; wheels in /wheelhouse, if there are any, are used instead of an index.
"""

import os
import shlex
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

CONSTRAINTS = Path("constraints.txt")
WHEELHOUSE = Path("/wheelhouse")


def pip(*arguments: str) -> None:
    """Run the stage's pip, with the arguments that the builder of the image gave."""
    given = shlex.split(os.environ.get("PIP_ARGS", ""))
    if WHEELHOUSE.is_dir() and any(WHEELHOUSE.glob("*.whl")):
        given += ["--no-index", "-f", str(WHEELHOUSE)]
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-cache-dir"]
    subprocess.run([*command, *arguments, *given], check=True)


def build_wheel(directory: Path) -> Path:
    """Build the package's wheel with the pinned build backend."""
    pip("install", "--root-user-action=ignore", f"--constraint={CONSTRAINTS}", "setuptools")
    pip("wheel", "--no-build-isolation", "--no-deps", f"--wheel-dir={directory}", ".")
    (wheel,) = directory.glob("emissions_sidecar-*.whl")
    return wheel


def install(wheel: Path, extras: str, target: Path) -> None:
    """Install the wheel and what it needs into a new environment that has no pip."""
    venv.create(target, symlinks=True, with_pip=False)
    for script in target.glob("bin/[Aa]ctivate*"):
        script.unlink()
    requirement = f"{wheel}[{extras}]" if extras else str(wheel)
    pip(
        f"--python={target}/bin/python",
        *("install", "--no-compile", f"--constraint={CONSTRAINTS}", requirement),
    )


def forget_origin(target: Path) -> None:
    """Take away the note of where the wheel lay, which is another place in every build."""
    (note,) = target.glob("lib/*/site-packages/emissions_sidecar-*.dist-info/direct_url.json")
    record = note.with_name("RECORD")
    lines = record.read_text().splitlines(keepends=True)
    record.write_text("".join(line for line in lines if f"/{note.name}," not in line))
    note.unlink()


def compile_all(target: Path) -> None:
    """Compile for good: a read-only image can keep no cache, and times must not matter."""
    python = str(target / "bin/python")
    options = ["-q", "--invalidation-mode", "unchecked-hash", "-j", "1"]
    subprocess.run([python, "-m", "compileall", *options, str(target / "lib")], check=True)


def set_times(target: Path, epoch_s: int) -> None:
    """Give every file and directory the same time."""
    for directory, _, files in os.walk(target, topdown=False):
        for path in (*(Path(directory, name) for name in files), Path(directory)):
            os.utime(path, (epoch_s, epoch_s), follow_symlinks=False)


def main() -> int:
    """Build, install, compile; the environment's directory is the only argument."""
    target = Path(sys.argv[1])
    os.umask(0o022)
    with tempfile.TemporaryDirectory() as directory:
        install(build_wheel(Path(directory)), os.environ.get("EXTRAS", ""), target)
    forget_origin(target)
    compile_all(target)
    set_times(target, int(os.environ.get("SOURCE_DATE_EPOCH", "0")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
