"""The chart's README, and the settings in its schema, are what their generator writes."""

import importlib.util
from types import ModuleType

from tests.helm.tools import CHART, ROOT


def load_generator() -> ModuleType:
    path = ROOT / "scripts/write_chart_reference.py"
    spec = importlib.util.spec_from_file_location("write_chart_reference", path)
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    return generator


GENERATOR = load_generator()


def test_the_chart_readme_is_up_to_date() -> None:
    assert (CHART / "README.md").read_text() == GENERATOR.readme(CHART), "run `make docs`"


def test_the_schema_knows_every_setting_of_the_sidecar() -> None:
    assert (CHART / "values.schema.json").read_text() == GENERATOR.schema(CHART), "run `make docs`"
