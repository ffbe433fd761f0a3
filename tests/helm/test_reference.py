"""The chart's README is what its generator writes."""

import importlib.util

from tests.helm.tools import CHART, ROOT


def test_the_chart_readme_is_up_to_date() -> None:
    path = ROOT / "scripts/write_chart_reference.py"
    spec = importlib.util.spec_from_file_location("write_chart_reference", path)
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    assert (CHART / "README.md").read_text() == generator.readme(CHART)
