"""Files of others are read bounded, and only if they are files."""

import os
from pathlib import Path

import pytest

from sidecar.identity.bounded import read_bounded


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_refused_and_closed(tmp_path, make):
    path = tmp_path / "odd"
    make(path)
    before = len([*Path("/proc/self/fd").iterdir()])
    for _ in range(5):
        with pytest.raises(OSError, match="not a regular file"):
            read_bounded(path, 100)
    assert len([*Path("/proc/self/fd").iterdir()]) == before
