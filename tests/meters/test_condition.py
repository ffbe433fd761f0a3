"""What is said of a meter, and what of it stands in the log."""

import logging

import pytest

from sidecar.meters.condition import Condition

log = logging.getLogger("sidecar.meters.test")


@pytest.mark.parametrize("worked", [False, True])
def test_a_meter_that_nobody_promised_is_warned_of_only_where_it_worked(caplog, worked) -> None:
    caplog.set_level(logging.INFO)
    condition = Condition("pod", log)
    if worked:
        condition.works("kubelet")
    condition.missing("not reached")
    assert caplog.records[-1].levelno == (logging.WARNING if worked else logging.INFO)
    assert caplog.records[-1].message == "meter pod: not reached"
    assert not condition.status.available
