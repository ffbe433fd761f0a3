import json
import subprocess
from pathlib import Path

import pytest

from sidecar.report.page import numbers

SCRIPT = Path(numbers.__file__).parent / "src" / "numbers.js"


def plain(text):
    """Return a text with ordinary spaces."""
    return text.replace("\u00a0", " ")


def test_no_line_breaks_between_a_number_and_its_unit():
    assert numbers.mass(1840.0) == "1.84\u00a0kg"


@pytest.mark.parametrize(
    ("grams", "text"),
    [
        (None, "–"),
        (0.0, "0 g"),
        (1.5e-7, "0.00015 mg"),
        (0.25, "250 mg"),
        (999.4, "999 g"),
        (999.6, "1 kg"),
        (435_589.0, "436 kg"),
        (1_840_000.0, "1.84 t"),
        (-2_500.0, "−2.5 kg"),
        (7.2e9, "7.2 kt"),
        (3.21e13, "32,100 kt"),
    ],
)
def test_a_mass_is_said_in_the_unit_that_suits_it(grams, text):
    assert plain(numbers.mass(grams)) == text


@pytest.mark.parametrize(
    ("kwh", "text"),
    [
        (0.0, "0 Wh"),
        (2.8e-6, "0.0028 Wh"),  # never mWh: it is one letter from a billion times more
        (0.0123, "12.3 Wh"),
        (2139.6, "2.14 MWh"),
        (5e7, "50 GWh"),
    ],
)
def test_an_energy_is_said_in_the_unit_that_suits_it(kwh, text):
    assert plain(numbers.energy(kwh)) == text


@pytest.mark.parametrize(
    ("ratio", "text"),
    [(0.0, "0 %"), (8e-18, "0 %"), (3e-5, "<0.01 %"), (2e-4, "0.02 %"), (0.5, "50 %")],
)
def test_a_share_next_to_nothing_is_no_row_of_zeros(ratio, text):
    assert plain(numbers.percent(ratio)) == text


@pytest.mark.parametrize(
    ("ratio", "text"), [(None, "–"), (0.0, "±0 %"), (0.123, "+12.3 %"), (-0.0456, "−4.6 %")]
)
def test_a_change_has_a_sign(ratio, text):
    assert plain(numbers.signed_percent(ratio)) == text


def test_bounds_that_are_not_known_are_said_to_be():
    assert numbers.mass_between(None, 3.0) == "bounds not known"
    assert plain(numbers.mass_between(1500.0, 2200.0)) == "between 1.5 kg and 2.2 kg"


@pytest.mark.needs("node")
def test_the_page_says_numbers_as_its_python_does():
    values = [sign * 1.2347e-9 * 7.31**power for power in range(24) for sign in (1, -1)]
    code = (
        f"import {{mass, energy, percent}} from {json.dumps(SCRIPT.as_uri())};"
        f"console.log(JSON.stringify({json.dumps(values)}.map((v) => [mass(v), energy(v), percent(v)])))"
    )
    run = subprocess.run(
        ["node", "--no-warnings", "--input-type=module", "-e", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    ours = [[numbers.mass(v), numbers.energy(v), numbers.percent(v)] for v in values]
    assert json.loads(run.stdout) == ours
