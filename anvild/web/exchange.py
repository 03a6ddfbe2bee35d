"""A request and its answer, between a wire protocol and the application (ASGI ``http``)."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from math import inf
from typing import TYPE_CHECKING, Any, cast

import trio
from hypercorn.protocol.events import Event, StreamClosed
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from hypercorn.utils import UnexpectedMessageError, suppress_body

from anvild.core.logging import get_logger

if TYPE_CHECKING:
    from hypercorn.typing import ASGISendEvent

    from .connection import Connection
    from .http1 import Http1
    from .http2 import Http2

__all__ = ["Exchange", "Inbox", "SlowBody"]

log = get_logger("web")

INBOX_BYTES = 64 * 1024
MESSAGE_COST = 256  # what an empty message takes, so that a flood of them is bounded too

Message = dict[str, Any]


class SlowBody(Exception):
    """The client is too slow in sending its body. The server answers 408 unless the application does."""


class Inbox:
    """ASGI messages on their way to the application, bounded by their bytes.

    A full inbox holds its writer, and so the client, back; ``held`` is how the connection waits then. ``patience`` and
    ``rate`` are how long the application waits for the next message: seconds that are used up by waiting and earned
    back by bytes received; a reader whose patience is gone gets :class:`SlowBody`. ``before_wait`` runs before a wait
    for the client, ``taken`` after a message was taken.
    """

    def __init__(
        self,
        *,
        farewell: str,
        held: Callable[[Callable[[], Awaitable[object]]], Awaitable[None]],
        patience: float = inf,
        rate: float = inf,
        before_wait: Callable[[], Awaitable[None]] | None = None,
        taken: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        self._farewell: Message = {"type": farewell}
        self._messages: deque[Message] = deque()
        self._bytes = 0
        self._complete = False
        self._closed = False
        self._held = held
        self._limit = self._patience = patience
        self._rate = rate
        self._before_wait = before_wait
        self._taken = taken
        self._readers = trio.lowlevel.ParkingLot()
        self._writers = trio.lowlevel.ParkingLot()

    async def put(self, message: Message) -> None:
        """Add a message, waiting for room. The farewell closes the inbox: what came before it can still be read."""
        if message["type"] == self._farewell["type"]:
            self._farewell = message
            self._closed = True
            self._writers.unpark_all()
        else:
            while self._bytes >= INBOX_BYTES and not self._closed:
                await self._held(self._writers.park)
            self._messages.append(message)
            self._bytes += _size(message)
            self._complete = message.get("more_body") is False
        self._readers.unpark_all()

    async def receive(self) -> Message:
        """Return the next message; the farewell, again and again, after the last."""
        while not self._messages:
            if self._closed:
                return self._farewell
            await self._wait()
        message = self._messages.popleft()
        size = _size(message)
        self._bytes -= size
        self._writers.unpark_all()
        if self._taken is not None and size > MESSAGE_COST:
            await self._taken(size - MESSAGE_COST)
        return message

    async def _wait(self) -> None:
        if self._complete or self._limit == inf:
            await self._readers.park()
            return
        if self._before_wait is not None:
            await self._before_wait()
        start = trio.current_time()
        with trio.move_on_after(self._patience) as scope:
            await self._readers.park()
        if scope.cancelled_caught and not self._messages and not self._closed:
            raise SlowBody
        earned = (self._bytes - MESSAGE_COST * len(self._messages)) / self._rate
        left = self._patience - (trio.current_time() - start) + earned
        self._patience = min(self._limit, max(0.0, left))


class Exchange(HTTPStream):
    """One HTTP request with its answer; runs the application in a task of its connection.

    Head and body of an answer that is given whole leave in one write. A client that goes away before its answer is
    complete cancels the application.
    """

    app_put: Any = None

    def __init__(
        self,
        link: Connection,
        wire: Http1 | Http2,
        stream_id: int,
        *,
        before_wait: Callable[[], Awaitable[None]] | None = None,
        taken: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(
            link.app,  # type: ignore[arg-type]  # called by ourselves, in _run
            link.config,
            link.context,
            self,  # type: ignore[arg-type]  # the task group of its one task
            False,
            link.client,
            link.server,
            wire.stream_send,
            stream_id,
        )
        self.link = link
        self._wire = wire
        self._cancel = trio.CancelScope()
        self._head: Message | None = None
        self._inbox = Inbox(
            farewell="http.disconnect",
            held=link.held,
            patience=link.limits.body_seconds,
            rate=link.limits.body_rate,
            before_wait=before_wait,
            taken=taken,
        )

    async def spawn_app(self, *_: object) -> Callable[[Message], Awaitable[None]]:
        """Start the application for this request; hypercorn calls this when the request's head is complete."""
        self.link.start(self._run)
        return self._inbox.put

    async def handle(self, event: Event) -> None:
        if isinstance(event, StreamClosed) and self.state is not ASGIHTTPState.CLOSED:
            self._cancel.cancel()
        await super().handle(event)

    async def app_send(self, message: ASGISendEvent | None) -> None:
        if self.closed:
            await trio.lowlevel.checkpoint()  # where the cancellation reaches a handler that only ever sends
            return
        if message is not None:
            if message["type"] == "http.response.start":
                if self._head is not None or self.state is not ASGIHTTPState.REQUEST:
                    raise UnexpectedMessageError(self.state, message["type"])
                self._head = dict(message)
                return
            if self._head is not None:
                head = self._head
                self._head = None
                if message["type"] == "http.response.body" and not message.get("more_body"):
                    await self._answer_whole(head, bytes(message.get("body", b"")))
                    return
                await super().app_send(cast("ASGISendEvent", head))
        await super().app_send(message)
        await self.link.flush()
        if message is not None and message.get("more_body"):
            await trio.lowlevel.checkpoint()

    async def _answer_whole(self, head: Message, body: bytes) -> None:
        """Send an answer whose body is all there, with its length."""
        self.state = ASGIHTTPState.CLOSED
        status = int(head["status"])
        headers = [(bytes(name), bytes(value)) for name, value in head.get("headers", ())]
        bodiless = suppress_body("GET", status)
        if not bodiless and not any(name.lower() == b"content-length" for name, _ in headers):
            headers.append((b"content-length", b"%d" % len(body)))
        if bodiless or self.scope["method"] == "HEAD":
            body = b""
        await self._wire.answer(self.stream_id, status, headers, body)

    async def _run(self) -> None:
        try:
            with self._cancel:
                await self.link.app(self.scope, self._inbox.receive, self.app_send)
        except SlowBody:
            await self._refuse(408)
        except Exception:
            log.exception("application_failed", method=self.scope["method"], path=self.scope["path"])
            await self._refuse(500)
        await self.app_send(None)

    async def _refuse(self, status: int) -> None:
        if self.state is ASGIHTTPState.REQUEST and not self.closed:
            await self._send_error_response(status)


def _size(message: Message) -> int:
    return len(message.get("body") or message.get("bytes") or message.get("text") or b"") + MESSAGE_COST
