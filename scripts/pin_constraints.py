"""Write constraints.txt: the newest version of everything `.[dev]` needs, names and versions only.

Also of what `make frameworks` installs, in an environment of its own. There torch stays at a version
that has a build for CPUs alone (the local version `+cpu`): others bring gigabytes of CUDA.

pip resolves into an empty environment without installing; where it fetched a package from
never reaches the file, so the pins hold with any registry or mirror.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

FRAMEWORKS = ("accelerate", "lightning", "torch==2.13.0", "transformers")
REPOSITORY = Path(__file__).resolve().parent.parent
HEADER = "# Pins of everything `.[dev]` needs, and of the build backend; by `make constraints`.\n"
PIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.!+_-]*")


def resolved_pins() -> list[str]:
    """Return `name==version` of each package pip would install into an empty environment."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
    command += ["--upgrade", "--report", "-", "setuptools", f"{REPOSITORY}[dev]", *FRAMEWORKS]
    run = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    packages = [install["metadata"] for install in json.loads(run.stdout)["install"]]
    pins = [f"{item['name']}=={item['version'].partition('+')[0]}" for item in packages]
    return sorted((pin for pin in pins if not pin.startswith("emissions-sidecar==")), key=str.lower)


def main() -> int:
    """Pin, refusing a line that is not a bare `name==version` (an address, an option)."""
    pins = resolved_pins()
    refused = [pin for pin in pins if not PIN.fullmatch(pin)]
    if refused:
        sys.stderr.write(f"constraints.txt is unchanged: not a bare name==version: {refused}\n")
        return 1
    (REPOSITORY / "constraints.txt").write_text(HEADER + "\n".join(pins) + "\n")
    sys.stdout.write(f"constraints.txt: {len(pins)} pins\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
