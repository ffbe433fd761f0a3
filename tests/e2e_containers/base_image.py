"""A base image out of the Python that runs the tests: no registry, no network, no shell in it.

It holds the interpreter, its standard library, pip, and the shared libraries these load: enough for
the Dockerfile, whose build and whose images then cannot have used anything else. For tests only; what
it holds is this machine's.
"""

import io
import re
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

PREFIX = Path("usr/local")
"""Where Python is put: a version manager's own place may be closed to all but root."""

_VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
_LIBRARY = Path(sysconfig.get_path("stdlib"))
_LEFT_OUT = re.compile(
    r"(^|/)(__pycache__|test|tests|idlelib|turtledemo|lib2to3|site-packages|dist-packages|config-[^/]*)(/|$)"
)
_LOADED = re.compile(r"(?:=> )?(/\S+) \(0x")

_ALWAYS_THERE = (
    *("libdl.so.2", "libpthread.so.0", "libresolv.so.2", "librt.so.1", "libutil.so.1"),
    *("libgcc_s.so.1", "libstdc++.so.6"),
)
"""Libraries that wheels for Linux may expect (PEP 513), beside libc itself."""

_FILES = {
    "etc/passwd": "root:x:0:0:root:/:/sbin/nologin\n",
    "etc/group": "root:x:0:\n",
    "etc/nsswitch.conf": "hosts: files dns\n",
}
_DIRECTORIES = {"tmp": 0o1777, "proc": 0o555, "sys": 0o555, "dev": 0o755, "run": 0o755}


def write_base_tar(path: Path) -> None:
    """Write the root file system."""
    with tarfile.open(path, "w") as tar:
        for name, mode in _DIRECTORIES.items():
            tar.addfile(_entry(name, mode, tarfile.DIRTYPE))
        for name, text in _FILES.items():
            _add_content(tar, name, text.encode())
        for name, source in sorted({**_python(), **_pip(), **_libraries()}.items()):
            tar.add(source.resolve(), arcname=name, recursive=False, filter=_without_owner)
        for name in ("python", "python3"):
            link = _entry(str(PREFIX / "bin" / name), 0o777, tarfile.SYMTYPE)
            link.linkname = _VERSION
            tar.addfile(link)


def _python() -> dict[str, Path]:
    """Name in the image and file here, of interpreter and standard library."""
    files = {str(PREFIX / "bin" / _VERSION): _interpreter()}
    for path in _LIBRARY.rglob("*"):
        relative = str(path.relative_to(_LIBRARY))
        if path.is_file() and not _LEFT_OUT.search(relative):
            files[str(PREFIX / "lib" / _VERSION / relative)] = path
    return files


def _pip() -> dict[str, Path]:
    """Pip of the tests' own environment, put where the bare interpreter looks."""
    code = "import site; print(site.getsitepackages()[0])"
    asked = subprocess.run(
        [_interpreter(), "-I", "-c", code], capture_output=True, text=True, check=True
    )
    packages = PREFIX / "lib" / _VERSION / Path(asked.stdout.strip()).name
    listed = distribution("pip").files or ()
    inside = (file for file in listed if file.parts[0] != ".." and file.suffix != ".pyc")
    return {str(packages / file): Path(str(file.locate())) for file in inside}


def _libraries() -> dict[str, Path]:
    """Shared libraries that interpreter and extension modules load."""
    modules = (_LIBRARY / "lib-dynload").glob("*.so")
    files = {}
    loaded = {found for file in (_interpreter(), *modules) for found in _loaded_by(file)}
    (libc,) = (path for path in loaded if path.name == "libc.so.6")
    loaded |= {path for name in _ALWAYS_THERE if (path := libc.parent / name).exists()}
    for path in loaded:
        own = path.is_relative_to(sys.base_prefix) and sys.base_prefix != "/usr"
        files[str(PREFIX / "lib" / path.name) if own else str(path).lstrip("/")] = path
    return files


def _loaded_by(file: Path) -> Iterator[Path]:
    asked = subprocess.run(["ldd", file], capture_output=True, text=True, check=True)
    return (Path(match[1]) for match in _LOADED.finditer(asked.stdout))


def _interpreter() -> Path:
    return Path(sys._base_executable).resolve()


def _add_content(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = _entry(name, 0o644, tarfile.REGTYPE)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def _entry(name: str, mode: int, kind: bytes) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.mode, entry.type = mode, kind
    return entry


def _without_owner(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = 0
    return entry
