"""What a proxy stands between."""

from __future__ import annotations

from typing import Protocol

import trio

__all__ = ["Client", "Way"]

Client = trio.abc.HalfCloseableStream
"""A program's end of a connection to the proxy."""


class Way(Protocol):
    """What leads to the world: it opens a connection to a host, or raises an AnvilError whose message says why not."""

    async def __call__(self, host: str, port: int) -> trio.SocketStream: ...
