import logging

import pytest


@pytest.fixture(autouse=True)
def log_as_before():
    """A command sets up the log of its process; here the process is everybody's."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
