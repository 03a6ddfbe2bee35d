"""Rate limits: named moving windows, kept in this process's memory."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from types import MappingProxyType

import limits
import msgspec
import trio
from limits.storage import MovingWindowSupport, Storage
from limits.strategies import MovingWindowRateLimiter

from anvild.core.errors import RateLimited

__all__ = ["DEFAULT_LIMITS", "LimitResult", "Limits"]

DEFAULT_LIMITS: Mapping[str, str] = MappingProxyType(
    {
        "default": "120/minute",
        "handshake": "10/minute",
        "password_ip": "10/minute",
        "password_account": "5/minute",
        "mail_ip": "10/minute",
        "mail_account": "5/hour",
    }
)
"""The limits that are always there: requests of a team, device handshakes of an address, password attempts,
mails that an address asks for, mails to an account."""


class LimitResult(msgspec.Struct, frozen=True):
    """What a request found at a limit. ``window`` and ``reset`` are seconds; ``reset`` is when the oldest request
    that counts leaves the window, so at the latest then another one is taken."""

    name: str
    allowed: bool
    limit: int
    window: int
    remaining: int
    reset: float


class Limits:
    """Named limits, each counting by keys of its own.

    ``definitions`` are texts such as ``10/minute``; those of DEFAULT_LIMITS hold where none is given. Time is the
    loop's clock. ``capacity`` bounds the memory: beyond so many keys the least recently used one is forgotten.
    """

    def __init__(self, definitions: Mapping[str, str] = MappingProxyType({}), *, capacity: int = 20_000) -> None:
        self._items = {name: limits.parse(text) for name, text in {**DEFAULT_LIMITS, **definitions}.items()}
        self._storage = _BoundedMemory(capacity, trio.current_time)
        self._limiter = MovingWindowRateLimiter(self._storage)

    def hit(self, name: str, *key: str) -> LimitResult:
        """Count one request of ``key`` against the limit and say how it stands. A refused request does not count.

        Raises LookupError for a limit that is not defined.
        """
        try:
            item = self._items[name]
        except KeyError:
            raise LookupError(f"there is no limit {name!r}") from None
        allowed = self._limiter.hit(item, name, *key)
        stats = self._limiter.get_window_stats(item, name, *key)
        reset = max(0.0, stats.reset_time - trio.current_time())
        return LimitResult(name, allowed, item.amount, item.get_expiry(), max(0, stats.remaining), reset)

    def check(self, name: str, *key: str) -> LimitResult:
        """As :meth:`hit`, but raise RateLimited when the request is refused. The error's details hold the result as
        ``limit``."""
        result = self.hit(name, *key)
        if not result.allowed:
            raise RateLimited(
                f"more than {result.limit} requests in {result.window} s; try again later",
                retry_after=result.reset,
                limit=result,
            )
        return result


class _BoundedMemory(Storage, MovingWindowSupport):
    """Moving windows as one deque of times for each key, on a clock that never jumps, without a thread of its own."""

    STORAGE_SCHEME = None

    def __init__(self, capacity: int, clock: Callable[[], float]) -> None:
        super().__init__()
        self._capacity = capacity
        self._clock = clock
        self._hits: OrderedDict[str, deque[float]] = OrderedDict()

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        hits = self._current(key, expiry)
        if len(hits) + amount > limit:
            return False
        self._hits[key] = hits
        hits.extend([self._clock()] * amount)
        if len(self._hits) > self._capacity:
            self._hits.popitem(last=False)
        return True

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        hits = self._current(key, expiry)
        return (hits[0] if hits else self._clock()), len(hits)

    def _current(self, key: str, expiry: int) -> deque[float]:
        hits = self._hits.get(key)
        if hits is None:
            return deque()
        self._hits.move_to_end(key)
        while hits and hits[0] <= self._clock() - expiry:
            hits.popleft()
        return hits

    @property
    def base_exceptions(self) -> type[Exception]:
        return ValueError

    def check(self) -> bool:
        return True

    def clear(self, key: str) -> None:
        self._hits.pop(key, None)

    def reset(self) -> int:
        count = len(self._hits)
        self._hits.clear()
        return count

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        raise NotImplementedError("only moving windows are kept here")

    def get(self, key: str) -> int:
        raise NotImplementedError("only moving windows are kept here")

    def get_expiry(self, key: str) -> float:
        raise NotImplementedError("only moving windows are kept here")
