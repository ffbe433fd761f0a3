"""The API is typed: what a type checker knows of a program that uses it."""

import textwrap

import pytest

mypy = pytest.importorskip("mypy.api")

PROGRAM = """
    from collections.abc import Iterator
    from typing import assert_type
    from sidecar import EmissionsTracker, OfflineEmissionsTracker, phase, track_emissions
    from sidecar import track_task_emissions

    @track_emissions
    def bare(a: int, *, b: str = "") -> float:
        return float(a)

    @track_emissions(project_name="p", offline=True, country_iso_code="FRA")
    def with_parameters(a: int) -> str:
        return str(a)

    @track_task_emissions(task_name="t")
    async def task(a: int) -> bytes:
        return bytes(a)

    @track_emissions
    def values() -> Iterator[int]:
        yield 1

    assert_type(bare(1, b="x"), float)
    assert_type(with_parameters(2), str)
    assert_type(values(), Iterator[int])

    with EmissionsTracker("p", measure_power_secs=5) as tracker, phase("train"):
        pass
    assert_type(tracker.final_emissions, float | None)
    assert_type(OfflineEmissionsTracker(country_iso_code="FRA").stop(), float | None)
"""

WRONG = """
    from sidecar import EmissionsTracker, nothing, track_emissions

    EmissionsTracker(projekt="p")
    EmissionsTracker(pue="high")

    @track_emissions
    def bare(a: int) -> float:
        return float(a)

    bare("x")
"""


def checked(directory, source):
    file = directory / "program.py"
    file.write_text(textwrap.dedent(source))
    command = ["--strict", "--cache-dir", str(directory), "--config-file", "", str(file)]
    printed, errors, _ = mypy.run(command)
    assert not errors, errors
    return printed


def test_a_program_that_uses_the_api_as_it_is_meant_checks(tmp_path):
    assert checked(tmp_path, PROGRAM).startswith("Success")


def test_a_program_that_does_not_is_told(tmp_path):
    printed = checked(tmp_path, WRONG)
    assert 'Unexpected keyword argument "projekt"' in printed
    assert 'Argument "pue"' in printed
    assert 'Argument 1 to "bare"' in printed
    assert 'has no attribute "nothing"' in printed
