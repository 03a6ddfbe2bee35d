"""Sockets in a device's own network: what ``forward`` reaches, and where ``reverse`` listens.

A socket belongs to the network of the process that makes it, whoever holds it later: so a short child enters the
device's network, makes the socket there, and hands it over.
"""

from __future__ import annotations

import socket
import sys

import trio

from .root import Root

__all__ = ["connect_inside", "listen_inside"]

MAKER = """
import socket, sys
way, kind, address = sys.argv[1:]
carrier = socket.socket(fileno=0)
if kind == "tcp":
    made, place = socket.socket(socket.AF_INET), ("127.0.0.1", int(address))
else:
    made, place = socket.socket(socket.AF_UNIX), chr(0) + address
try:
    if way == "connect":
        made.connect(place)
    else:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(place)
        made.listen(64)
except OSError as error:
    sys.exit(error.strerror)
socket.send_fds(carrier, [b"."], [made.fileno()])
"""
ABSTRACT = ("local", "localabstract")


async def _make(root: Root, way: str, address: str) -> trio.socket.SocketType:
    """Make a socket by an address of adb's form, as tcp:80. Raises OSError with the reason."""
    kind, _, place = address.partition(":")
    if not (kind in ABSTRACT and place) and not (kind == "tcp" and place.isdecimal() and int(place) < 1 << 16):
        raise OSError(f"unknown socket specification '{address}'")
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            command = root.in_network([sys.executable, "-I", "-S", "-c", MAKER, way, kind, place])
            done = await trio.run_process(command, stdin=theirs.fileno(), capture_stderr=True, check=False)
        if done.returncode:
            raise OSError(done.stderr.decode(errors="replace").strip())
        ours.setblocking(False)
        _mark, descriptors, _flags, _address = socket.recv_fds(ours, 1, 1)
    return trio.socket.from_stdlib_socket(socket.socket(fileno=descriptors[0]))


async def connect_inside(root: Root, address: str) -> trio.SocketStream:
    """Connect to what listens in the device. Raises OSError."""
    return trio.SocketStream(await _make(root, "connect", address))


async def listen_inside(root: Root, address: str) -> trio.SocketListener:
    """Listen in the device; port 0 is any that is free. Raises OSError."""
    return trio.SocketListener(await _make(root, "listen", address))
