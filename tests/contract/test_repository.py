"""What holds for every committed file."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent.parent
NOT_SOURCE = re.compile(
    r"(^|/)(\.git|\.venv|\.[a-z_]*cache|\.coverage.*|__pycache__|build|dist|[^/]*\.egg-info)(/|$)"
)

# Spelled so that this file itself does not match.
PACKAGE_INDEX = (
    r"py{0}pi\.org|pythonho{0}sted|registry\.npm{0}js|npm{0}js\.(com|org)|ana{0}conda\.org"
)
PIP_OPTION = r"index-{0}url|find-{0}links|trusted-{0}host|PIP_{0}(INDEX|CERT|FIND)"
MACHINE_PATH = (
    r"(?<![\w.$)}}-])/(wo{0}rk|ro{0}ot|Us{0}ers|home/(?!azureuser/)[a-z]\w*|opt/py{0}pi)/"
)
OUTSIDE = r"\.\./sha{0}red|sha{0}red/(reference|catalogue|tools|design)"
FORBIDDEN = {
    name: re.compile(pattern.format(""))
    for name, pattern in [
        ("the address of a package index", PACKAGE_INDEX),
        ("an option that names a package index", PIP_OPTION),
        ("an absolute path of one machine", MACHINE_PATH),
        ("a path outside the repository", OUTSIDE),
    ]
}


def files() -> list[Path]:
    """All files that are or may be committed: from git, or where there is none from the tree."""
    git = ["git", "-c", "safe.directory=*", "-C", str(REPOSITORY), "ls-files", "-z"]
    try:
        listed = subprocess.run(
            [*git, "--cached", "--others", "--exclude-standard"], capture_output=True, check=True
        ).stdout.decode()
        paths = [REPOSITORY / name for name in listed.split("\0") if name]
    except (OSError, subprocess.CalledProcessError):
        paths = list(REPOSITORY.rglob("*"))
    return [
        path
        for path in paths
        if path.is_file() and not NOT_SOURCE.search(str(path.relative_to(REPOSITORY)))
    ]


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_names(what: str) -> None:
    found = [
        f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()[:120]}"
        for path in files()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if FORBIDDEN[what].search(line)
    ]
    assert len(files()) > 50
    assert not found, f"{what}:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("the address of a package index", "https://py" + "pi.org/simple"),
        ("an option that names a package index", "--extra-index" + "-url x"),
        ("an absolute path of one machine", "open('/home" + "/jane/x')"),
        ("an absolute path of one machine", "cd /wo" + "rk/main"),
        ("a path outside the repository", "see ../sha" + "red/x"),
    ],
)
def test_the_patterns_find_what_they_forbid(what: str, line: str) -> None:
    assert FORBIDDEN[what].search(line)


def pins() -> dict[str, str]:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def normalised(name: str) -> str:
    """Package names compared as PEP 503 says."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_constraints_are_bare_names_and_versions() -> None:
    assert all(
        re.fullmatch(r"[\w.-]+", name) and re.fullmatch(r"[\w.!+]+", version)
        for name, version in pins().items()
    )


def test_every_direct_dependency_is_pinned() -> None:
    tables = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    project = tables["project"]
    requirements = [*project["dependencies"], *tables["build-system"]["requires"]]
    for extra in project["optional-dependencies"].values():
        requirements += extra
    names = {normalised(re.match(r"[\w.-]+", text)[0]) for text in requirements}
    missing = names - {"emissions-sidecar"} - {normalised(name) for name in pins()}
    assert not missing


# --- make ---------------------------------------------------------------------------------------

MAKEFILE = (REPOSITORY / "Makefile").read_text()


def test_no_variable_of_the_makefile_hides_one_that_a_script_reads() -> None:
    # make hands a variable that came from the environment on with the value that it gave it.
    own = set(re.findall(r"^(\w+) *[:?]?=", MAKEFILE, re.MULTILINE))
    read = set(re.findall(r"\$\{(\w+):[-+]", (REPOSITORY / "scripts/image.sh").read_text()))
    assert "WHEELHOUSE" in read
    assert not own & read


def test_make_lists_every_target_that_says_what_it_does() -> None:
    run = subprocess.run(
        ["make", "-s", "help"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    described = set(re.findall(r"^([\w-]+):.*## ", MAKEFILE, re.MULTILINE))
    assert set(re.findall(r"^  ([\w-]+) ", run.stdout, re.MULTILINE)) == described
