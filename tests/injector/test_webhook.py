"""The webhook as a service: real HTTPS, two routes, health, metrics, and its process."""

import datetime
import json
import shutil
import signal
import subprocess
import sys

import pytest
import requests
from cryptography import x509
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.cli import webhook as command
from sidecar.injector.certificate import Certificate
from sidecar.settings import SettingsError
from tests.e2e.commands import PATIENCE_S, environment, messages, until
from tests.injector.goldens import HERE, case
from tests.injector.pods_of_any_kind import JSON
from tests.injector.running import UID, changed, response_of, review

POD = case("job").pod
UNMARKED = case("namespace").pod


def has_sidecar(pod) -> bool:
    first = (pod["spec"].get("initContainers") or [{}])[0]
    return first.get("name") == "emissions-sidecar"


def test_an_annotated_pod_gets_the_sidecar_over_https(webhook) -> None:
    answer = webhook.post(review(POD))
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
    assert has_sidecar(changed(POD, response_of(answer.content)))
    assert webhook.metric("injected", "injected") == 1


def test_a_pod_without_annotation_gets_it_by_its_namespace_only(webhook) -> None:
    plain = webhook.post(review(UNMARKED))
    assert not has_sidecar(changed(UNMARKED, response_of(plain.content)))
    opted_in = webhook.post(review(UNMARKED), "/mutate/namespace?timeout=3s")
    assert has_sidecar(changed(UNMARKED, response_of(opted_in.content)))


def test_the_second_call_about_a_pod_changes_nothing(webhook) -> None:
    once = changed(POD, response_of(webhook.post(review(POD)).content))
    assert "patch" not in response_of(webhook.post(review(once)).content)
    assert webhook.metric("unchanged", "already_injected") == 1


def test_a_new_certificate_is_served_without_a_restart(webhook, certificates) -> None:
    assert webhook.get("/healthz").status_code == 200
    webhook.use(certificates[1])

    def trusts_the_new_one() -> bool:
        try:
            return webhook.get("/healthz").status_code == 200
        except requests.exceptions.SSLError:
            return False

    until(trusts_the_new_one)
    webhook.session.close()
    assert has_sidecar(changed(POD, response_of(webhook.post(review(POD)).content)))


def test_the_expiry_of_the_certificate_is_a_metric(webhook, certificates) -> None:
    webhook.get("/metrics")
    name = "emissions_injector_certificate_expiry_timestamp_seconds"
    assert webhook.parts.metrics.registry.get_sample_value(name) == expiry_s(certificates[0])


def expiry_s(certificate) -> float:
    content = x509.load_pem_x509_certificate(certificate.cert_file.read_bytes())
    return content.not_valid_after_utc.timestamp()


def test_it_is_ready_until_its_certificate_has_expired(start, tmp_path) -> None:
    old = Certificate(*expired_in(tmp_path))
    webhook = start(certificate=old)
    answer = webhook.get("/readyz")
    assert answer.status_code == 503
    assert "expired at 2020-01-02T00:00:00Z; renew it" in answer.json()["detail"]
    assert webhook.get("/healthz").status_code == 200
    assert has_sidecar(changed(POD, response_of(webhook.post(review(POD)).content)))


def test_it_is_ready_with_a_certificate_that_is_valid(webhook) -> None:
    assert webhook.get("/readyz").json() == {"status": "ready"}


def test_a_certificate_that_cannot_be_read_leaves_what_was_known(certificates) -> None:
    file = certificates[0].cert_file
    served = Certificate(file, certificates[0].key_file)
    known = served.expiry_s()
    assert known == expiry_s(certificates[0])
    file.write_text("torn")
    assert served.expiry_s() == known
    file.unlink()
    assert served.expiry_s() == known
    assert served.obstacle() is None


def test_a_certificate_whose_key_is_another_is_not_taken_for_the_one_served(
    certificates, tmp_path
) -> None:
    first, _ = certificates
    file, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    shutil.copy(first.cert_file, file)
    shutil.copy(first.key_file, key)
    served = Certificate(file, key)
    known = served.expiry_s()
    shutil.copy(expired_in(tmp_path)[0], file)
    assert served.expiry_s() == known


def expired_in(directory):
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    first = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(first)
    builder = builder.not_valid_after(first + datetime.timedelta(days=1))
    file = directory / "expired.pem"
    file.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    key_file = directory / "expired.key"
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return file, key_file


def test_a_body_that_is_too_long_is_refused_and_counted(start) -> None:
    webhook = start(body_bytes=1000)
    for body in (b"x" * 1001, iter([b"x" * 600, b"x" * 600])):
        answer = requests.post(
            f"{webhook.url}/mutate", data=body, verify=webhook.authority, timeout=PATIENCE_S
        )
        assert (answer.status_code, answer.json()["error"]) == (413, "body")
    assert webhook.metric("failed", "body") == 2


def test_a_body_that_does_not_come_is_given_up(start) -> None:
    webhook = start(body_s=0.05)

    def slowly():
        yield b"{"
        until(lambda: webhook.metric("failed", "body"))

    answer = requests.post(
        f"{webhook.url}/mutate", data=slowly(), verify=webhook.authority, timeout=PATIENCE_S
    )
    assert answer.status_code == 408


def test_what_is_no_review_is_a_bad_request(webhook) -> None:
    answer = webhook.post(b"hello")
    assert (answer.status_code, answer.json()["error"]) == (400, "not_json")
    assert webhook.metric("failed", "not_json") == 1


@pytest.mark.parametrize(("path", "status"), [("/mutate", 405), ("/elsewhere", 404)])
def test_other_requests_are_told_what_there_is(webhook, path, status) -> None:
    answer = webhook.get(path)
    assert answer.status_code == status
    assert "POST /mutate" in answer.json()["detail"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    st.binary(max_size=200)
    | st.dictionaries(st.sampled_from(["object", "kind", "uid"]), JSON).map(
        lambda parts: json.dumps(review(POD, **parts)).encode()
    )
)
def test_hostile_requests_never_fail_the_server_nor_a_pod(webhook, body) -> None:
    answer = webhook.post(body)
    if answer.status_code == 200:
        response_of(answer.content)
    else:
        assert answer.status_code == 400


@pytest.mark.needs("promtool")
def test_promtool_finds_nothing_wrong_with_the_metrics(webhook) -> None:
    webhook.post(review(POD))
    text = webhook.get("/metrics").content
    check = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True)
    assert (check.returncode, check.stdout + check.stderr) == (0, b"")


# -- the process ---------------------------------------------------------------------------------

RUN = "import sys; from sidecar.cli import webhook; sys.exit(webhook.main(sys.argv[1:]))"
PROGRAM = (sys.executable, "-c", RUN)


def test_the_command_serves_until_sigterm_and_exits_0(tmp_path, certificates) -> None:
    first = certificates[0]
    log = tmp_path / "log"
    arguments = (
        "--config", HERE / "config.json", "--listen", "127.0.0.1:0", "--log-format", "json",
        "--tls-cert", first.cert_file, "--tls-key", first.key_file,
    )  # fmt: skip
    with log.open("wb") as stderr:
        process = subprocess.Popen([*PROGRAM, *arguments], stderr=stderr, env=environment())
    try:
        url = until(lambda: listening(log, process))
        answer = requests.post(
            f"{url}/mutate", json=review(POD), verify=str(first.cert_file), timeout=PATIENCE_S,
            headers={"Connection": "close"},
        )  # fmt: skip
        assert response_of(answer.content)["uid"] == UID
        process.send_signal(signal.SIGTERM)
        until(lambda: "shutting down" in log.read_text())
        process.send_signal(signal.SIGTERM)  # the second one ends the wait
        assert process.wait(PATIENCE_S) == 0
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in log.read_text()


def listening(log, process) -> str:
    assert process.poll() is None, log.read_text()
    lines = messages(log.read_text().rpartition("\n")[0]).splitlines()
    return next((line.split()[-1] for line in lines if "listening on https" in line), "")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--config", "absent.json"), "No such file"),
        (("--config", str(HERE / "config.json"), "--tls-cert", "a.pem"), "belong together"),
    ],
)
def test_a_wrong_flag_is_one_line(flags, told) -> None:
    with pytest.raises(SettingsError, match=told):
        command.main(flags)


def test_without_tls_it_serves_http_for_tests(tmp_path) -> None:
    log = tmp_path / "log"
    arguments = (
        "--config",
        HERE / "config.json",
        "--listen",
        "127.0.0.1:0",
        "--log-format",
        "json",
    )
    with log.open("wb") as stderr:
        process = subprocess.Popen([*PROGRAM, *arguments], stderr=stderr, env=environment())
    try:
        until(lambda: "listening on http://127.0.0.1" in log.read_text())
    finally:
        process.kill()
        process.wait()
