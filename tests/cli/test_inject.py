"""`inject`: the manifest on standard output, what was done on standard error."""

import io
import json
import sys

import pytest

from sidecar.cli import inject
from sidecar.settings import SettingsError
from tests.injector.goldens import HERE

IMAGE = ("--image", "registry.example.com/emissions-sidecar:0.1.0")


def pod(name="train", **annotations):
    marks = ", ".join(f'emissions/{key}: "{value}"' for key, value in annotations.items())
    return (
        f"kind: Pod\nmetadata: {{name: {name}, annotations: {{{marks}}}}}\n"
        "spec:\n  containers:\n  - name: main\n"
    )


@pytest.fixture
def said(tmp_path, capsys):
    def run(text, *argv):
        file = tmp_path / "pod.yaml"
        file.write_text(text)
        code = inject.main(["-f", str(file), *argv])
        return code, capsys.readouterr()

    return run


def test_a_tracked_pod_is_printed_with_the_sidecar(said) -> None:
    code, text = said(pod(track="true"), *IMAGE)
    assert code == 0
    assert "image: registry.example.com/emissions-sidecar:0.1.0" in text.out
    assert text.err == "emissions-sidecar inject: Pod/train: injected\n"


def test_a_pod_that_does_not_ask_is_printed_as_it_is_with_a_hint(said) -> None:
    code, text = said(pod())
    assert (code, text.out) == (0, pod())
    assert "annotate its pod template emissions/track" in text.err
    assert "--all" in text.err


@pytest.mark.parametrize("flags", [("--all",), ("--namespace-label", "emissions/track=true")])
def test_all_pods_are_taken_where_that_is_asked_for(said, flags) -> None:
    code, text = said(pod() + "---\n" + pod("private", track="false"), *flags, *IMAGE)
    assert code == 0
    assert "Pod/train: injected" in text.err
    assert "Pod/private: skipped: opted out" in text.err
    assert "emissions/status: 'skipped: opted out'" in text.out


def test_a_pod_that_opts_out_of_nothing_is_printed_as_it_is(said) -> None:
    code, text = said(pod(track="false"), *IMAGE)
    assert (code, text.out) == (0, pod(track="false"))
    assert 'Pod/train: left as it is: its emissions/track is "false"' in text.err


def test_an_annotation_on_the_workload_alone_is_told(said) -> None:
    workload = (
        'kind: Job\nmetadata: {annotations: {emissions/track: "true"}}\n'
        "spec: {template: {spec: {containers: []}}}\n"
    )
    _, text = said(workload)
    assert "counts on the pod template" in text.err


def test_a_skip_and_warnings_are_told(said) -> None:
    _, text = said(pod(track="yes", colour="green"), *IMAGE)
    assert 'Pod/train: skipped: emissions/track is neither "true" nor "false"' in text.err
    assert "warning: 'emissions/colour' ignored" in text.err


def test_a_flag_without_quotes_is_no_text(said) -> None:
    unquoted = pod(track="true").replace('"true"', "true")
    _, text = said(unquoted, *IMAGE)
    assert "skipped: emissions/track is neither" in text.err


def test_the_configuration_of_the_chart_is_taken(said) -> None:
    _, text = said(pod(track="true"), "--config", str(HERE / "config.json"))
    assert "emissions-token" in text.out
    assert "name yours with --image" not in text.err


def test_without_an_image_of_yours_the_default_is_told(said) -> None:
    _, text = said(pod(track="true"))
    assert "name yours with --image" in text.err


def test_standard_input_is_read_for_a_dash(monkeypatch, capsys) -> None:
    content = io.BytesIO(pod(track="true").encode())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(content))
    assert inject.main(["-f", "-", *IMAGE]) == 0
    assert "emissions-sidecar" in capsys.readouterr().out


def test_json_stays_json(said) -> None:
    content = {"kind": "Pod", "metadata": {"name": "Bär"}, "spec": {"containers": []}}
    _, text = said(json.dumps(content, ensure_ascii=False), "--all", *IMAGE)
    assert json.loads(text.out)["spec"]["initContainers"][0]["name"] == "emissions-sidecar"
    assert "Bär" in text.out


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("kind: Pod\nspec: [\n", "line 9"),
        ("kind: Pod\nspec: {containers: [1]}\n", "containers[0] is int, not an object"),
    ],
)
def test_what_cannot_be_read_is_exit_1_and_nothing_is_printed(said, text, told) -> None:
    code, output = said(pod(track="true") + "---\n" + text, "--all")
    assert (code, output.out) == (1, "")
    assert told in output.err
    assert "pod.yaml" in output.err


def test_a_file_that_is_not_there_or_no_text_is_exit_1(tmp_path, capsys) -> None:
    assert inject.main(["-f", str(tmp_path / "absent.yaml")]) == 1
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    assert inject.main(["-f", str(tmp_path / "binary")]) == 1
    told = capsys.readouterr().err
    assert "No such file" in told
    assert "utf-8" in told


def test_a_manifest_without_a_pod_is_told(said) -> None:
    code, text = said("kind: Service\n")
    assert (code, text.out) == (0, "kind: Service\n")
    assert "holds no pod" in text.err


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--image", "x:latest"), "latest"),
        (("--namespace-label", "emissions/track"), "KEY=VALUE"),
        (("--config", "absent.json"), "No such file"),
    ],
)
def test_a_wrong_flag_is_one_line(said, flags, told) -> None:
    with pytest.raises(SettingsError, match=told):
        said(pod(), *flags)
