"""Services that know carbon intensity over time: Electricity Maps, Carbon Aware SDK, the British API.

A real HTTP server with the payloads that their documentation shows, for values of the test's choice,
and with the faults of the fake collector: `fake.faults.append(respond(429, …))`, `hang`, `drip`, ….

    with FakeIntensity(lambda: now_s) as fake:
        ... fake.url ..., fake.requests, fake.asked("history")
"""

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.fakes.collector import FakeCollector, Handler

HOUR_S = 3600
HALF_HOUR_S = 1800
EM_TOKEN = "a-token-of-electricity-maps"


def by_hour(start_s: float) -> float:
    """A value for each hour of the day: 200 g/kWh at midnight, 10 more each hour."""
    return 200 + 10 * (start_s // HOUR_S % 24)


def utc(at_s: float, text: str = "%Y-%m-%dT%H:%M:%S.000Z") -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime(text)


class FakeIntensity(FakeCollector):
    """All three services at one address. `forecast_hours` reach ahead, `late_h` are missing yet."""

    def __init__(
        self, clock: Callable[[], float], value: Callable[[float], Any] = by_hour, **options: Any
    ) -> None:
        super().__init__(**options)
        self._clock = clock
        self.value = value
        self.token = EM_TOKEN
        self.forecast_hours = 24
        self.forecast_from_h = 0
        self.late_h = 0
        self.estimated = False
        self.zone_told: str | None = None

    def asked(self, part: str = "") -> list[str]:
        """The paths that were asked for, those that contain this."""
        return [request.path for request in self.requests if part in request.path]

    def behave(self, handler: Handler) -> None:
        parts = urlsplit(handler.request_read.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        routes: tuple[tuple[str, Callable[..., None]], ...] = (
            (r"/carbon-intensity/(history|latest|forecast)", self._electricity_maps),
            (r"/emissions/(bylocation|forecasts/current)", self._carbon_aware),
            (r"/intensity/([^/]+)/([^/]+)", self._nation),
            (r"/regional/intensity/([^/]+)/([^/]+)/regionid/(\d+)", self._region),
        )
        for pattern, answer in routes:
            if match := re.fullmatch(pattern, parts.path):
                answer(handler, query, *match.groups())
                return
        handler.answer_json(404, {"error": {"code": "404 Not Found", "message": "no such path"}})

    @property
    def _hour_s(self) -> float:
        return self._clock() // HOUR_S * HOUR_S

    def _past(self, hours: int = 24) -> Iterable[float]:
        last_s = self._hour_s - self.late_h * HOUR_S
        return [last_s - ago * HOUR_S for ago in reversed(range(hours))]

    def _coming(self) -> Iterable[float]:
        hours = range(self.forecast_from_h, self.forecast_hours)
        return [self._hour_s + ahead * HOUR_S for ahead in hours]

    def _electricity_maps(self, handler: Handler, query: dict[str, str], what: str) -> None:
        headers = {name.lower(): text for name, text in handler.request_read.headers.items()}
        if headers.get("auth-token") != self.token:
            handler.answer_json(401, {"status": "error", "message": "Invalid auth-token"})
            return
        zone = self.zone_told or query["zone"]
        if what == "forecast":
            rows = [
                {"carbonIntensity": self.value(at_s), "datetime": utc(at_s)}
                for at_s in self._coming()
            ]
            told = {"zone": zone, "forecast": rows, "updatedAt": utc(self._clock())}
            handler.answer_json(200, {**told, "temporalGranularity": "hourly"})
            return
        history = [self._em_row(zone, at_s) for at_s in self._past()]
        handler.answer_json(
            200, history[-1] if what == "latest" else {"zone": zone, "history": history}
        )

    def _em_row(self, zone: str, at_s: float) -> dict[str, Any]:
        return {
            "zone": zone,
            "carbonIntensity": self.value(at_s),
            "datetime": utc(at_s),
            "updatedAt": utc(self._clock()),
            "createdAt": utc(at_s - 3 * 86400),
            "emissionFactorType": "lifecycle",
            "isEstimated": self.estimated,
            "estimationMethod": "TIME_SLICER_AVERAGE" if self.estimated else None,
            "temporalGranularity": "hourly",
        }

    def _carbon_aware(self, handler: Handler, query: dict[str, str], what: str) -> None:
        location = self.zone_told or query["location"]
        if what == "bylocation":
            rows = [
                {
                    "location": location,
                    "time": utc(at_s, "%Y-%m-%dT%H:%M:%S+00:00"),
                    "rating": self.value(at_s),
                    "duration": "01:00:00",
                }
                for at_s in self._past()
            ]
            handler.answer_json(200, rows)
            return
        points = [
            {
                "location": "NL",
                "timestamp": utc(at_s, "%Y-%m-%dT%H:%M:%S+00:00"),
                "duration": 60,
                "value": self.value(at_s),
            }
            for at_s in self._coming()
        ]
        forecast = {
            "generatedAt": utc(self._hour_s),
            "requestedAt": utc(self._clock()),
            "location": location,
            "dataStartAt": points[0]["timestamp"],
            "dataEndAt": points[-1]["timestamp"],
            "windowSize": 60,
            "optimalDataPoints": points[:1],
            "forecastData": points,
        }
        handler.answer_json(200, [forecast])

    def _half_hours(self, begin: str, end: str, *, has_actual: bool) -> list[dict[str, Any]]:
        start_s, end_s = (datetime.fromisoformat(text).timestamp() for text in (begin, end))
        rows = []
        # The API begins with the half hour that ends where one asks for it to begin.
        for at in range(int(start_s) - HALF_HOUR_S, int(end_s), HALF_HOUR_S):
            value = self.value(at)
            intensity: dict[str, Any] = {"forecast": value, "index": "moderate"}
            if has_actual:
                is_over = at + HALF_HOUR_S <= self._clock()
                actual = value + 1 if type(value) in (int, float) else value
                intensity["actual"] = actual if is_over else None
            times = {"from": utc(at, "%Y-%m-%dT%H:%MZ"), "to": utc(at + 1800, "%Y-%m-%dT%H:%MZ")}
            rows.append({**times, "intensity": intensity})
        return rows

    def _nation(self, handler: Handler, _: dict[str, str], begin: str, end: str) -> None:
        handler.answer_json(200, {"data": self._half_hours(begin, end, has_actual=True)})

    def _region(
        self, handler: Handler, _: dict[str, str], begin: str, end: str, region: str
    ) -> None:
        rows = self._half_hours(begin, end, has_actual=False)
        for row in rows:
            row["generationmix"] = [{"fuel": "gas", "perc": 60}, {"fuel": "wind", "perc": 40}]
        number = int(self.zone_told or region)
        told = {"regionid": number, "dnoregion": "UKPN London", "shortname": "London", "data": rows}
        handler.answer_json(200, {"data": told})
