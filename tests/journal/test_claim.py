"""A claim tells the truth about who owns a name, whatever happened to its file and its process."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.journal.claim import FRESH_S, Claim, kernel_boot_id
from tests.e2e.commands import environment, until

ANOTHER_KERNEL = "11111111-2222-3333-4444-555555555555"

HOLDER = """
import sys
from pathlib import Path
from sidecar.journal.claim import Claim
claim = Claim.take(Path(sys.argv[1]))
if claim is not None and len(sys.argv) > 2:
    claim.keep_receipt(sys.argv[2])
print("none" if claim is None else "taken", flush=True)
sys.stdin.read()
"""

CONTENDER = """
import sys
from pathlib import Path
from sidecar.journal.claim import Claim
path, inside = Path(sys.argv[1]), Path(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
held = both = 0
while held < int(sys.argv[3]):
    claim = Claim.take(path)
    if claim is not None:
        held += 1
        try:
            inside.mkdir()
        except FileExistsError:
            both += 1
        else:
            inside.rmdir()
        claim.release(remove=True)
print(held, both, flush=True)
"""


@contextlib.contextmanager
def process(script, *arguments):
    """A process that says one line when it has begun, and is killed at the end of the block."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    ) as running:
        try:
            running.said = running.stdout.readline().strip()
            yield running
        finally:
            running.kill()


def of_another_machine(path, age_s=0.0, receipt=None):
    path.write_text(json.dumps({"kernel": ANOTHER_KERNEL, "receipt": receipt}))
    then_s = time.time() - age_s
    os.utime(path, (then_s, then_s))


def said(path):
    return json.loads(path.read_text())


@pytest.fixture
def path(tmp_path):
    return tmp_path / ".u.b.owner"


@pytest.fixture
def take(path):
    """Takes claims and gives them up at the end of the test."""
    with contextlib.ExitStack() as claims:

        def taken(**options):
            claim = Claim.take(path, **options)
            if claim is not None:
                claims.callback(claim.release)
            return claim

        yield taken


# -- one machine -----------------------------------------------------------------------------------


def test_a_claim_says_on_which_kernel_its_process_is(take, path):
    assert take().is_held
    assert said(path) == {"kernel": kernel_boot_id(), "receipt": None}
    assert kernel_boot_id()


def test_what_is_claimed_is_claimed_by_nobody_else(take):
    assert take()
    assert take() is None
    assert take(of_this_pod=True) is None


def test_what_another_process_claimed_is_its_own_until_it_is_killed(take, path):
    with process(HOLDER, path) as holder:
        assert holder.said == "taken"
        assert take() is None
        holder.kill()
        holder.wait()
        assert take() is not None


def test_a_claim_is_inherited_by_no_command(take, path):
    claim = take()
    with subprocess.Popen(["sleep", "60"], close_fds=False) as child:
        try:
            claim.release()
            assert take() is not None
        finally:
            child.kill()


def test_a_released_claim_can_be_taken_again(take, path):
    take().release()
    assert path.exists()
    assert take() is not None


def test_releasing_removes_the_file_where_nothing_is_left(take, path):
    take().release(remove=True)
    assert not path.exists()


def test_releasing_twice_does_nothing_to_the_next_owner(take, path):
    first = take()
    first.release()
    second = take()
    first.release(remove=True)
    assert second.is_held
    assert not first.is_held


def test_after_its_end_a_claim_writes_to_no_file(take, path, tmp_path):
    """Its descriptor may be another file's by then."""
    claim = take()
    claim.release()
    with (tmp_path / "other").open("w+b") as other:
        claim.keep_receipt("receipt")
        claim.beat()
        assert other.read() == b""
    assert said(path)["receipt"] is None


def test_of_processes_that_take_and_release_at_once_no_two_hold_it(path, tmp_path):
    """The file is removed and made anew each time, which is where a lock could be of the wrong one."""
    with contextlib.ExitStack() as stack:
        arguments = (path, tmp_path / "inside", 100)
        contenders = [stack.enter_context(process(CONTENDER, *arguments)) for _ in range(3)]
        for contender in contenders:
            contender.stdin.write("go\n")
            contender.stdin.flush()
        results = [contender.stdout.readline().strip() for contender in contenders]
    assert results == ["100 0"] * 3


def test_a_file_that_is_replaced_is_no_longer_the_claim(take, path):
    claim = take()
    path.unlink()
    assert not claim.is_current
    path.touch()
    assert not claim.is_current
    assert not claim.is_held


def test_a_file_that_somebody_else_made_meanwhile_is_not_removed(take, path):
    claim = take()
    path.unlink()
    other = take()
    claim.release(remove=True)
    assert other.is_held


def test_a_directory_that_is_gone_ends_the_claim_only(take, path):
    claim = take()
    path.unlink()
    path.parent.rmdir()
    assert not claim.is_held
    claim.beat()
    claim.release(remove=True)


# -- other machines --------------------------------------------------------------------------------


def test_a_fresh_claim_of_another_machine_holds_without_a_lock(take, path):
    of_another_machine(path)
    assert take() is None
    assert said(path)["kernel"] == ANOTHER_KERNEL
    assert Claim.is_of_another_machine(path)


def test_a_claim_of_another_machine_holds_while_it_shows_signs_of_life(take, path):
    of_another_machine(path, age_s=FRESH_S - 60)
    assert take() is None


def test_a_stale_claim_of_another_machine_is_taken_over(take, path):
    of_another_machine(path, age_s=3 * 3600)
    assert take().is_held
    assert said(path)["kernel"] == kernel_boot_id()
    assert not Claim.is_of_another_machine(path)


def test_what_is_of_this_pod_is_taken_over_after_a_reboot(take, path):
    """The machine has another kernel id by then, and the pod was nowhere else."""
    of_another_machine(path)
    assert take(of_this_pod=True).is_held


def test_a_claim_that_another_machine_took_over_is_not_held_nor_removed(take, path):
    claim = take()
    of_another_machine(path)
    assert claim.is_current
    assert not claim.is_held
    claim.release(remove=True)
    assert said(path)["kernel"] == ANOTHER_KERNEL


def test_a_sign_of_life_makes_a_claim_fresh(take, path):
    claim = take()
    os.utime(path, (0, 0))
    claim.beat()
    assert time.time() - path.stat().st_mtime < FRESH_S


# -- what the file says ----------------------------------------------------------------------------


def test_a_receipt_outlives_the_process_that_was_killed(take, path):
    with process(HOLDER, path, "receipt-1") as holder:
        assert holder.said == "taken"
        holder.kill()
        holder.wait()
    claim = take()
    assert claim.receipt == "receipt-1"
    assert said(path)["receipt"] == "receipt-1"


def test_the_receipt_of_another_machine_is_taken_over_too(take, path):
    of_another_machine(path, age_s=3 * 3600, receipt="receipt-2")
    assert take().receipt == "receipt-2"


@pytest.mark.parametrize(("first", "second"), [("a", "b" * 900), ("b" * 900, "a")])
def test_a_newer_receipt_replaces_the_one_before(take, path, first, second):
    claim = take()
    claim.keep_receipt(first)
    claim.keep_receipt(second)
    assert said(path)["receipt"] == second


def test_a_reader_at_any_moment_meets_a_whole_file(take, path, monkeypatch):
    """As after a kill between two steps of the writing."""
    claim = take()
    claim.keep_receipt("long" * 100)
    kept = []
    truncate, write = os.ftruncate, os.pwrite
    monkeypatch.setattr(os, "ftruncate", lambda *a: (kept.append(said(path)), truncate(*a)))
    monkeypatch.setattr(os, "pwrite", lambda *a: (kept.append(said(path)), write(*a))[1])
    claim.keep_receipt("short")
    assert [row["receipt"] for row in kept] == ["long" * 100, "short"]


garbage = st.binary(max_size=200) | st.sampled_from(
    [
        b"[" * 16_384,
        b'{"kernel":' * 2000,
        b'{"kernel": 7, "receipt": ["x"]}',
        b'{"receipt": "\\u00e9\\n"}',
        b"null",
        b"\0" * 4096,
        b'{"kernel": "", "receipt": null}' + b" " * 20_000,
        b"9" * 10_000,
    ]
)


@given(content=garbage)
def test_garbage_is_taken_over_and_said_anew(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("claim") / ".u.b.owner"
    path.write_bytes(content)
    claim = Claim.take(path)
    assert claim is not None
    try:
        assert claim.is_held
        assert claim.receipt is None
        assert said(path)["kernel"] == kernel_boot_id()
    finally:
        claim.release()


@pytest.mark.parametrize(
    "receipt", ["", "é", " x", "x\r\nAuthorization: y", "x\n", 5, ["x"], {"a": "b"}]
)
def test_a_receipt_that_is_none_is_not_carried_on(take, path, receipt):
    """It would become a header of a request."""
    path.write_text(json.dumps({"kernel": "", "receipt": receipt}))
    assert take().receipt is None


# -- volumes ---------------------------------------------------------------------------------------


def test_a_link_is_not_followed(take, path, tmp_path):
    target = tmp_path / "target"
    target.write_text("precious")
    path.symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"):
        take()
    with pytest.raises(OSError, match="symbolic links"):
        Claim.is_of_another_machine(path)
    assert target.read_text() == "precious"


def test_a_pipe_is_an_error_and_not_waited_for(take, path):
    os.mkfifo(path)
    with pytest.raises(OSError, match="Illegal seek"):
        take()


def test_a_directory_in_its_place_is_an_error(take, path):
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        take()


def test_an_error_leaves_no_descriptor_open(take, path):
    os.mkfifo(path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        with pytest.raises(OSError, match="Illegal seek"):
            take()
    path.unlink()
    assert take() is not None
    assert take() is None
    assert len(list(Path("/proc/self/fd").iterdir())) == before + 1


@pytest.mark.needs("root")
def test_a_read_only_volume_is_an_error(full_disk):
    subprocess.run(["mount", "-o", "remount,ro", full_disk.path], check=True)
    with pytest.raises(OSError, match="Read-only"):
        Claim.take(full_disk.path / ".owner")


@pytest.mark.needs("root")
def test_on_a_full_volume_the_lock_holds_and_what_it_says_comes_later(full_disk):
    path = full_disk.path / ".owner"
    full_disk.fill()
    claim = Claim.take(path)
    assert claim is not None
    try:
        assert path.read_bytes() == b""
        assert claim.is_held
        assert Claim.take(path) is None
        claim.beat()
        assert path.read_bytes() == b""
        full_disk.free()
        claim.beat()
        assert said(path)["kernel"] == kernel_boot_id()
    finally:
        claim.release()


def test_the_claim_of_a_killed_process_is_seen_at_once(take, path):
    """As recovery needs it: the container is restarted in the same moment."""
    with process(HOLDER, path) as holder:
        holder.kill()
        assert until(take).is_held
