"""A WebSocket as a transport of the driver protocol."""

from __future__ import annotations

from anvild.sdk.protocol import Transport, TransportClosed

from .websocket import Disconnected, WebSocket

__all__ = ["SocketTransport"]


class SocketTransport(Transport):
    """Carries the protocol's messages over an accepted WebSocket: text as text, binary as binary."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket

    async def send(self, message: str | bytes) -> None:
        """Send a message; waits for a slow client. Raises TransportClosed."""
        if self._socket.closed:
            raise TransportClosed("the WebSocket is closed")
        await self._socket.send(message)

    async def receive(self) -> str | bytes:
        """Return the next message. Raises TransportClosed when the client has closed."""
        try:
            return await self._socket.receive()
        except Disconnected as error:
            raise TransportClosed(str(error)) from None

    async def aclose(self) -> None:
        """Close the WebSocket."""
        await self._socket.close()
