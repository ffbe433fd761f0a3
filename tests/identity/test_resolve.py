import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.identity.fields import Resolution, Sourced
from sidecar.identity.resolve import IdentityResolver, ResolverConfig, choose
from tests.e2e.commands import sidecar
from tests.fakes import collector as fake_collector
from tests.fakes.collector import NODE, TOKEN, FakeCollector
from tests.fakes.imds import FakeImds
from tests.identity.test_azureml import JOB
from tests.identity.test_downward import INJECTED, write_podinfo

LONG_S = 30.0
"""Longer than any of these tests takes; only a failing one waits for it."""


@pytest.fixture
def podinfo(tmp_path: Path) -> Path:
    directory = tmp_path / "podinfo"
    directory.mkdir()
    return write_podinfo(directory)


@pytest.fixture
def collector() -> Iterator[FakeCollector]:
    with FakeCollector() as started:
        yield started


@pytest.fixture
def asks_collector(collector: FakeCollector, tmp_path: Path) -> dict[str, object]:
    """What a resolver must be told to ask the collector."""
    (tmp_path / "token").write_text(TOKEN)
    return {"collector_url": collector.url, "collector_token_file": tmp_path / "token"}


@contextmanager
def resolver(**config: object) -> Iterator[IdentityResolver]:
    defaults = {"imds_endpoint": None, "podinfo_dir": Path("/nonexistent"), "start_delay_s": 0.0}
    with closing(IdentityResolver(ResolverConfig(**{**defaults, **config}))) as made:  # type: ignore[arg-type]
        made.start()
        yield made


def resolve(**config: object) -> Resolution:
    with resolver(**config) as made:
        return made.wait(LONG_S)


def told(resolution: Resolution, source: str) -> list[tuple[str, str]]:
    return [(item.outcome, item.detail) for item in resolution.attempts if item.source == source]


def test_imds_completes_the_identity_and_is_named_as_the_source() -> None:
    with FakeImds("aks-spot-gpu") as imds:
        found = resolve(imds_endpoint=imds.url)
    identity = found.identity
    assert found.settled
    assert (identity.provider, identity.azure_environment) == ("azure", "AzurePublicCloud")
    assert (identity.vm_size, identity.region) == ("Standard_NC24ads_A100_v4", "westeurope")
    assert (identity.zone, identity.priority, identity.cluster) == ("1", "Spot", "ml-cluster")
    assert identity.node == "aks-agentpool-12628255-vmss000002"
    assert identity.sources["vm_size"] == "imds"


def test_every_known_field_has_a_source_and_no_other() -> None:
    with FakeImds() as imds:
        identity = resolve(imds_endpoint=imds.url, environ=JOB).identity
    known = {name for name, value in asdict(identity).items() if value} - {"sources"}
    assert known == set(identity.sources)


def test_records_can_begin_before_imds_answers() -> None:
    with FakeImds("hang") as imds, resolver(imds_endpoint=imds.url) as made:
        early = made.current()
        assert not early.settled
        assert told(early, "imds")[0][0] == "pending"
        assert early.identity.region is None
        imds.release()


def test_what_is_local_is_known_before_start(podinfo: Path) -> None:
    config = ResolverConfig(environ=INJECTED, podinfo_dir=podinfo)
    with closing(IdentityResolver(config)) as made:
        assert made.current().identity.pod == "train-0"


def test_closing_ends_waiting_at_once() -> None:
    with FakeImds("hang") as imds, resolver(imds_endpoint=imds.url) as made:
        waiting = threading.Thread(target=made.wait, args=(LONG_S,))
        waiting.start()
        made.close()
        waiting.join(LONG_S / 2)
        assert not waiting.is_alive()
        assert made.current().settled
        assert told(made.current(), "imds") == [("failed", "closed before it answered")]
        imds.release()


def test_closing_ends_the_patience_with_a_service_being_updated() -> None:
    asked = threading.Event()

    def gone(handler: object) -> None:
        handler.answer(410, b"")  # type: ignore[attr-defined]
        asked.set()

    with FakeImds(gone) as imds, resolver(imds_endpoint=imds.url) as made:
        assert asked.wait(LONG_S)
        made.close()
        thread = made._thread
        assert thread is not None
        thread.join(LONG_S)  # the pauses are shorter: slept through, it would ask again
        assert len(imds.requests) == 1
        assert told(made.current(), "imds") == [("failed", "closed before it answered")]


def test_closing_ends_the_delay_of_the_start(podinfo: Path) -> None:
    with (
        FakeImds() as imds,
        resolver(
            imds_endpoint=imds.url, environ=INJECTED, podinfo_dir=podinfo, start_delay_s=1e6
        ) as made,
    ):
        made.close()
        thread = made._thread
        assert thread is not None
        thread.join(LONG_S)
        assert not thread.is_alive()
        assert imds.requests == []


def test_outside_a_pod_the_start_is_not_delayed() -> None:
    with FakeImds() as imds:
        assert resolve(imds_endpoint=imds.url, start_delay_s=1e6).identity.provider == "azure"


def test_starting_twice_asks_once() -> None:
    with FakeImds() as imds, resolver(imds_endpoint=imds.url) as made:
        made.start()
        made.wait(LONG_S)
        made.start()
        assert len(imds.requests) == 1


@pytest.mark.parametrize("endpoint", [None, "none", "NONE", ""])
def test_imds_set_to_none_is_not_asked(endpoint: str | None) -> None:
    found = resolve(imds_endpoint=endpoint)
    assert found.settled
    assert told(found, "imds")[0][0] == "skipped"


@pytest.mark.parametrize("scenario", ["not-azure", "html", "json-deep", "gzip-bomb", "flood"])
def test_an_imds_that_lies_loses_nothing_of_the_rest(scenario: str) -> None:
    with FakeImds(scenario) as imds:
        found = resolve(imds_endpoint=imds.url, environ=JOB)
    assert found.settled
    assert told(found, "imds")[0][0] == "failed"
    assert found.identity.run_id == "brave_apple_1"


def test_a_bad_endpoint_is_told_and_not_raised() -> None:
    ((outcome, detail),) = told(resolve(imds_endpoint="gopher://x"), "imds")
    assert outcome == "failed"
    assert "write it like http://169.254.169.254" in detail


def test_fields_that_imds_got_wrong_are_told() -> None:
    with FakeImds("wrong-types") as imds:
        ((outcome, detail),) = told(resolve(imds_endpoint=imds.url), "imds")
    assert outcome == "ok"
    assert "vmSize ignored: is a list instead of a string" in detail


def test_a_setting_wins_over_imds_and_the_contradiction_is_told() -> None:
    with FakeImds() as imds:
        found = resolve(imds_endpoint=imds.url, settings={"region": "North Europe"})
    assert found.identity.region == "northeurope"
    assert found.identity.sources["region"] == "setting"
    ((_, detail),) = told(found, "setting")
    assert "'northeurope' wins over 'eastus' from imds" in detail


def test_a_setting_that_agrees_with_imds_is_no_contradiction() -> None:
    with FakeImds() as imds:
        found = resolve(imds_endpoint=imds.url, settings={"vm_size": "standard_ds2_v2"})
    assert told(found, "setting") == []


def test_imds_wins_over_the_label_of_the_region(podinfo: Path) -> None:
    write_podinfo(podinfo, {"topology.kubernetes.io/region": "westus"})
    with FakeImds() as imds:
        found = resolve(imds_endpoint=imds.url, environ=INJECTED, podinfo_dir=podinfo)
    assert found.identity.region == "eastus"
    assert "wins over 'westus'" in told(found, "imds")[0][1]


def test_the_label_gives_the_region_where_imds_is_blocked(podinfo: Path) -> None:
    write_podinfo(
        podinfo,
        {
            "topology.kubernetes.io/region": "uksouth",
            "topology.kubernetes.io/zone": "uksouth-2",
        },
    )
    found = resolve(environ=INJECTED, podinfo_dir=podinfo)
    assert (found.identity.region, found.identity.zone) == ("uksouth", "2")
    assert found.identity.sources["region"] == "downward-api:label topology.kubernetes.io/region"
    assert found.identity.provider is None


def test_the_node_keeps_the_name_that_kubernetes_gave_it(podinfo: Path) -> None:
    with FakeImds() as imds:
        found = resolve(imds_endpoint=imds.url, environ=INJECTED, podinfo_dir=podinfo)
    assert found.identity.node == INJECTED["NODE_NAME"]


def test_a_managed_azureml_job_knows_its_region_without_imds() -> None:
    identity = resolve(environ=JOB).identity
    assert (identity.region, identity.vm_size) == ("westeurope", "STANDARD_NC6S_V3")
    assert identity.provider == "azure"
    assert identity.sources["region"] == "azureml:AZUREML_SERVICE_ENDPOINT"


def test_in_a_pod_the_region_of_the_workspace_is_not_taken_for_the_nodes(podinfo: Path) -> None:
    found = resolve(environ={**JOB, **INJECTED}, podinfo_dir=podinfo)
    assert found.identity.region is None
    assert found.identity.run_id == "brave_apple_1"
    assert told(found, "azureml:workspace")[0][0] == "skipped"


def test_a_vm_size_of_azure_in_the_settings_makes_the_provider_azure() -> None:
    identity = resolve(settings={"vm_size": "Standard_D4s_v5"}).identity
    assert (identity.provider, identity.sources["provider"]) == ("azure", "setting")


def test_at_a_shell_without_anything_nothing_is_guessed() -> None:
    identity = resolve().identity
    assert (identity.project, identity.sources) == ("default", {"project": "default"})
    assert (identity.region, identity.country_iso3, identity.provider, identity.node) == (None,) * 4


def test_the_country_of_the_settings_is_spelled_in_capitals() -> None:
    assert resolve(settings={"country_iso3": "deu"}).identity.country_iso3 == "DEU"


PART_OF = {"app.kubernetes.io/part-of": "l"}
WORKSPACE = {"ml.azure.com/workspace": "w"}
ANNOTATED = {"emissions/project": "a"}


@pytest.mark.parametrize(
    ("named", "project", "source"),
    [
        (({"project": "s"}, PART_OF, ANNOTATED, JOB), "s", "setting"),
        (({}, PART_OF, ANNOTATED, JOB), "a", "downward-api:annotation emissions/project"),
        (({}, {**PART_OF, **WORKSPACE}, {}, JOB), "l",
         "downward-api:label app.kubernetes.io/part-of"),
        (({}, WORKSPACE, {}, JOB), "w", "downward-api:label ml.azure.com/workspace"),
        (({}, {}, {}, JOB), "research", "azureml:AZUREML_ARM_WORKSPACE_NAME"),
        (({}, {}, {"emissions/project": "\n"}, {}), "team-a", "downward-api:POD_NAMESPACE"),
    ],
)  # fmt: skip
def test_the_project_comes_from_the_first_that_names_one(
    podinfo: Path, named: tuple[dict[str, str], ...], project: str, source: str
) -> None:
    settings, labels, annotations, environ = named
    write_podinfo(podinfo, labels, annotations)
    config = {"settings": settings, "environ": {**environ, **INJECTED}, "podinfo_dir": podinfo}
    identity = resolve(**config).identity
    assert (identity.project, identity.sources["project"]) == (project, source)


@pytest.mark.parametrize(
    "settings", [{"project": "a\nb"}, {"region": "<b>"}, {"country": "DEU"}, {"labels": "x"}]
)
def test_a_bad_setting_is_refused_at_once(settings: Mapping[str, str]) -> None:
    with pytest.raises(ValueError, match=r"control|not the name of a region|not among"):
        IdentityResolver(ResolverConfig(settings=settings))


def test_an_empty_setting_is_absent() -> None:
    assert "region" not in resolve(settings={"region": " "}).identity.sources


def test_labels_and_annotations_of_the_pod_are_part_of_the_identity(podinfo: Path) -> None:
    write_podinfo(podinfo, {"job-name": "j"}, {"emissions/track": "true"})
    identity = resolve(environ=INJECTED, podinfo_dir=podinfo).identity
    assert identity.labels == {"job-name": "j"}
    assert identity.annotations == {"emissions/track": "true"}
    assert identity.sources["labels"] == "downward-api:file labels"


def test_where_imds_fails_the_collector_names_the_node(asks_collector: dict[str, object]) -> None:
    with FakeImds("not-azure") as imds:
        found = resolve(imds_endpoint=imds.url, **asks_collector)
    identity = found.identity
    assert found.settled
    assert (identity.vm_size, identity.region, identity.zone, identity.node) == (
        NODE["vm_size"],
        "westeurope",
        "2",
        NODE["node"],
    )
    assert identity.provider == "azure"
    assert {identity.sources[name] for name in ("vm_size", "provider")} == {"node-labels"}
    assert told(found, "imds")[0][0] == "failed"
    assert told(found, "node-labels") == [("ok", f"{NODE['vm_size']} in westeurope")]


def test_the_collector_is_asked_where_imds_is_set_to_none(
    asks_collector: dict[str, object],
) -> None:
    found = resolve(**asks_collector)
    assert found.identity.region == "westeurope"
    assert told(found, "imds") == [("skipped", "the endpoint is set to none")]


def test_where_imds_answers_the_collector_is_not_asked(
    collector: FakeCollector, asks_collector: dict[str, object]
) -> None:
    with FakeImds() as imds:
        found = resolve(imds_endpoint=imds.url, **asks_collector)
    assert found.identity.sources["region"] == "imds"
    assert told(found, "node-labels") == [("skipped", "IMDS answered")]
    assert collector.requests == []


def test_without_a_collector_its_labels_are_not_spoken_of() -> None:
    assert told(resolve(), "node-labels") == []


@pytest.mark.parametrize("missing", ["collector_url", "collector_token_file"])
def test_a_collector_needs_address_and_token(
    collector: FakeCollector, asks_collector: dict[str, object], missing: str
) -> None:
    found = resolve(**{**asks_collector, missing: None})
    assert found.settled
    assert told(found, "node-labels") == []
    assert collector.requests == []


def test_a_collector_that_knows_nothing_leaves_the_rest(
    collector: FakeCollector, asks_collector: dict[str, object], podinfo: Path
) -> None:
    collector.always = fake_collector.respond(403, error="no_pod")
    config = {"environ": INJECTED, "podinfo_dir": podinfo}
    found = resolve(**config, **asks_collector)
    assert found.settled
    assert found.identity.pod == "train-0"
    ((outcome, detail),) = told(found, "node-labels")
    assert outcome == "failed"
    assert "403: no_pod" in detail


def test_it_is_not_settled_before_the_collector_has_had_its_say(
    collector: FakeCollector, asks_collector: dict[str, object]
) -> None:
    asked = threading.Event()

    def hang(handler: fake_collector.Handler) -> None:
        asked.set()
        fake_collector.hang(handler)

    collector.always = hang
    with FakeImds("not-azure") as imds, resolver(imds_endpoint=imds.url, **asks_collector) as made:
        assert asked.wait(LONG_S)
        early = made.current()
        assert not early.settled
        assert told(early, "imds")[0][0] == "failed"
        assert told(early, "node-labels") == [("pending", "the collector has not answered yet")]
        made.close()
        assert made.current().settled
        assert told(made.current(), "node-labels") == [("failed", "closed before it answered")]
        thread = made._thread
        assert thread is not None
        collector.release()
        thread.join(LONG_S)
        assert not thread.is_alive()
    assert told(made.current(), "node-labels") == [("failed", "closed before it answered")]


def test_why_the_collector_is_asked_again_is_told_meanwhile_and_closing_ends_it(
    collector: FakeCollector, asks_collector: dict[str, object]
) -> None:
    collector.always = fake_collector.respond(503, error="starting", Retry_After="20")
    with resolver(**asks_collector) as made:
        waiting = threading.Event()
        while "503" not in told(made.current(), "node-labels")[0][1]:
            assert not made.current().settled
            waiting.wait(0.01)
        assert told(made.current(), "node-labels")[0][0] == "pending"
        made.close()
        thread = made._thread
        assert thread is not None
        thread.join(LONG_S / 2)  # slept through, the pause would be longer
        assert not thread.is_alive()
    assert len(collector.requests) == 1


def test_closing_before_imds_answered_asks_no_collector(
    collector: FakeCollector, asks_collector: dict[str, object]
) -> None:
    with FakeImds("hang") as imds, resolver(imds_endpoint=imds.url, **asks_collector) as made:
        made.close()
        assert {told(made.current(), name)[0] for name in ("imds", "node-labels")} == {
            ("failed", "closed before it answered")
        }
        imds.release()
        thread = made._thread
        assert thread is not None
        thread.join(LONG_S)
    assert collector.requests == []


def test_a_setting_wins_over_the_labels_of_the_node(asks_collector: dict[str, object]) -> None:
    found = resolve(settings={"region": "North Europe"}, **asks_collector)
    assert (found.identity.region, found.identity.zone) == ("northeurope", "2")
    ((_, detail),) = told(found, "setting")
    assert "'northeurope' wins over 'westeurope' from node-labels" in detail


def test_the_labels_of_the_node_win_over_those_of_the_pod(
    asks_collector: dict[str, object], podinfo: Path
) -> None:
    write_podinfo(podinfo, {"topology.kubernetes.io/region": "westus"})
    found = resolve(environ=INJECTED, podinfo_dir=podinfo, **asks_collector)
    assert found.identity.sources["region"] == "node-labels"
    assert found.identity.node == INJECTED["NODE_NAME"]
    assert "wins over 'westus'" in told(found, "node-labels")[0][1]


def test_a_size_that_is_not_azures_does_not_make_the_provider_azure(
    collector: FakeCollector, asks_collector: dict[str, object]
) -> None:
    collector.always = fake_collector.respond_raw(200, b'{"vm_size": "m5.large"}')
    identity = resolve(**asks_collector).identity
    assert (identity.vm_size, identity.provider) == ("m5.large", None)


def test_what_cannot_be_started_is_told(
    asks_collector: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    found = resolve(**asks_collector)
    assert found.settled
    assert "can't start new thread" in told(found, "node-labels")[0][1]


def test_a_bug_in_asking_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(client: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("sidecar.identity.resolve.ImdsClient.fetch", fail)
    config = ResolverConfig(imds_endpoint="http://127.0.0.1:1", podinfo_dir=Path("/nonexistent"))
    with closing(IdentityResolver(config)) as made:
        with pytest.raises(ZeroDivisionError):
            made._ask()
        assert made.current().settled
        assert told(made.current(), "imds")[0][1].startswith("ended unexpectedly")


def test_detect_asks_the_collector_of_the_settings(
    collector: FakeCollector, asks_collector: dict[str, object], tmp_path: Path
) -> None:
    done = sidecar(
        "detect",
        "--json",
        "--collector-url",
        collector.url,
        "--collector-token-file",
        tmp_path / "token",
        cwd=tmp_path,
    )
    found = json.loads(done.stdout)
    assert (found["vm_size"], found["region"]) == (NODE["vm_size"], "westeurope")
    assert found["identity_source"]["vm_size"] == "node-labels"
    assert ("node-labels", "ok") in {(one["source"], one["outcome"]) for one in found["tried"]}


_findings = st.dictionaries(
    st.sampled_from(["region", "vm_size", "priority", "subscription_id"]), st.text(min_size=1)
)


@given(st.tuples(_findings, _findings, _findings, _findings, _findings))
def test_a_field_is_of_the_first_source_that_names_it(sources: tuple[dict[str, str], ...]) -> None:
    named = [
        {name: Sourced(value, str(rank)) for name, value in source.items()}
        for rank, source in enumerate(sources)
    ]
    chosen = choose(*named)
    for name in ("region", "vm_size", "priority", "subscription_id"):
        ranks = [rank for rank, source in enumerate(sources) if name in source]
        assert (chosen[name].source if name in chosen else None) == (
            str(ranks[0]) if ranks else None
        )
