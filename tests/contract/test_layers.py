"""The import contracts of pyproject.toml hold, and are broken by what they forbid."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent.parent
CONTRIBUTING = REPOSITORY / "CONTRIBUTING.md"
LINT_IMPORTS = "from importlinter.cli import lint_imports_command; lint_imports_command()"


@pytest.fixture
def lint(tmp_path):
    """Append lines to modules of a copy of the package and run import-linter on the copy."""

    def run(**lines_of: str) -> subprocess.CompletedProcess[str]:
        shutil.copytree(
            REPOSITORY / "sidecar", tmp_path / "sidecar", ignore=shutil.ignore_patterns("*.csv")
        )
        shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
        for module, line in lines_of.items():
            path = tmp_path / "sidecar" / f"{module.replace('__', '/')}.py"
            with path.open("a") as source:
                source.write(f"\n{line}\n")
        return subprocess.run(
            [sys.executable, "-c", LINT_IMPORTS, "--no-cache"],
            cwd=tmp_path, capture_output=True, text=True,
            env={**os.environ, "COLUMNS": "200"},  # or names are wrapped
        )  # fmt: skip

    return run


def test_the_package_keeps_its_contracts(lint) -> None:
    run = lint()
    assert run.returncode == 0, run.stdout + run.stderr
    assert "0 broken" in run.stdout


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("units", "import sidecar.agent", "Data flows one way"),
        ("meters__reading", "import sidecar.journal", "Data flows one way"),
        ("estimate__power", "import sidecar.record", "Data flows one way"),
        ("brand_new", "", "Data flows one way"),  # a module that no layer names
        ("agent", "def f():\n    import pydantic", "stays lean"),
        ("meters__reading", "import numpy", "stays lean"),  # reaches the agent through others
        ("exporters__tracked", "def f():\n    import mlflow", "stays lean"),
        ("estimate__power", "import time", "The estimate is pure"),
    ],
)
def test_a_forbidden_import_breaks_its_contract(lint, module, line, broken) -> None:
    run = lint(**{module: line})
    assert run.returncode == 1, run.stdout + run.stderr
    names = [row for row in run.stdout.splitlines() if " BROKEN" in row]
    assert any(broken in name for name in names), run.stdout


def test_the_module_map_names_every_module_and_no_other() -> None:
    named = re.findall(r"^\| `sidecar\.(\w+)` \|", CONTRIBUTING.read_text(), re.MULTILINE)
    there = {
        path.stem
        for path in (REPOSITORY / "sidecar").iterdir()
        if (path.suffix == ".py" or (path / "__init__.py").exists()) and path.stem[:2] != "__"
    }
    assert len(named) == len(set(named))
    assert set(named) == there


def test_every_package_of_the_tests_that_is_no_mirror_is_explained() -> None:
    mirrored = (*(REPOSITORY / "sidecar").iterdir(), *REPOSITORY.iterdir())
    names = {path.stem for path in mirrored}
    besides = {
        path.name
        for path in (REPOSITORY / "tests").iterdir()
        if (path / "__init__.py").exists() and path.name not in names
    }
    named = set(re.findall(r"`tests/(\w+)`", CONTRIBUTING.read_text()))
    assert besides <= named
