"""A receiver of notifications on loopback that keeps what it is sent and answers as it is told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import parse_qs

import msgspec
import trio

from anvild.web.server import ConnectionLimits, bind, serve, url_of

__all__ = ["Got", "Receiver", "Said", "receiver"]


@dataclass(frozen=True)
class Got:
    """A request as it came in."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


@dataclass(frozen=True)
class Said:
    """An answer."""

    status: int = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Receiver:
    """The receiver. ``answer`` says what it answers, and may take its time."""

    url: str = ""
    got: list[Got] = field(default_factory=list)
    answer: Callable[[Got], Awaitable[Said]] | Said = field(default_factory=Said)
    _came: trio.Condition = field(default_factory=trio.Condition)

    async def next(self, count: int = 1) -> Got:
        """Wait until so many requests have come, and return the last of them."""
        async with self._came:
            while len(self.got) < count:
                await self._came.wait()
        return self.got[count - 1]

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        got = Got(
            method=scope["method"],
            path=scope["path"],
            query={name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()},
            headers={name.decode(): value.decode() for name, value in scope["headers"]},
            body=body,
        )
        async with self._came:
            self.got.append(got)
            self._came.notify_all()
        said = self.answer if isinstance(self.answer, Said) else await self.answer(got)
        head = [(name.encode(), value.encode()) for name, value in said.headers.items()]
        await send({"type": "http.response.start", "status": said.status, "headers": head})
        await send({"type": "http.response.body", "body": said.body})


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    """Run a receiver on a free port while the block runs."""
    found, listeners, stop = Receiver(), bind("127.0.0.1:0"), trio.Event()
    found.url = url_of(listeners[0])
    limits = ConnectionLimits(linger_seconds=0.05, grace_seconds=0.05)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve, found, listeners, limits, shutdown=stop))
        try:
            yield found
        finally:
            stop.set()
