"""The server that requests are forwarded to, at the other end of a byte stream."""

from __future__ import annotations

import h11
import trio

from anvild.sdk import AnvilError

__all__ = ["BROKEN", "NoAnswer", "Server"]

RECEIVE_BYTES = 64 * 1024
HEAD_BYTES = 64 * 1024
SILENCE_SECONDS = 900.0

BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError, AnvilError)
"""What a stream to a device raises when it breaks, or when the right to the device has gone."""


class NoAnswer(Exception):
    """The server has given no answer that could be passed on; the message says what it did."""


class Server:
    """One exchange with the server. Sending and receiving may go on at the same time.

    ``patience`` is a scope that is cancelled when neither end has said anything for 15 minutes.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES)
        self.patience = trio.CancelScope()
        self.moved()

    def moved(self) -> None:
        """Something was said: patience begins anew."""
        self.patience.deadline = trio.current_time() + SILENCE_SECONDS

    async def send(self, event: h11.Request | h11.Data | h11.EndOfMessage) -> None:
        """Send a part of the request. Raises what breaks the stream, and :class:`h11.LocalProtocolError` for a body of
        another length than was announced."""
        data = self._http.send(event)
        if data:
            await self._stream.send_all(data)
            self.moved()

    def has_come(self) -> h11.Event | None:
        """Return the next part of the answer if it is here already. Raises NoAnswer for what is no HTTP."""
        try:
            event = self._http.next_event()
        except h11.RemoteProtocolError as error:
            raise NoAnswer(f"it does not speak HTTP: {error}") from None
        return event if isinstance(event, h11.Event) else None

    async def next_event(self) -> h11.Event:
        """Return the next part of the answer. Raises NoAnswer."""
        while (event := self.has_come()) is None:
            try:
                data = await self._stream.receive_some(RECEIVE_BYTES)
            except BROKEN as error:
                raise NoAnswer(f"the connection to it has broken: {error}") from None
            if not data and self._http.their_state is h11.SEND_RESPONSE:
                raise NoAnswer("it has closed the connection without an answer")
            self.moved()
            self._http.receive_data(bytes(data))
        return event
