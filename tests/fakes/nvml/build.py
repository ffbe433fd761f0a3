"""Builds `libnvidia-ml.so.1` from fake_nvml.c and the nvml.h of the package `nvidia-nvml-dev`."""

import hashlib
import importlib.metadata
import subprocess
import tempfile
from pathlib import Path

SONAME = "libnvidia-ml.so.1"
SOURCE = Path(__file__).with_name("fake_nvml.c")
CACHE = Path(__file__).parents[3] / ".cache" / "fake-nvml"


def nvml_header() -> Path:
    """Where `nvidia-nvml-dev` has put nvml.h."""
    for file in importlib.metadata.files("nvidia-nvml-dev") or []:
        if file.name == "nvml.h":
            return Path(str(file.locate()))
    raise FileNotFoundError("nvidia-nvml-dev holds no nvml.h: install the [dev] extra again")


def build_fake_nvml(cache: Path = CACHE) -> Path:
    """Compile once per content; return the library. Safe for several processes at once."""
    header = nvml_header()
    content = SOURCE.read_bytes() + header.read_bytes()
    library = cache / hashlib.sha256(content).hexdigest()[:16] / SONAME
    if library.exists():
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        built = Path(scratch) / SONAME
        options = ["-O1", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        command = ["gcc", *options, "-isystem", str(header.parent), f"-Wl,-soname,{SONAME}"]
        subprocess.run([*command, "-o", str(built), str(SOURCE)], check=True)
        built.replace(library)
    return library
