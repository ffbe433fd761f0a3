import os
from pathlib import Path

import pytest

from sidecar.durable_file import replace_file, sync_directory


def test_a_file_is_replaced_whole_and_nothing_else_stays(tmp_path: Path):
    path = tmp_path / "file"
    replace_file(path, b"first")
    replace_file(path, b"second" * 100_000)
    assert path.read_bytes() == b"second" * 100_000
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_no_scratch_file(tmp_path: Path):
    path = tmp_path / "directory"
    path.mkdir()
    (path / "kept").touch()
    with pytest.raises(OSError, match=r"Is a directory|Directory not empty"):
        replace_file(path, b"content")
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_system_that_cannot_sync_directories_is_no_failure():
    """As SMB shares and some of FUSE; procfs is another one."""
    descriptor = os.open("/proc", os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="Invalid argument"):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_directory(Path("/proc"))
