import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.identity.downward import (
    MAX_LABELS,
    PodInfo,
    parse_downward_file,
    read_podinfo,
    valid_annotations,
    valid_project_name,
)

INJECTED = {
    "POD_NAME": "train-0",
    "POD_NAMESPACE": "team-a",
    "POD_UID": "6d0c1f4e-8e0f-4a8e-9f2f-0f3a5b6c7d8e",
    "NODE_NAME": "aks-gpu-12628255-vmss000002",
    "HOST_IP": "10.224.0.5",
}
SHORT_ESCAPES = dict(zip('\a\b\f\n\r\t\v\\"', 'abfnrtv\\"', strict=True))


def quoted(text: str) -> str:
    """Quote as Go's strconv.Quote does: short escapes, else \\x, \\u or \\U if not printable."""
    return '"' + "".join(map(_quoted_character, text)) + '"'


def _quoted_character(character: str) -> str:
    code_point = ord(character)
    if character in SHORT_ESCAPES:
        return "\\" + SHORT_ESCAPES[character]
    if character == " " or unicodedata.category(character)[0] in "LMNPS":
        return character
    if code_point < 0x20 or code_point == 0x7F:
        return f"\\x{code_point:02x}"
    return f"\\u{code_point:04x}" if code_point < 0x10000 else f"\\U{code_point:08x}"


def write_podinfo(
    directory: Path, labels: dict[str, str] | None = None, annotations: dict[str, str] | None = None
) -> Path:
    for name, pairs in (("labels", labels or {}), ("annotations", annotations or {})):
        lines = "".join(f"{key}={quoted(value)}\n" for key, value in sorted(pairs.items()))
        (directory / name).write_text(lines, encoding="utf-8")
    return directory


def failures(info: PodInfo) -> str:
    return "\n".join(
        f"{item.source}: {item.detail}" for item in info.attempts if item.outcome == "failed"
    )


_keys = st.text(
    st.characters(codec="utf-8", exclude_characters='="\n', min_codepoint=33), min_size=1
)


@given(st.dictionaries(_keys, st.text(st.characters(codec="utf-8"))))
def test_what_go_quotes_is_read_back_exactly(pairs: dict[str, str]) -> None:
    content = "".join(f"{key}={quoted(value)}\n" for key, value in pairs.items()).encode()
    assert parse_downward_file(content) == (pairs, [])


@given(st.binary())
def test_arbitrary_bytes_are_parsed_without_an_exception(content: bytes) -> None:
    pairs, problems = parse_downward_file(content)
    assert len(pairs) + len(problems) <= content.count(b"\n") + 1


@given(st.dictionaries(_keys, st.text(st.characters(codec="utf-8")), min_size=1), st.data())
def test_a_torn_file_loses_at_most_its_last_line(
    pairs: dict[str, str], data: st.DataObject
) -> None:
    content = "".join(f"{key}={quoted(value)}\n" for key, value in pairs.items()).encode()
    cut = content[: data.draw(st.integers(0, len(content)))]
    found, problems = parse_downward_file(cut)
    assert found.items() <= pairs.items()
    assert len(found) >= cut.count(b"\n")
    assert len(problems) <= 1


@pytest.mark.parametrize(
    "line",
    [rb'k="\q"', rb'k="\ud800"', rb'k="\U00110000"', rb'k="\xff"', rb'k="\x4"', b'k="\xff"',
     b'k="open', b"k=bare", b'="v"', b'k="a"b"', rb'k="\"', b'k="v" trailing'],
)  # fmt: skip
def test_a_line_that_go_never_writes_is_ignored_and_told(line: bytes) -> None:
    pairs, problems = parse_downward_file(b'good="1"\n' + line + b'\nlast="2"\n')
    assert pairs == {"good": "1", "last": "2"}
    assert problems[0].startswith("line 2 ignored")


def test_the_environment_of_the_injector_names_the_pod(tmp_path: Path) -> None:
    info = read_podinfo(INJECTED, write_podinfo(tmp_path))
    assert {name: found.value for name, found in info.findings.items()} == {
        "pod": "train-0",
        "namespace": "team-a",
        "pod_uid": "6d0c1f4e-8e0f-4a8e-9f2f-0f3a5b6c7d8e",
        "node": "aks-gpu-12628255-vmss000002",
    }
    assert info.findings["pod"].source == "downward-api:POD_NAME"
    assert info.host_ip == "10.224.0.5"
    assert failures(info) == ""


def test_files_name_the_pod_where_the_environment_does_not(tmp_path: Path) -> None:
    write_podinfo(tmp_path)
    (tmp_path / "namespace").write_text("team-b\n")
    found = read_podinfo({"POD_NAMESPACE": ""}, tmp_path).findings["namespace"]
    assert (found.value, found.source) == ("team-b", "downward-api:file namespace")


def test_the_topology_labels_give_region_and_zone(tmp_path: Path) -> None:
    labels = {
        "topology.kubernetes.io/region": "West Europe",
        "topology.kubernetes.io/zone": "westeurope-1",
    }
    found = read_podinfo(INJECTED, write_podinfo(tmp_path, labels)).findings
    assert found["region"].value == "westeurope"
    assert found["region"].source == "downward-api:label topology.kubernetes.io/region"
    assert found["zone"].value == "1"


def test_a_node_outside_any_zone_has_no_zone(tmp_path: Path) -> None:
    write_podinfo(tmp_path, {"topology.kubernetes.io/zone": "0"})
    assert "zone" not in read_podinfo(INJECTED, tmp_path).findings


def test_the_region_of_the_environment_serves_without_the_label(tmp_path: Path) -> None:
    info = read_podinfo({**INJECTED, "NODE_REGION": "eastus"}, write_podinfo(tmp_path))
    assert info.findings["region"].source == "downward-api:NODE_REGION"


def test_a_region_that_is_none_is_refused(tmp_path: Path) -> None:
    write_podinfo(tmp_path, {"topology.kubernetes.io/region": "../etc"})
    info = read_podinfo(INJECTED, tmp_path)
    assert "region" not in info.findings
    assert "is not the name of a region" in failures(info)


@pytest.mark.parametrize(
    ("labels", "workload"),
    [
        ({"app.kubernetes.io/name": "trainer", "job-name": "j"}, "trainer"),
        ({"batch.kubernetes.io/job-name": "new", "job-name": "old"}, "new"),
        ({"job-name": "old", "volcano.sh/job-name": "v"}, "old"),
        ({"volcano.sh/job-name": "v"}, "v"),
        ({"app": "other"}, None),
    ],
)
def test_the_workload_is_read_from_labels_in_order(
    tmp_path: Path, labels: dict[str, str], workload: str | None
) -> None:
    found = read_podinfo(INJECTED, write_podinfo(tmp_path, labels)).findings.get("workload")
    assert (found.value if found else None) == workload


@pytest.mark.parametrize(
    ("labels", "workload"), [({}, "PyTorchJob/bert"), ({"app.kubernetes.io/name": "bert"}, "bert")]
)
def test_what_controls_the_pod_is_the_workload_where_no_label_names_it(
    tmp_path: Path, labels: dict[str, str], workload: str
) -> None:
    environ = {**INJECTED, "POD_WORKLOAD": "PyTorchJob/bert"}
    found = read_podinfo(environ, write_podinfo(tmp_path, labels)).findings["workload"]
    assert found.value == workload
    assert not labels or "label" in found.source
    assert labels or found.source == "downward-api:POD_WORKLOAD"


def test_the_run_of_azureml_is_read_from_its_label(tmp_path: Path) -> None:
    write_podinfo(tmp_path, {"ml.azure.com/run-id": "run_7"})
    assert read_podinfo(INJECTED, tmp_path).findings["run_id"].value == "run_7"


def test_the_annotation_names_the_project_before_the_labels(tmp_path: Path) -> None:
    write_podinfo(tmp_path, {"app.kubernetes.io/part-of": "b"}, {"emissions/project": "a/b 🌱"})
    found = read_podinfo(INJECTED, tmp_path).findings["project"]
    assert (found.value, found.source) == ("a/b 🌱", "downward-api:annotation emissions/project")


def test_a_bad_project_annotation_is_told_and_the_label_takes_over(tmp_path: Path) -> None:
    write_podinfo(
        tmp_path,
        {"app.kubernetes.io/part-of": "part", "ml.azure.com/workspace": "ws"},
        {"emissions/project": "two\nlines"},
    )
    info = read_podinfo(INJECTED, tmp_path)
    assert info.findings["project"].value == "part"
    assert "'emissions/project' ignored, the default holds" in failures(info)


def test_the_workspace_label_is_the_last_label_for_the_project(tmp_path: Path) -> None:
    write_podinfo(tmp_path, {"ml.azure.com/workspace": "ws"})
    assert read_podinfo(INJECTED, tmp_path).findings["project"].value == "ws"


def test_only_annotations_of_ours_are_kept(tmp_path: Path) -> None:
    write_podinfo(tmp_path, None, {"emissions/track": "true", "vault/secret": "s3cret"})
    info = read_podinfo(INJECTED, tmp_path)
    assert info.annotations == {"emissions/track": "true"}


def test_annotations_are_bounded_in_number_and_length(tmp_path: Path) -> None:
    many = {f"emissions/x{number:03}": "v" for number in range(100)}
    write_podinfo(tmp_path, None, {**many, "emissions/project": "p" * 5000})
    info = read_podinfo(INJECTED, tmp_path)
    assert len(info.annotations) == 64
    assert "emissions/project" not in info.annotations
    assert "over-long or too many" in failures(info)


def test_labels_are_bounded_and_the_ones_of_use_are_kept(tmp_path: Path) -> None:
    many = {f"a{number:03}": "v" for number in range(100)}
    write_podinfo(tmp_path, {**many, "volcano.sh/job-name": "job", "long": "x" * 64, "bad": "a\nb"})
    info = read_podinfo(INJECTED, tmp_path)
    assert len(info.labels) == MAX_LABELS
    assert info.findings["workload"].value == "job"
    assert not {"long", "bad"} & info.labels.keys()
    assert "2 over-long or unprintable ignored" in failures(info)


def test_a_missing_file_is_told_and_the_rest_is_read(tmp_path: Path) -> None:
    write_podinfo(tmp_path, {"job-name": "j"})
    (tmp_path / "annotations").unlink()
    info = read_podinfo(INJECTED, tmp_path)
    assert info.findings["workload"].value == "j"
    assert "annotations is missing" in failures(info)


def test_a_pod_without_the_volume_is_told(tmp_path: Path) -> None:
    info = read_podinfo(INJECTED, tmp_path / "none")
    assert info.findings["pod"].value == "train-0"
    assert "no such directory" in failures(info)


def test_at_a_shell_nothing_is_found_and_nothing_failed(tmp_path: Path) -> None:
    info = read_podinfo({}, tmp_path / "none")
    assert not info.findings
    assert [attempt.outcome for attempt in info.attempts] == ["skipped"]


def test_a_named_pipe_in_place_of_a_file_does_not_hold_us(tmp_path: Path) -> None:
    write_podinfo(tmp_path)
    (tmp_path / "labels").unlink()
    os.mkfifo(tmp_path / "labels")
    assert "not a regular file" in failures(read_podinfo(INJECTED, tmp_path))


def test_a_huge_file_is_read_to_a_bound(tmp_path: Path) -> None:
    write_podinfo(tmp_path)
    with (tmp_path / "labels").open("wb") as file:
        file.write(b'job-name="j"\nx="')
        file.truncate(1024**3)
    info = read_podinfo(INJECTED, tmp_path)
    assert info.findings["workload"].value == "j"
    assert "the rest is ignored" in failures(info)


def test_a_variable_with_control_characters_is_refused(tmp_path: Path) -> None:
    info = read_podinfo({**INJECTED, "POD_NAME": "a\x1b[31mb"}, write_podinfo(tmp_path))
    assert "pod" not in info.findings
    assert "\x1b" not in failures(info)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("track", "true"), ("track", "false"), ("project", "p"), ("experiment", "e 1"),
        ("interval", "15s"), ("interval", "1m"), ("volume", "records"), ("mount", "true"),
        ("mount", "/var/run/emissions"), ("budget", "5 kg"), ("budget", "0.5kWh"),
        ("share-process-namespace", "true"), ("status", "skipped: windows"), ("injector", "1.0"),
    ],
)  # fmt: skip
def test_a_good_annotation_is_taken_as_written(key: str, text: str) -> None:
    assert valid_annotations({f"emissions/{key}": f" {text} "}) == ({key: text}, ())


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("track", "yes"), ("track", ""), ("project", ""), ("project", "a\x00b"), ("interval", "0s"),
        ("interval", "soon"), ("interval", "2h"), ("volume", "A_b"), ("mount", "../x"),
        ("mount", "/a/../b"), ("budget", "-1 kg"), ("budget", "0 kg"), ("budget", "5"),
        ("share-process-namespace", "1"), ("status", "a\nb"), ("trakc", "true"), ("", "x"),
    ],
)  # fmt: skip
def test_an_unknown_or_bad_annotation_is_left_out_and_told(key: str, text: str) -> None:
    valid, (attempt,) = valid_annotations({f"emissions/{key}": text})
    assert valid == {}
    assert attempt.outcome == "failed"
    assert "the default holds" in attempt.detail
    assert attempt.detail.isprintable()


@given(st.dictionaries(st.text(), st.text()))
def test_arbitrary_annotations_never_raise(annotations: dict[str, str]) -> None:
    ours = {f"emissions/{key}": value for key, value in annotations.items()}
    valid, attempts = valid_annotations(ours)
    assert len(valid) + len(attempts) == len(ours)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("  nlp ", "nlp"), ("a/../b", "a/../b"), ("🌍👩‍💻", "🌍👩‍💻"), ("проект", "проект"),
        ("=cmd|' /C calc'!A0", "=cmd|' /C calc'!A0"), ("x" * 200, "x" * 200),
    ],
)  # fmt: skip
def test_a_project_name_may_be_anything_readable(text: str, name: str) -> None:
    assert valid_project_name(text) == name


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"), (" \t ", "empty"), ("a\nb", "control"), ("a\x00", "control"),
        ("a\u2028b", "control"), ("\u202egpj", "control"), ("\ud800", "control"),
        ("\u200d", "invisible"), ("x" * 201, "200 characters"), ("🌍" * 129, "512 bytes"),
    ],
)  # fmt: skip
def test_a_project_name_that_would_harm_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as raised:
        valid_project_name(text)
    assert str(raised.value).isprintable()


@given(st.text())
def test_a_project_name_that_passes_passes_again_unchanged(text: str) -> None:
    try:
        name = valid_project_name(text)
    except ValueError:
        return
    assert valid_project_name(name) == name
    assert 0 < len(name) <= 200
    assert len(name.encode()) <= 512
