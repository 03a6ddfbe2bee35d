"""Unix sockets in the folders of devices, for Linux hosts.

A unix socket's address holds 107 bytes, and the path of a device's folder may be longer. Here the folder is opened,
and the address goes by its descriptor.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import trio

__all__ = ["connect_unix", "listen_unix"]


@contextlib.contextmanager
def _address(path: Path) -> Iterator[str]:
    """The address of a socket's path, which is good inside the block."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def listen_unix(path: Path, *, backlog: int = 1) -> socket.socket:
    """Return a socket that listens at ``path``, mostly for a child to inherit. Only the daemon's user may connect.

    When the daemon makes it and not the child, the daemon can connect before the child is up, and nobody asks again
    and again. A file that is at ``path`` already is replaced. Raises OSError.
    """
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _address(path) as address:
            sock.bind(address)
        path.chmod(0o600)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


async def connect_unix(path: Path) -> trio.SocketStream:
    """Connect to the socket at ``path``. Raises OSError."""
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _address(path) as address:
            await sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)
