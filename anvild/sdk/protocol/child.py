"""A driver as a child process: file descriptors 0 and 1 are the connection."""

from __future__ import annotations

import os
import signal
import sys

import trio

from ..driver import Driver
from ..errors import Unavailable
from .serving import serve_driver
from .transports import StdioTransport, Transport

__all__ = ["serve_stdio"]


async def serve_stdio(kind: type[Driver]) -> None:
    """Serve a driver to the process that started this one, until that closes the pipe or asks by SIGTERM.

    The pipes are moved out of the way first: what anything here prints goes to standard error, and what reads
    standard input finds its end. Raises Unavailable as :func:`serve_driver` does.
    """
    receive, send = os.dup(0), os.dup(1)  # not inherited by what the driver starts
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    if sys.stdout is not None:
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    transport = StdioTransport(trio.lowlevel.FdStream(send), trio.lowlevel.FdStream(receive))
    unfit: Unavailable | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_close_when_asked, transport)
        try:
            await serve_driver(kind, kind, transport)
        except Unavailable as error:
            unfit = error  # raised below, so that the nursery does not wrap it
        nursery.cancel_scope.cancel()
    if unfit is not None:
        raise unfit


async def _close_when_asked(transport: Transport) -> None:
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            await transport.aclose()
