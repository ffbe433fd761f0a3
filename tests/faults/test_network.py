"""The network between sidecar and far side breaks in every way: all arrives, in order, and once.

The parts are the product's own: journal, spool, shipper and transports; the far side is Azurite, behind
a collector or not; a proxy before it does what networks do. Only the shipper's clock is the test's.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sidecar.collector_client import CollectorClient
from sidecar.journal.append import Journal
from sidecar.journal.spool import Spool
from sidecar.segment import NotASegment, parcel_of
from sidecar.settings import Settings
from sidecar.transport import shipper as shipping
from sidecar.transport.blob import BlobTransport
from sidecar.transport.blob_container import open_container
from sidecar.transport.collector import CollectorTransport
from sidecar.transport.delivery import Transport
from sidecar.transport.shipper import BACKOFF_MAX_S, Pace, Shipper, Supply
from tests.collector.running import RunningCollector
from tests.e2e.commands import Running
from tests.fakes.fault_proxy import FaultProxy
from tests.faults.scene import (
    KILLED,
    Pod,
    Store,
    rows_on,
    segment_of,
    segments_on,
    sidecar_of,
    through_collector,
)

pytestmark = pytest.mark.needs("azurite")

WAYS = ("blob", "collector")


@dataclass
class Route:
    """A volume with closed segments, and the way from there through the proxy to the store."""

    store: Store
    proxy: FaultProxy
    volume: Path
    open_transport: Callable[[], Transport]
    now_s: float = 0.0
    written: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.records = Pod().history(windows=600)
        self.journal = Journal(self.volume, f"{Pod().uid}.boot")
        self.spool = Spool(self.journal.directory)
        pace = Pace(lambda: self.now_s, lambda low, high: high)
        self.shipper = Shipper(self.open_transport, Supply(self.spool), pace)

    def write(self, segments: int, records_each: int = 2) -> None:
        """Close so many segments on the volume."""
        for _ in range(segments):
            for _ in range(records_each):
                self.journal.append(self.records.pop(0))
            (closed,) = self.journal.seal()
            self.spool.add(closed)
            self.written.append(str(closed.name))

    def fail(self, attempts: int = 1) -> None:
        """Let so many attempts fail, one after the other."""
        goal = self.shipper.state.failures + attempts
        while self.shipper.state.failures < goal:
            self._step(math.inf)
        assert self.shipper.state.failure is not None

    def ship(self, within_s: float) -> None:
        """Ship all there is, within so many seconds of the shipper's clock."""
        end_s = self.now_s + within_s
        while self.spool.state().segments:
            self._step(end_s)
            assert self.now_s < end_s, self.shipper.state.failure

    def pass_time(self, seconds: float) -> None:
        """Let the shipper do what it does meanwhile."""
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self._step(end_s)

    def _step(self, end_s: float) -> None:
        wait_s = self.shipper.step()
        assert wait_s is not None
        self.now_s = min(self.now_s + wait_s, end_s)

    @property
    def sent(self) -> list[str]:
        """Segments that reached the proxy whole, in order; what was sent again directly is once."""
        names: list[str] = []
        for request in self.proxy.requests:
            try:
                name = str(segment_of(parcel_of(request.body).blob_name))
            except NotASegment:
                continue
            if names[-1:] != [name]:
                names.append(name)
        return names

    def has_all(self) -> None:
        """All is in the store, once, came in order, and left the volume; the process runs still."""
        assert [str(segment_of(name)) for name in self.store.names] == self.written
        assert self.sent == self.written
        assert not segments_on(self.volume)
        assert self.shipper.state.segments == len(self.written)
        assert self.shipper.state.failure is None
        self.store.verified(KILLED)

    def close(self) -> None:
        if self.shipper._transport is not None:
            self.shipper._transport.close()
        self.journal.close(is_clean=True)


@pytest.fixture(params=WAYS)
def route(request, store: Store, api, tmp_path: Path) -> Iterator[Route]:
    """Straight to Blob, or through a collector; the proxy is the sidecar's way out."""
    with contextlib.ExitStack() as stack:
        if request.param == "blob":
            proxy = stack.enter_context(FaultProxy("127.0.0.1", store.azurite.port))
            made = Route(store, proxy, tmp_path / "volume", lambda: _blob(store, proxy))
        else:
            collector = RunningCollector(api, tmp_path, tmp_path, backend=_blob(store))
            collector.start()
            stack.callback(collector.stop)
            proxy = stack.enter_context(FaultProxy("127.0.0.1", collector.service.port or 0))
            token = tmp_path / "token"
            token.write_text(Pod().token(api))
            client = CollectorClient(proxy.url, token)
            made = Route(store, proxy, tmp_path / "volume", lambda: CollectorTransport(client))
        yield made
        made.close()


def _blob(store: Store, proxy: FaultProxy | None = None) -> BlobTransport:
    text = store.credential(proxy)["EMISSIONS_BLOB_CONNECTION_STRING"]
    settings = Settings(blob_container=store.container, blob_connection_string=text)
    return BlobTransport(open_container(settings, {}))


def test_refused_connections_cost_nothing(route: Route):
    route.write(1)
    route.ship(within_s=1)
    route.proxy.refuse()
    route.write(3)
    route.fail(attempts=3)
    assert len(segments_on(route.volume)) == 3
    route.proxy.pass_on()
    route.ship(within_s=BACKOFF_MAX_S)
    route.has_all()


def test_an_answer_lost_after_the_far_side_committed_stores_nothing_twice(route: Route):
    route.proxy.drop_answer()
    route.write(2)
    route.fail(attempts=2)
    assert len(route.store.names) == 1, "committed, but the sidecar does not know"
    assert len(segments_on(route.volume)) == 2
    route.proxy.pass_on()
    route.ship(within_s=BACKOFF_MAX_S)
    route.has_all()


def test_a_far_side_that_never_answers_costs_nothing(route: Route, monkeypatch):
    monkeypatch.setattr(shipping, "ATTEMPT_S", 0.5)
    route.proxy.black_hole()
    route.write(2)
    route.fail(attempts=2)
    assert not route.store.names
    assert len(segments_on(route.volume)) == 2
    monkeypatch.undo()
    route.proxy.refuse()  # ends what hangs
    route.proxy.pass_on()
    route.ship(within_s=BACKOFF_MAX_S)
    route.has_all()


def test_a_connection_cut_in_the_middle_of_a_body_leaves_no_half_segment(route: Route):
    route.proxy.cut_request(after_bytes=100)
    route.write(2)
    route.fail(attempts=2)
    assert not route.store.names
    route.proxy.pass_on()
    route.ship(within_s=BACKOFF_MAX_S)
    route.has_all()


def test_ten_kilobytes_a_second_are_enough(route: Route):
    route.write(1, records_each=200)
    (segment,) = segments_on(route.volume)
    assert segment.stat().st_size > 10_000
    route.proxy.slow(10_000)
    route.ship(within_s=1)
    route.has_all()
    assert not route.shipper.state.failures


def test_a_far_side_that_is_busy_is_not_asked_before_its_retry_after(route: Route):
    route.proxy.status(503, {"Retry-After": "70"})
    route.write(2)
    route.fail()
    asked = len(route.proxy.requests)
    route.pass_time(69)
    assert len(route.proxy.requests) == asked
    route.proxy.pass_on()
    route.ship(within_s=2)
    route.has_all()


def test_after_thirty_minutes_of_outage_all_arrives_in_order_within_a_minute(route: Route):
    route.proxy.refuse()
    for _ in range(30):
        route.write(1)
        route.pass_time(60)
    assert len(segments_on(route.volume)) == 30
    assert route.shipper.state.failures >= 30, "it is tried about once a minute"
    route.proxy.pass_on()
    route.ship(within_s=BACKOFF_MAX_S)
    route.has_all()


# -- the whole sidecar -------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_windows_follow_one_another_whatever_the_network_does(
    way: str, store: Store, api, tmp_path: Path
):
    """`run`, through all faults in a row."""
    with contextlib.ExitStack() as stack:
        port = store.azurite.port
        if way == "collector":
            collector = RunningCollector(api, tmp_path, tmp_path, backend=_blob(store))
            collector.start()
            stack.callback(collector.stop)
            port = collector.service.port or 0
        proxy = stack.enter_context(FaultProxy("127.0.0.1", port))
        env = store.shipping(proxy)
        if way == "collector":
            env = through_collector(proxy.url, Pod().token(api), tmp_path)
        volume = tmp_path / "volume"
        with sidecar_of(Pod(), volume, **env) as running:
            store.grows_by(1, running)
            for fault in (
                proxy.black_hole,
                proxy.refuse,
                proxy.drop_answer,
                lambda: proxy.cut_request(50),
                lambda: proxy.status(503, {"Retry-After": "1"}),
            ):
                fault()
                meters_on(running, volume)
            proxy.pass_on()
            running.until(lambda: "records can be shipped again" in running.log)
            assert running.end().code == 0
    assert not segments_on(volume)
    store.verified()


def meters_on(running: Running, volume: Path) -> None:
    """Wait for another window on the volume that nobody takes."""
    latest = max((row["window_end"] for row in rows_on(volume)), default="")
    running.until(lambda: any(row["window_end"] > latest for row in rows_on(volume)))
