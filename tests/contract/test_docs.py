"""The documentation says what the code does: links, flags, outputs, numbers, messages."""

import ast
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from sidecar.catalogue.lookup import Catalogue
from sidecar.cli import main as command_line
from sidecar.cli.estimate import what_if_row
from sidecar.cli.options import add_settings, command_parser, settings_from
from sidecar.cli.tables import Units
from sidecar.estimate.bounded import Bounded
from sidecar.estimate.embodied import Server, server_kg
from sidecar.estimate.power import RAM_POWER
from sidecar.estimate.what_if import WhatIf
from sidecar.exporters.codecarbon_csv import COLUMNS
from sidecar.factors import AVERAGE_IDLE, AVERAGE_MAX, NO_PUE, UNLISTED_GPU_IDLE
from sidecar.identity.azureml import READ_NAMES
from sidecar.settings import declared_settings, environment_name, load_settings

REPOSITORY = Path(__file__).parent.parent.parent
DOCS = REPOSITORY / "docs"
PAGES = sorted(
    (
        *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        *DOCS.rglob("*.md"),
    )
)
WRITTEN = [page for page in PAGES if page.parent.name != "reference"]
POWER_MODEL = DOCS / "explanation" / "power-model.md"
MANIFEST = DOCS / "how-to" / "run-as-a-container-sidecar-by-hand.md"
TROUBLESHOOTING = DOCS / "how-to" / "troubleshooting.md"
PICTURE = DOCS / "images" / "what-comes-out.svg"

FENCE = re.compile(r"^```(?P<kind>\w*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
FOREIGN_FLAGS = {
    "--no-cache-dir", "--epochs", "--set", "--force-conflicts", "--attach-acr",
    "--reset-then-reuse-values",
    # of `codecarbon monitor`, held to it by test_monitor_table.py
    "--project-name", "--measure-power-secs", "--api-call-interval", "--api", "--no-api", "--offline",
    "--no-offline", "--country-iso-code",
}  # fmt: skip


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(REPOSITORY)) for path in paths]


def load_writer() -> ModuleType:
    path = REPOSITORY / "scripts" / "write_reference.py"
    spec = importlib.util.spec_from_file_location("write_reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


WRITER = load_writer()


# --- reference ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITER.PAGES)
def test_a_reference_page_is_what_the_code_writes(name: str) -> None:
    written = (DOCS / "reference" / name).read_text(encoding="utf-8")
    fresh = WRITER.PAGES[name]()
    if name == "commands.md":  # argparse wraps lines differently from one Python to the next
        written, fresh = " ".join(written.split()), " ".join(fresh.split())
    assert written == fresh, "run `make docs`"


def test_every_command_table_and_column_is_described() -> None:
    tables = {path.name for path in WRITER.TABLES_DIRECTORY.glob("*.csv")}
    assert tables == set(WRITER.TABLE_TEXTS)
    assert set(COLUMNS) == set(WRITER.CSV_COLUMNS)
    assert {words[0] for words in WRITER.command_words()} == set(command_line.COMMANDS)


# --- links --------------------------------------------------------------------------------------


def without_code(text: str) -> str:
    return CODE.sub("`code`", FENCE.sub("", text))


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    found: dict[str, int] = {}
    result = set()
    for heading in HEADING.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        count = found.get(slug, 0)
        found[slug] = count + 1
        result.add(f"{slug}-{count}" if count else slug)
    return result


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    broken = []
    for target in LINK.findall(without_code(page.read_text(encoding="utf-8"))):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        inside = file.is_relative_to(REPOSITORY.resolve())
        if not (inside and file.exists()) or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


def test_every_page_is_reached_from_the_index() -> None:
    linked = {
        (DOCS / target.partition("#")[0]).resolve()
        for target in LINK.findall((DOCS / "README.md").read_text(encoding="utf-8"))
    }
    assert {page.resolve() for page in DOCS.rglob("*.md")} - linked == {
        (DOCS / "README.md").resolve()
    }


# --- commands, flags, settings ------------------------------------------------------------------


def code_lines(page: Path) -> Iterator[str]:
    """Lines of code blocks (continued ones joined) and spans of code."""
    text = page.read_text(encoding="utf-8")
    for fence in FENCE.finditer(text):
        if fence["kind"] != "text":
            yield from fence["body"].replace("\\\n", " ").splitlines()
    yield from CODE.findall(FENCE.sub("", text))


def documented_commands() -> set[tuple[str, ...]]:
    """Every command line of ours in the pages, without its first word and what follows a pipe."""
    found = set()
    for page in WRITTEN:
        for line in code_lines(page):
            match = re.match(r"(?:\$ |command: )?(?:\S*/)?emissions-sidecar (?=\w)(.*)", line)
            if match:
                words = shlex.split(match[1].replace(" …", " x"), comments=True)
                found.add(tuple(words))
    return found


COMMAND_LINES = sorted(documented_commands())


def test_the_pages_show_every_command() -> None:
    assert {words[0] for words in COMMAND_LINES} == set(command_line.COMMANDS)


def own_words(words: tuple[str, ...]) -> list[str]:
    """The words before `--`: what follows is another program's."""
    return list(words[: words.index("--")] if "--" in words else words)


@pytest.mark.parametrize("words", COMMAND_LINES, ids=" ".join)
def test_a_documented_command_has_the_flags_it_is_shown_with(words: tuple[str, ...]) -> None:
    own = own_words(words)
    command = tuple(own[:2]) if own[0] in ("catalogue", "config") else (own[0],)
    assert command in set(WRITER.command_words())
    known = set(re.findall(r"--[a-z-]+", WRITER.help_of(*command)))
    used = {word.partition("=")[0] for word in own if word.startswith("--")}
    assert used <= known
    assert command != ("exec",) or "--" in words or words == ("exec",)


@pytest.mark.parametrize("words", COMMAND_LINES, ids=" ".join)
def test_a_documented_command_gives_settings_values_they_take(words: tuple[str, ...]) -> None:
    parser = command_parser(words[0], "", ())
    add_settings(parser, {item.name for item in declared_settings()} - {"config"})  # names a file
    arguments, _ = parser.parse_known_args(own_words(words)[1:])
    settings = settings_from(arguments, {})
    given = {word.partition("=")[0] for word in own_words(words) if word.startswith("--")}
    for origin in settings.origins.values():
        assert origin == "default" or origin.removeprefix("flag ") in given


@pytest.mark.parametrize("page", WRITTEN, ids=names(WRITTEN))
def test_a_page_names_only_flags_and_variables_that_exist(page: Path) -> None:
    flags = set().union(
        *(re.findall(r"--[a-z][a-z-]*", WRITER.help_of(*w)) for w in WRITER.command_words())
    )
    text = page.read_text(encoding="utf-8")
    spans = CODE.findall(FENCE.sub("", text))
    named = {flag for span in spans for flag in re.findall(r"^--[a-z][a-z-]*[a-z]", span)}
    prefixes = {flag for flag in named if any(known.startswith(f"{flag}-") for known in flags)}
    assert named - prefixes - FOREIGN_FLAGS <= flags
    variables = {environment_name(item.name) for item in declared_settings()}
    shown = set(re.findall(r"EMISSIONS_[A-Z]+(?:_[A-Z]+)*(?!_?[*…])", text))
    assert {name for name in shown if not is_beginning(name, text)} <= variables


def is_beginning(name: str, text: str) -> bool:
    """Whether a name only stands as the beginning of others: `EMISSIONS_REQUESTS_*`."""
    return not re.search(rf"{name}(?![A-Z_*…])", text)


# --- outputs ------------------------------------------------------------------------------------


def shown_outputs() -> list[tuple[str, str]]:
    return [
        (command.removeprefix("$ emissions-sidecar "), output)
        for page in WRITTEN
        for fence in FENCE.finditer(page.read_text(encoding="utf-8"))
        if fence["kind"] == "console"
        for command, _, output in [fence["body"].partition("\n")]
    ]


@pytest.mark.parametrize(("command", "output"), shown_outputs())
def test_a_shown_output_is_what_the_command_prints(
    command: str, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line.main(shlex.split(command)) == 0
    pattern = "".join(
        r"(?:.*\n)*?" if line == "…" else re.escape(line).replace("…", ".*") + r" *\n"
        for line in output.splitlines()
    )
    printed = capsys.readouterr().out
    assert re.fullmatch(pattern, printed), printed


def test_the_tutorial_shows_the_columns_that_the_report_has() -> None:
    text = (DOCS / "tutorials" / "first-measurement.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^  (project   runs .*)$", text, re.MULTILINE)
    headings = Units.of([{"energy_kwh": 3.1e-5, "emissions_g": 0.0147}]).headings
    assert tuple(re.split(" {2,}", shown)) == headings


# --- numbers ------------------------------------------------------------------------------------


def estimated() -> dict:
    flags = {"vm_size": "Standard_NC24ads_A100_v4", "region": "westeurope"}
    what_if = WhatIf(duration_s=3600, cpu_utilization=0.5, gpu_utilization=Bounded.exact(0.9))
    return what_if_row(load_settings(flags, {}), what_if)


def results_of_the_example() -> dict[str, tuple[float, str]]:
    """Result and computation of each step of the worked example."""
    text = POWER_MODEL.read_text(encoding="utf-8").partition("## A worked example")[2]
    rows = re.findall(r"^\| (\w+) \| (.*) \| ([\d.]+)(?: \w+)? \|$", text, re.MULTILINE)
    return {step: (float(result), computation) for step, computation, result in rows}


def test_the_worked_example_is_what_the_code_computes() -> None:
    row, shown = estimated(), results_of_the_example()
    server = server_kg(Server(memory_gib=880, cpus=2)) * 24 / 96
    expected = {
        "CPU": (row["node_cpu_energy_kwh"] * 1000, 2),
        "RAM": (row["node_ram_energy_kwh"] * 1000, 2),
        "GPU": (row["node_gpu_energy_kwh"] * 1000, 2),
        "energy": (row["energy_kwh"] * 1000, 2),
        "facility": (row["facility_energy_kwh"] * 1000, 2),
        "emissions": (row["emissions_g"], 2),
        "low": (row["emissions_low_g"], 2),
        "high": (row["emissions_high_g"], 2),
        "embodied": (row["embodied_g"], 2),
        "water": (row["water_l"], 5),
        "server": (server, 2),
        "threads": (48, 0),
    }
    assert {step: result for step, (result, _) in shown.items()} == {
        step: round(value, digits) for step, (value, digits) in expected.items()
    }


@pytest.mark.parametrize("step", ["CPU", "RAM", "GPU", "server"])
def test_the_computation_of_the_example_gives_its_result(step: str) -> None:
    result, computation = results_of_the_example()[step]
    formula = re.sub(r" W/GiB| W| GiB| · 1 h| kg, shared 24 of 96 vCPUs", "", computation)
    value = arithmetic(formula.replace("·", "*").replace("−", "-"))
    assert value * (24 / 96 if step == "server" else 1) == pytest.approx(result, abs=0.006)


def arithmetic(text: str) -> float:
    """Compute sums and products of numbers."""
    assert re.fullmatch(r"[\d.()+*\- ]+", text), text
    return float(eval(compile(ast.parse(text, mode="eval"), "docs", "eval")))


def test_the_figures_in_the_example_are_those_of_the_catalogue() -> None:
    cpu = Catalogue().cpu("AMD EPYC 7V13")
    gpu = Catalogue().gpu("NVIDIA A100 80GB PCIe")
    shown = results_of_the_example()
    assert f"({cpu.idle_per_thread.value:g} + ({cpu.max_per_thread.value:g} −" in shown["CPU"][1]
    assert shown["RAM"][1].startswith(f"{RAM_POWER.value:.6g} W/GiB")
    assert f"({gpu.idle.value:g} + ({gpu.tdp.value:g} −" in shown["GPU"][1]


def test_the_figures_named_in_the_power_model_are_those_of_the_code() -> None:
    text = " ".join(POWER_MODEL.read_text(encoding="utf-8").split())
    fleet = Catalogue().fleet_efficiency()
    idle = UNLISTED_GPU_IDLE
    for figure in (
        f"{AVERAGE_IDLE.value:g} and {AVERAGE_MAX.value:g} W per thread",
        f"Azure's average ({fleet.pue.value:g})",
        f"Azure's average ({fleet.wue.value:g})",
        f"{NO_PUE.value:.1f} with an upper bound of {NO_PUE.high:g}",
        f"{idle.value:g} ({idle.low:g} to {idle.high:g}) of the limit",
    ):
        assert figure in text


def test_the_picture_shows_the_numbers_of_the_estimate() -> None:
    row = estimated()
    text = " ".join(ElementTree.parse(PICTURE).getroot().itertext())
    for value, unit in (
        (row["cpu_energy_kwh"] * 1000, " Wh"),
        (row["ram_energy_kwh"] * 1000, " Wh"),
        (row["gpu_energy_kwh"] * 1000, " Wh"),
        (row["energy_kwh"] * 1000, " Wh"),
        (row["facility_energy_kwh"] * 1000, " Wh"),
        (row["carbon_intensity_g_per_kwh"], " g/kWh"),
        (row["emissions_g"], " g CO2e"),
        (row["emissions_low_g"], ""),
        (row["emissions_high_g"], ""),
    ):
        assert f"{value:.3g}{unit}" in text


def test_the_energy_mix_in_the_how_to_gives_the_intensity_it_says() -> None:
    text = (DOCS / "how-to" / "set-the-carbon-intensity.md").read_text(encoding="utf-8")
    left, right = re.search(r"mix ([\d. +·]+) = ([\d.]+) g/kWh", text).groups()
    by_name = {source.name: source.intensity.value for source in Catalogue().energy_sources()}
    expected = 0.2 * by_name["coal"] + 0.3 * by_name["gas"] + 0.5 * by_name["wind"]
    assert arithmetic(left.replace("·", "*")) == pytest.approx(expected) == float(right)


def test_the_privacy_page_counts_the_variables_of_azureml() -> None:
    text = (DOCS / "explanation" / "privacy-and-safety.md").read_text(encoding="utf-8")
    assert len(READ_NAMES) == 9
    assert "nine variables of AzureML" in text


# --- messages -----------------------------------------------------------------------------------


def strings_of_the_code() -> str:
    """All texts in the source, those of one f-string joined by `…` for what is filled in."""
    texts = []
    for path in sorted((REPOSITORY / "sidecar").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (v.value if isinstance(v, ast.Constant) else "…" for v in node.values)
                texts.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(re.sub(r"%[ds.\dg]+", "…", node.value))
    return "\n".join(texts)


def documented_messages() -> list[str]:
    text = TROUBLESHOOTING.read_text(encoding="utf-8")
    return re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)


STRINGS = strings_of_the_code()


@pytest.mark.parametrize("message", documented_messages())
def test_a_message_in_troubleshooting_is_one_of_the_code(message: str) -> None:
    parts = [part.strip("` ") for part in message.split("…")]
    fixed = [part for part in parts if len(part) > 3]
    assert fixed
    assert all(part in STRINGS for part in fixed)


# --- the manifest -------------------------------------------------------------------------------


def manifest() -> str:
    text = MANIFEST.read_text(encoding="utf-8")
    return next(fence["body"] for fence in FENCE.finditer(text) if fence["kind"] == "yaml")


def block(text: str, key: str) -> str:
    """The lines under a key of a manifest, by their indentation."""
    match = re.search(rf"^( *){key}:\n((?:\1 +.*\n)+)", text, re.MULTILINE)
    assert match, key
    return match[2]


def test_the_manifest_has_a_native_sidecar_that_holds_nothing_up() -> None:
    sidecar = block(manifest(), "initContainers")
    assert re.search(r"^      restartPolicy: Always$", sidecar, re.MULTILINE)
    assert not re.search(r"(startup|readiness)Probe", sidecar)
    assert "privileged" not in manifest()
    assert "hostPath" not in manifest()


def test_the_manifest_sets_variables_that_are_read() -> None:
    variables = set(re.findall(r"- name: ([A-Z_]+)$", block(manifest(), "env"), re.MULTILINE))
    settings = {environment_name(item.name) for item in declared_settings()}
    ours = {name for name in variables if name.startswith("EMISSIONS_")}
    assert ours <= settings
    assert variables - ours == {
        "POD_NAME", "POD_NAMESPACE", "POD_UID", "NODE_NAME", "TRAIN_CPU_MILLI",
    }  # fmt: skip


def test_the_manifest_is_well_formed_as_far_as_can_be_told_without_a_parser() -> None:
    text = manifest()
    assert "\t" not in text
    assert text.count("{") == text.count("}")
    for line in text.splitlines():
        assert (len(line) - len(line.lstrip())) % 2 == 0
        assert re.match(r" *(- )?[\w./-]+:( |$)|\s*- \{", line), line
    mounted = set(re.findall(r"\{ name: (\w+), mountPath", text))
    volumes = set(re.findall(r"^    - name: (\w+)$", block(text, "  volumes"), re.MULTILINE))
    assert mounted == volumes == {"emissions", "podinfo"}


# --- faults -------------------------------------------------------------------------------------


def named_tests(page: str) -> set[str]:
    """The tests that a page of explanations names."""
    text = (DOCS / "explanation" / page).read_text(encoding="utf-8")
    return set(re.findall(r"`(test_\w+)`", text))


def written_tests(directory: str) -> set[str]:
    """The tests below a directory."""
    return {
        name
        for path in (REPOSITORY / directory).rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }


def test_the_table_of_faults_names_every_test_of_them_and_no_other() -> None:
    assert named_tests("faults.md") == written_tests("tests/faults")


def test_the_threat_model_names_every_hostile_test_and_none_that_there_is_not() -> None:
    named = named_tests("threat-model.md")
    assert written_tests("tests/hostile") - named == set()
    assert named - written_tests("tests") == set()
