"""A webhook under way in this process: real HTTPS with a certificate of its own."""

import pytest

from tests.fakes.azurite import Certificate
from tests.injector.running import RunningWebhook


@pytest.fixture
def certificates(tmp_path):
    """Two self-signed certificates."""
    made = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        made.append(Certificate.made_in(tmp_path / name))
    return made


@pytest.fixture
def start(certificates, tmp_path):
    """Start a webhook; parts of the test's choice."""
    running = []

    def started(**parts) -> RunningWebhook:
        webhook = RunningWebhook(certificates[0], tmp_path, **parts)
        running.append(webhook)
        webhook.start()
        return webhook

    yield started
    for webhook in running:
        webhook.stop()


@pytest.fixture
def webhook(start):
    return start()
