"""The rules of skipping, on a test-suite of their own, where no capability is found on PATH."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent.parent


@pytest.fixture
def run_suite(tmp_path):
    """Run the given tests in a process of their own, with the `needs` plugin and an empty PATH."""

    def run(tests: str, *options: str, strict: bool = False) -> subprocess.CompletedProcess[str]:
        (tmp_path / "test_suite.py").write_text("import pytest\n" + tests)
        (tmp_path / "pytest.ini").write_text(
            "[pytest]\naddopts = --strict-markers -p xdist -p tests.needs\n"
        )
        # Without the coverage of this run, which would be started in the suite too.
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("COV", "PYTEST"))}
        environment |= {"PATH": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
        environment |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "STRICT": "1" if strict else ""}
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options],
            cwd=tmp_path, env=environment, capture_output=True, text=True,
        )  # fmt: skip

    return run


NEEDS_GCC = '@pytest.mark.needs("gcc")\ndef test_compiles():\n    pass\n'
SKIPS = 'def test_waits():\n    pytest.skip("not today")\n'
SKIPS_ITS_MODULE = 'pytest.skip("not here", allow_module_level=True)\n'
EXPECTED_TO_FAIL = "@pytest.mark.xfail\ndef test_wrong():\n    assert False\n"


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_missing_capability_is_skipped_and_counted(run_suite, workers) -> None:
    two = NEEDS_GCC + NEEDS_GCC.replace("test_compiles", "test_links")
    run = run_suite(two, "-n", workers)
    assert run.returncode == 0, run.stdout
    assert "skipped because this machine lacks …: gcc ×2" in run.stdout
    assert "apt-get install gcc" in run.stdout


def test_a_skip_for_another_reason_is_counted_with_its_reason(run_suite) -> None:
    run = run_suite(SKIPS)
    assert run.returncode == 0, run.stdout
    assert "skipped for another reason: not today ×1" in run.stdout


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize(
    ("tests", "reason"),
    [
        (NEEDS_GCC, "needs gcc: apt-get install gcc"),
        (SKIPS, "not today"),
        (SKIPS_ITS_MODULE, "not here"),
    ],
    ids=["capability", "test", "module"],
)
def test_strict_fails_what_would_be_skipped(run_suite, tests, reason, workers) -> None:
    run = run_suite(tests, "-n", workers, strict=True)
    assert run.returncode != 0, run.stdout
    assert f"STRICT=1 allows no skip: {reason}" in run.stdout


def test_strict_allows_a_skip_for_a_listed_kernel_limit(run_suite) -> None:
    listed = 'import tests.needs\ntests.needs.KERNEL_LIMITS = ("^not to",)\n'
    run = run_suite(listed + SKIPS, strict=True)
    assert run.returncode == 0, run.stdout
    assert "1 skipped" in run.stdout


def test_strict_leaves_an_expected_failure_alone(run_suite) -> None:
    run = run_suite(EXPECTED_TO_FAIL, strict=True)
    assert run.returncode == 0, run.stdout
    assert "1 xfailed" in run.stdout


def test_a_capability_that_the_machine_has_is_not_skipped(run_suite) -> None:
    run = run_suite(NEEDS_GCC.replace('"gcc"', ""), strict=True)
    assert "1 passed" in run.stdout


def test_an_unknown_capability_fails(run_suite) -> None:
    run = run_suite(NEEDS_GCC.replace("gcc", "gccc"))
    assert run.returncode == 1, run.stdout
    assert "needs('gccc'): not one of" in run.stdout
