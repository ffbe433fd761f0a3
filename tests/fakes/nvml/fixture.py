"""`FakeNvml` and the fixture `fake_nvml`; a conftest imports the fixture to offer it.

In this process the library is loaded by its path first, so that the binding's own
`CDLL("libnvidia-ml.so.1")` finds it by its name. Without FAKE_NVML_STATE it says LIBRARY_NOT_FOUND,
so other tests of the process see a machine without a driver.
"""

import ctypes
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.fakes.nvml.build import build_fake_nvml


class FakeNvml:
    """The state file of one fake driver. Keys as in fake_nvml.c, e.g. `set({"0.util": 87})`."""

    def __init__(self, state_path: Path, library: Path) -> None:
        self.state_path = state_path
        self.library = library
        self.state: dict[str, object] = {"count": 0}
        self._write()

    def set(self, state: Mapping[str, object]) -> "FakeNvml":
        """Change keys; a value of None removes its key. The file is replaced in one step."""
        for key, value in state.items():
            if value is None:
                self.state.pop(key, None)
            else:
                self.state[key] = value
        return self._write()

    def gpu(self, index: int, **values: object) -> "FakeNvml":
        """Change keys of one GPU: `gpu(0, energy_mj=5, util=87, lost=None)`; counts it in."""
        self.state["count"] = max(int(str(self.state.get("count", 0))), index + 1)
        return self.set({f"{index}.{key}": value for key, value in values.items()})

    @property
    def environment(self) -> dict[str, str]:
        """What a child process needs to find this driver."""
        return {
            "FAKE_NVML_STATE": str(self.state_path),
            "LD_LIBRARY_PATH": str(self.library.parent),
        }

    def _write(self) -> "FakeNvml":
        scratch = self.state_path.with_suffix(".new")
        text = "".join(f"{key}={value}\n" for key, value in self.state.items())
        scratch.write_bytes(text.encode("utf-8", "surrogateescape"))
        scratch.replace(self.state_path)
        return self


@pytest.fixture(scope="session")
def fake_nvml_library() -> Path:
    """The built library, loaded into this process. Tests that use it are marked `needs("gcc")`."""
    library = build_fake_nvml()
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    return library


@pytest.fixture
def fake_nvml(
    fake_nvml_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeNvml]:
    """A fake driver without GPUs, seen by this process and (through `environment`) by children."""
    fake = FakeNvml(tmp_path / "nvml.state", fake_nvml_library)
    monkeypatch.setenv("FAKE_NVML_STATE", str(fake.state_path))
    yield fake
