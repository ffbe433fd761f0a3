"""The golden corpus: each pod gets what its expected file says."""

import copy
import json
import os

import pytest

from sidecar.injector.inject import inject
from sidecar.injector.patch import patched
from tests.injector.goldens import CONFIG, cases, readable


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_a_pod_gets_what_its_expected_file_says(case) -> None:
    found = readable(case.about, inject(case.pod, case.namespace_labels, CONFIG))
    if os.environ.get("WRITE_GOLDEN"):
        text = json.dumps(found, indent=2, ensure_ascii=False)
        case.expected_file.write_text(text + "\n")
    assert found == json.loads(case.expected_file.read_text())


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_a_second_call_changes_nothing(case) -> None:
    before = copy.deepcopy(case.pod)
    once = patched(case.pod, inject(case.pod, case.namespace_labels, CONFIG).operations)
    assert inject(once, case.namespace_labels, CONFIG).operations == ()
    assert case.pod == before


def test_the_corpus_holds_all_reasons_but_the_ones_of_sizes() -> None:
    reasons = {json.loads(case.expected_file.read_text())["reason"] for case in cases()}
    assert reasons == {
        "injected", "already_injected", "not_tracked", "opted_out", "track_value", "windows",
        "virtual_node", "confidential", "mirror_pod", "pod_resources", "container_name",
        "volume_name",
    }  # fmt: skip
