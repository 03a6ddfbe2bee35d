"""The proxy that the programs of a device speak to: HTTP and SOCKS5 on one port, told apart by the first byte.

The programs are not trusted. What one may say before it is let through is bounded in size and in time.
"""

from __future__ import annotations

import trio

from .http import serve_http
from .socks import VERSION, serve_socks
from .splice import BROKEN, CHUNK
from .way import Client, Way

__all__ = ["FIRST_SECONDS", "serve_program"]

FIRST_SECONDS = 60.0


async def serve_program(client: Client, way: Way) -> None:
    """Serve one connection of a program to its end; ``way`` opens what it asks for. The caller closes ``client``."""
    try:
        with trio.move_on_after(FIRST_SECONDS) as patience:
            first = await client.receive_some(CHUNK)
        if patience.cancelled_caught or not first:
            return
        await (serve_socks if first[0] == VERSION else serve_http)(client, bytes(first), way)
    except BROKEN:
        return  # it has gone
