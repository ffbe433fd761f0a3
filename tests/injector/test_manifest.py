"""Manifests: what is injected, and what of the text stays as it is."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from sidecar.injector.inject import inject
from sidecar.injector.manifest import ManifestError, inject_manifest
from tests.injector.goldens import CONFIG

TRACKED = {"emissions/track": "true"}
NAME = "emissions-sidecar"


def written(text, labels=TRACKED):
    return inject_manifest(text, lambda pod: inject(pod, labels, CONFIG))


def loaded(text):
    return list(YAML(typ="safe", pure=True).load_all(text))


def names(template):
    return [one["name"] for one in template["spec"].get("initContainers", [])]


JOB = """\
# the nightly training
---
apiVersion: batch/v1
kind: Job
metadata: {name: train}   # as short as can be
spec:
  backoffLimit: 0
  template:
    metadata:
      annotations:
        emissions/track: 'true'
    spec:
      # one container is enough
      containers:
        - name: train  # the one
          image: "registry.example.com/train:1"
          args: ["--epochs", '3', "--note=a very long text that is on one line, and that stays on one"]
      restartPolicy: Never
# that is all
"""


def test_only_lines_are_added_to_a_document_that_changes() -> None:
    result = written(JOB).text
    left = iter(result.splitlines())
    assert all(line in left for line in JOB.splitlines())  # all of them, in order
    assert names(loaded(result)[0]["spec"]["template"]) == [NAME]


def test_the_indentation_of_lists_is_kept() -> None:
    assert "\n        - name: emissions-sidecar\n" in written(JOB).text
    flat = JOB.replace("        - name: train  # the one", "      - name: train").replace(
        "          image", "        image"
    )
    flat = flat.replace("          args", "        args")
    assert "\n      - name: emissions-sidecar\n" in written(flat).text


@pytest.mark.parametrize(
    "text",
    [
        "kind:   ConfigMap\ndata: {a:   b}   # odd   spacing\n",
        "",
        "# nothing\n",
        "---\n---\n# still nothing\n...\n",
        "%YAML 1.1\n---\nkind: Service\n",
        "- a\n-    b\n",
        "just: |\n  text with\n  --- in it\n",
        '{"kind":   "ConfigMap"}',
        "a: &x {b: 1}\nc: *x\n",
        "no newline: at the end",
        "\ufeffkind: Service\r\nspec:   {}\r\n",
        "kind: Deployment\nspec: {template: text, containers: 1}\n",
    ],
)
def test_what_holds_no_pod_is_kept_byte_for_byte(text) -> None:
    assert written(text).text == text
    assert written(text).workloads == ()


def test_documents_around_one_that_changes_keep_their_bytes() -> None:
    before, after = "kind:   Service # x\n", "---\nkind:   Secret\ndata: {}\n...\n# end\n"
    result = written(before + JOB[JOB.index("---") :] + after).text
    assert result.startswith(before)
    assert result.endswith(after)


def test_a_manifest_injected_again_keeps_its_bytes() -> None:
    once = written(JOB).text
    assert written(once).text == once


POD_SPEC = {"containers": [{"name": "train", "image": "registry.example.com/train:1"}]}
TEMPLATE = {"metadata": {"labels": {"app": "x"}}, "spec": POD_SPEC}


def replicas(*kinds):
    return {kind: {"replicas": 1, "template": TEMPLATE} for kind in kinds}


@pytest.mark.parametrize(
    ("kind", "body", "told"),
    [
        ("Pod", {"spec": POD_SPEC}, ["Pod/x"]),
        ("Deployment", {"spec": {"template": TEMPLATE}}, ["Deployment/x"]),
        ("StatefulSet", {"spec": {"template": TEMPLATE}}, ["StatefulSet/x"]),
        ("DaemonSet", {"spec": {"template": TEMPLATE}}, ["DaemonSet/x"]),
        ("ReplicaSet", {"spec": {"template": TEMPLATE}}, ["ReplicaSet/x"]),
        ("ReplicationController", {"spec": {"template": TEMPLATE}}, ["ReplicationController/x"]),
        ("Job", {"spec": {"template": TEMPLATE}}, ["Job/x"]),
        ("CronJob", {"spec": {"jobTemplate": {"spec": {"template": TEMPLATE}}}}, ["CronJob/x"]),
        ("PodTemplate", {"template": TEMPLATE}, ["PodTemplate/x"]),
        (
            "List",
            {"items": [{"kind": "Pod", "metadata": {"name": "a"}, "spec": POD_SPEC}] * 2},
            ["Pod/a", "Pod/a"],
        ),
        (
            "Job",  # Volcano's
            {"spec": {"tasks": [{"name": "worker", "template": TEMPLATE}]}},
            ["Job/x (worker)"],
        ),
        (
            "PyTorchJob",
            {"spec": {"pytorchReplicaSpecs": replicas("Master", "Worker")}},
            ["PyTorchJob/x (Master)", "PyTorchJob/x (Worker)"],
        ),
        ("TFJob", {"spec": {"tfReplicaSpecs": replicas("Chief")}}, ["TFJob/x (Chief)"]),
        ("MPIJob", {"spec": {"mpiReplicaSpecs": replicas("Launcher")}}, ["MPIJob/x (Launcher)"]),
    ],
)
@pytest.mark.parametrize("form", ["yaml", "json", "compact"])
def test_each_pod_template_of_any_workload_is_found(kind, body, told, form) -> None:
    content = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "x"}, **body}
    text = json.dumps(content, indent=None if form == "compact" else 2)
    text = f"---\n{text}\n" if form == "yaml" else text
    result = written(text)
    assert [one.name for one in result.workloads] == told
    assert all(one.decision.status == "injected" for one in result.workloads)
    assert json.dumps(loaded(result.text)).count('"name": "emissions-sidecar"') == len(told)
    if form != "yaml":
        assert json.loads(result.text)["kind"] == kind
        assert ("\n" in result.text) == ("\n" in text)


def test_what_anchors_share_changes_where_it_is_asked_for_only() -> None:
    text = """\
kind: List
items:
- kind: Job
  metadata: {name: one}
  spec:
    template: &template
      metadata: {annotations: {emissions/track: "true", emissions/mount: "true"}}
      spec:
        volumes: &volumes [{name: data, emptyDir: {}}]
        containers:
        - {name: a, volumeMounts: &mounts [{name: data, mountPath: /data}]}
        - {name: b, volumeMounts: *mounts}
- kind: Job
  metadata: {name: two}
  spec: {template: *template}
- kind: Other
  spec: {volumes: *volumes}
"""
    result = written(text, {})
    one, two, other = loaded(result.text)[0]["items"]
    for job in (one, two):
        spec = job["spec"]["template"]["spec"]
        assert names(job["spec"]["template"]) == [NAME]
        assert len(spec["volumes"]) == 1 + len(CONFIG.volumes)
        assert [len(container["volumeMounts"]) for container in spec["containers"]] == [2, 2]
    assert other["spec"]["volumes"] == [{"name": "data", "emptyDir": {}}]


def test_an_annotation_on_the_workload_alone_is_noticed() -> None:
    text = """\
kind: Deployment
metadata: {annotations: {emissions/track: "true"}}
spec: {template: {spec: {containers: []}}}
"""
    (workload,) = written(text, {}).workloads
    assert workload.is_marked_outside
    assert workload.decision.operations == ()


def test_line_ends_of_windows_stay() -> None:
    result = written(JOB.replace("\n", "\r\n")).text
    assert result.count("\n") == result.count("\r\n") > 50


LAUGHS = "a0: &a0 [x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 8)
)
"""Aliases of aliases: a hundred million nodes."""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("kind: Pod\nspec: [\n", 3),
        ("a: 1\n---\nb: 1\n---\nc: 1\nc: 2\n", 6),
        ("# x\n\n---\n# y\na: b: c\n", 5),
        ("{a: b\n", 2),
        ("[" * 100_000, 1),
        (LAUGHS, 1),
    ],
    ids=["open", "key twice", "after comments", "flow", "deep", "aliases"],
)
def test_what_cannot_be_read_is_told_with_its_line(text, line) -> None:
    with pytest.raises(ManifestError, match=f"line {line}\\b"):
        written(text)


@given(st.lists(st.sampled_from(["---\n", "a: b\n", "# c\n", "...\n", "\n", "- x\n", "{", "'"])))
def test_any_text_is_kept_or_refused(pieces) -> None:
    text = "".join(pieces)
    try:
        result = written(text)
    except ManifestError as error:
        assert "line" in str(error)
    else:
        assert result.text == text


def test_text_that_yaml_1_1_reads_otherwise_is_quoted() -> None:
    """kubectl reads YAML 1.1, in which NO is false: Norway's code would be no country."""
    sidecar = {**CONFIG.container, "env": [{"name": "EMISSIONS_COUNTRY", "value": "NO"}]}
    config = dataclasses.replace(CONFIG, container=sidecar)
    text = inject_manifest(JOB, lambda pod: inject(pod, TRACKED, config)).text
    assert "value: 'NO'" in text


@pytest.mark.parametrize(
    "scalar", ["2024-01-01T10:00:00.5Z", "1_2.5", "1e-400", "0.10", "2024-01-01"]
)
def test_numbers_and_times_of_the_user_keep_their_spelling(scalar) -> None:
    text = JOB.replace("backoffLimit: 0", f"other: {scalar}")
    assert f"other: {scalar}\n" in written(text).text


@pytest.mark.parametrize(
    ("text", "told"),
    [('{"a": 1e400}', "no number that JSON can hold"), ('{"a": 1, "a": 2}', "stands twice")],
)
def test_json_that_could_not_be_written_again_is_refused(text, told) -> None:
    with pytest.raises(ManifestError, match=told):
        written(text)


def test_a_lone_surrogate_in_json_stays_escaped() -> None:
    pod = {"kind": "Pod", "spec": {"containers": [{"name": "a", "image": "\ud800"}]}}
    assert "\\ud800" in written(json.dumps(pod)).text
