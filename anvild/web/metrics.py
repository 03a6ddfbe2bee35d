"""What the daemon can be watched by: requests, the loop's lag, and the statistics of its rooms."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
import trio
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

__all__ = ["Metrics", "Readiness"]

LAG_SECONDS = 5.0
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The metrics of this daemon, in a registry of their own.

    Rooms and wings add to it: :meth:`watch` for a room's ``statistics()``, or any collector by ``registry``.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "anvild_http_requests", "Requests answered.", ("operation", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "anvild_http_request_seconds",
            "Time from a request's head to the end of its answer.",
            ("operation",),
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._lag = Gauge(
            "anvild_loop_lag_seconds", "How late the event loop woke its watcher up.", registry=self.registry
        )

    def answered(self, operation: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self._requests.labels(operation, str(status)).inc()
        self._seconds.labels(operation).observe(seconds)

    def watch(self, room: str, statistics: Callable[[], msgspec.Struct]) -> None:
        """Offer each number of a room's statistics as the gauge ``anvild_ROOM_FIELD``."""
        self.registry.register(_Statistics(room, statistics))

    def text(self) -> bytes:
        """Return all of it in the exposition format."""
        return generate_latest(self.registry)

    async def run(self) -> None:
        """Watch the loop's lag until cancelled."""
        while True:
            due = trio.current_time() + LAG_SECONDS
            await trio.sleep_until(due)
            self._lag.set(trio.current_time() - due)


class _Statistics(Collector):
    def __init__(self, room: str, statistics: Callable[[], msgspec.Struct]) -> None:
        self._room = room
        self._statistics = statistics

    def describe(self) -> Iterator[GaugeMetricFamily]:
        yield GaugeMetricFamily(f"anvild_{self._room}", "Statistics of a room.")

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for name, value in msgspec.structs.asdict(self._statistics()).items():
            if isinstance(value, int | float):
                yield GaugeMetricFamily(f"anvild_{self._room}_{name}", f"{name} of {self._room}.", value=float(value))


class Readiness:
    """Whether the daemon can serve, and if not, why. A check returns None or a sentence, quickly."""

    def __init__(self) -> None:
        self._checks: dict[str, Callable[[], str | None]] = {}

    def add(self, name: str, check: Callable[[], str | None]) -> None:
        """Add the check of a part of the daemon."""
        self._checks[name] = check

    def reasons(self) -> dict[str, str]:
        """Return why it is not ready, by part; empty when it is."""
        found = {name: check() for name, check in self._checks.items()}
        return {name: reason for name, reason in found.items() if reason is not None}
