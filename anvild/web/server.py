"""The daemon's port: accepts connections on sockets that are bound already, and ends them gracefully.

It takes the place of hypercorn's trio worker, and stands on hypercorn's protocol objects (see :mod:`.connection`).
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import trio
from hypercorn.trio.worker_context import WorkerContext

from anvild.core.logging import get_logger
from anvild.sdk import ASGIApp

from .connection import Connection, ConnectionLimits, ProtocolConfig
from .stopping import Stopping

__all__ = ["BindError", "ConnectionLimits", "bind", "serve", "url_of"]

log = get_logger("web")

BACKLOG = 1024
OVERFLOW = 128  # connections beyond the limit that are told so; more are closed without a word
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class BindError(Exception):
    """The address cannot be listened on; the message says why and what would help."""


def bind(listen: str) -> list[trio.SocketListener]:
    """Listen on ``HOST:PORT`` (port 0 picks a free one) or ``unix:PATH``. Must be called before clients are told.

    A socket file that nobody answers on is replaced; its file mode is 0660. :raises BindError: in one sentence.
    """
    if listen.startswith("unix:"):
        return [_listener(_bind_unix(Path(listen.removeprefix("unix:"))))]
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise BindError(f"cannot listen on {listen!r}: expected HOST:PORT or unix:PATH")
    host = host.removeprefix("[").removesuffix("]")
    try:
        found = socket.getaddrinfo(host or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise BindError(f"cannot listen on {listen!r}: the host name is not known ({error})") from error
    socks: list[socket.socket] = []
    for family, kind, protocol, _, address in found[: 1 if port == "0" else None]:
        sock = socket.socket(family, kind, protocol)
        socks.append(sock)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)
        except OSError as error:
            for opened in socks:
                opened.close()
            raise BindError(f"cannot listen on {listen}: {_reason(error)}") from error
    return [_listener(sock) for sock in socks]


def url_of(listener: trio.SocketListener) -> str:
    """Return how a client writes the listener's address: ``http://127.0.0.1:8470`` or ``unix:/path``."""
    name = listener.socket.getsockname()
    if listener.socket.family == socket.AF_UNIX:
        return f"unix:{name}"
    host = f"[{name[0]}]" if listener.socket.family == socket.AF_INET6 else name[0]
    return f"http://{host}:{name[1]}"


async def serve(
    app: ASGIApp,
    listeners: Sequence[trio.SocketListener],
    limits: ConnectionLimits,
    *,
    shutdown: trio.Event,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve ``app`` until ``shutdown`` is set, then let requests in flight finish within ``limits.grace_seconds``.

    The listeners are closed, and socket files removed, on every way out. Nothing that a client does ends it. The
    scope of each request holds ``state["stopping"]``, a :class:`~anvild.web.stopping.Stopping`, for answers that would
    go on for ever. Cancelling drops all connections at once.
    """
    server = _Server(app, limits)
    files = [listener.socket.getsockname() for listener in listeners if listener.socket.family == socket.AF_UNIX]
    try:
        async with trio.open_nursery() as accepting:
            handlers = await accepting.start(server.handle_connections)
            accepting.start_soon(_accept, server, listeners, handlers)
            task_status.started()
            await shutdown.wait()
            accepting.cancel_scope.deadline = trio.current_time() + limits.grace_seconds
            await server.stop()
    finally:
        for listener in listeners:
            listener.socket.close()
        for file in files:
            Path(file).unlink(missing_ok=True)  # noqa: ASYNC240  # one entry of a directory, at the end


class _Server:
    """The host of all connections."""

    def __init__(self, app: ASGIApp, limits: ConnectionLimits) -> None:
        self.app = app
        self.limits = limits
        self.config = ProtocolConfig(limits)
        self.context = WorkerContext(None)
        self.stopping = Stopping()
        self.state: dict[str, Any] = {"stopping": self.stopping}
        self.connections: set[Connection] = set()
        self.turned_away = 0
        self.accepting = trio.CancelScope()

    async def handle_connections(self, task_status: trio.TaskStatus[trio.Nursery]) -> None:
        async with trio.open_nursery() as nursery:
            task_status.started(nursery)
            await self.stopping.wait()

    async def stop(self) -> None:
        self.accepting.cancel()
        await self.context.terminated.set()
        self.stopping.set()
        for connection in list(self.connections):
            connection.stop()

    async def handle(self, stream: trio.SocketStream) -> None:
        """Serve one connection; what goes wrong with it stays with it."""
        if len(self.connections) >= self.limits.connections:
            await self._turn_away(stream)
            return
        connection = Connection(self, stream)
        self.connections.add(connection)
        try:
            await connection.run()
        except* Exception:
            log.exception("connection_failed", client=connection.client)
        finally:
            self.connections.discard(connection)

    async def _turn_away(self, stream: trio.SocketStream) -> None:
        if self.turned_away >= OVERFLOW:
            return
        self.turned_away += 1
        try:
            with trio.move_on_after(1):
                await stream.send_all(BUSY)
                await stream.send_eof()
                while await stream.receive_some(4096):
                    pass
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        finally:
            self.turned_away -= 1


async def _accept(server: _Server, listeners: Sequence[trio.SocketListener], handlers: trio.Nursery) -> None:
    with server.accepting:
        await trio.serve_listeners(server.handle, list(listeners), handler_nursery=handlers)


def _listener(sock: socket.socket) -> trio.SocketListener:
    sock.listen(BACKLOG)
    sock.setblocking(False)
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


def _bind_unix(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        sock.bind(str(path))
        path.chmod(0o660)
    except OSError as error:
        sock.close()
        raise BindError(f"cannot listen on unix:{path}: {_reason(error)}") from error
    return sock


def _remove_stale(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise OSError(errno.EEXIST, "a file that is no socket is there")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the address is in use; stop the other program or choose another port"
    if error.errno == errno.EACCES:
        return "permission denied; ports below 1024 and foreign folders need rights that the daemon does not have"
    return error.strerror or str(error)
