"""Forwarding one request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import h11
import trio

from anvild.core.errors import InvalidRequest

from ..body import ClientGone
from ..exchange import SlowBody
from .headers import Headers, Route, text_of
from .server import BROKEN, NoAnswer, Server

__all__ = ["forward_request"]

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


async def forward_request(
    scope: Mapping[str, Any], receive: Receive, send: Send, stream: trio.abc.Stream, route: Route
) -> None:
    """Send a request on to the server at the other end of ``stream``, and its answer back.

    It returns when the answer is complete, and also when the server breaks it off: the client then sees an answer that
    is cut short. Raises NoAnswer, SlowBody and InvalidRequest before anything of an answer was sent; ClientGone. The
    caller closes the stream.
    """
    server = Server(stream)
    exchange = _Exchange(scope, receive, send, server, route)
    with server.patience:
        await exchange.run()
    if server.patience.cancelled_caught and not exchange.begun:
        raise NoAnswer("it has said nothing for too long")


class _Exchange:
    """The two directions of one request. ``begun`` tells whether anything of the answer has gone to the client."""

    def __init__(self, scope: Mapping[str, Any], receive: Receive, send: Send, server: Server, route: Route) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._server = server
        self._route = route
        self._trouble: Exception | None = None
        self.begun = False

    async def run(self) -> None:
        headers = self._route.request_headers(self._scope)
        form, first = await self._form_of_body(headers)
        target = self._scope["raw_path"] or b"/"
        if self._scope["query_string"]:
            target += b"?" + self._scope["query_string"]
        try:
            await self._server.send(
                h11.Request(
                    method=self._scope["method"],
                    target=target,
                    headers=[*headers, *form, (b"connection", b"close")],
                )
            )
        except BROKEN as error:
            raise NoAnswer(f"the connection to it has broken: {error}") from None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send_body, first, nursery.cancel_scope)
            try:
                await self._pass_answer()
            except NoAnswer as error:
                self._trouble = error
            nursery.cancel_scope.cancel()
        if self._trouble is not None and (not self.begun or isinstance(self._trouble, ClientGone)):
            raise self._trouble

    async def _form_of_body(self, headers: Headers) -> tuple[Headers, Any]:
        """Say how the body goes on, and take its first piece where only that tells whether there is one."""
        if text_of(headers, b"content-length"):
            return [], None
        if text_of(list(self._scope["headers"]), b"transfer-encoding"):
            return [(b"transfer-encoding", b"chunked")], None
        nothing = {"type": "http.request", "body": b"", "more_body": False}
        if self._scope["http_version"] < "2":
            return [], nothing
        first = await self._receive()
        if first.get("body") or first.get("more_body"):
            return [(b"transfer-encoding", b"chunked")], first
        return [], first

    async def _send_body(self, message: Any, exchange: trio.CancelScope) -> None:
        """Send the request's body as it comes. A server that takes no more of it may still answer."""
        try:
            while True:
                message = message or await self._receive()
                if message["type"] != "http.request":
                    self._trouble = ClientGone()
                    exchange.cancel()
                    return
                if message.get("body"):
                    self._route.used()
                    await self._server.send(h11.Data(data=message["body"]))
                if not message.get("more_body"):
                    break
                message = None
            await self._server.send(h11.EndOfMessage())
        except BROKEN:
            return
        except SlowBody as error:
            self._trouble = error
            exchange.cancel()
        except h11.LocalProtocolError as error:
            self._trouble = InvalidRequest(f"the body is not as it was announced: {error}")
            exchange.cancel()

    async def _pass_answer(self) -> None:
        """Send the answer on as it comes. Raises NoAnswer where it ends before its time."""
        head_waits = False
        while True:
            event = self._server.has_come()
            if event is None:
                if head_waits:  # nothing comes with the head: the client shall see it now
                    await self._send({"type": "http.response.body", "body": b"", "more_body": True})
                    head_waits = False
                event = await self._server.next_event()
            self._route.used()
            if isinstance(event, h11.Response):
                headers = self._route.answer_headers(event.headers)
                await self._send({"type": "http.response.start", "status": event.status_code, "headers": headers})
                self.begun = head_waits = True
            elif isinstance(event, h11.Data):
                await self._send({"type": "http.response.body", "body": bytes(event.data), "more_body": True})
                head_waits = False
            elif isinstance(event, h11.EndOfMessage):
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})
                return
