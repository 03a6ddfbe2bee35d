"""Ports: connections from the host into the device, and from the device to the host."""

from __future__ import annotations

import functools

import trio

from .connection import Connection
from .root import Root
from .sockets import connect_inside, listen_inside
from .streams import AdbStream

__all__ = ["ECHO_PORT", "Reverses", "echo", "serve_port"]

ECHO_PORT = 7007
"""Where the echo protocol (RFC 862) is spoken: its own port is one that programs of the device may not take."""


async def serve_port(root: Root, stream: AdbStream, address: str) -> None:
    """Join a stream with what listens at an address of the device; where nothing does, the stream is refused."""
    try:
        inside = await connect_inside(root, address)
    except OSError:
        return
    stream.accept()
    await _join(stream, inside)


async def echo(root: Root) -> None:
    """Send back what comes in at :data:`ECHO_PORT` of the device, so that there is something to connect to."""
    await trio.serve_listeners(_echoed, [await listen_inside(root, f"tcp:{ECHO_PORT}")])


async def _echoed(stream: trio.SocketStream) -> None:
    try:
        async with stream:
            async for chunk in stream:
                await stream.send_all(chunk)
    except trio.BrokenResourceError:
        return  # whoever spoke has gone


async def _join(stream: AdbStream, inside: trio.SocketStream) -> None:
    """Carry bytes both ways until one side has closed."""
    async with inside, trio.open_nursery() as nursery:
        nursery.start_soon(_carry, inside, stream, nursery.cancel_scope)
        nursery.start_soon(_carry, stream, inside, nursery.cancel_scope)


async def _carry(source: trio.abc.ReceiveStream, target: trio.abc.SendStream, scope: trio.CancelScope) -> None:
    try:
        while chunk := await source.receive_some():
            await target.send_all(chunk)
        if isinstance(target, AdbStream):
            await target.drained()
    except trio.BrokenResourceError:
        pass  # one side has gone, which ends both
    scope.cancel()


class _Refusal(Exception):
    """What the host is told in place of what it asked for."""


class Reverses:
    """The ports of the device that lead to the host. Each ends with the connection that asked for it."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._open: dict[tuple[Connection, str], tuple[str, trio.CancelScope]] = {}

    async def serve(self, connection: Connection, stream: AdbStream, request: str) -> None:
        """Answer one request of the service ``reverse``."""
        stream.accept()
        verb, _, rest = request.partition(":")
        try:
            answer = await self._answer(connection, verb, rest)
        except (_Refusal, OSError) as error:
            text = str(error).encode()
            answer = b"FAIL%04x" % len(text) + text
        await stream.send_all(answer)
        await stream.drained()

    async def _answer(self, connection: Connection, verb: str, rest: str) -> bytes:
        mine = {local: entry for (owner, local), entry in self._open.items() if owner is connection}
        if verb == "list-forward":
            text = "".join(f"(reverse) {local} {remote}\n" for local, (remote, _scope) in mine.items()).encode()
            return b"%04x" % len(text) + text
        if verb == "killforward-all":
            for _remote, scope in mine.values():
                scope.cancel()
        elif verb == "killforward":
            if rest not in mine:
                raise _Refusal(f"listener '{rest}' not found")
            mine[rest][1].cancel()
        elif verb == "forward":
            return b"OKAY" + await self._forward(connection, rest.removeprefix("norebind:"), rest, mine)
        else:
            raise _Refusal(f"unknown reverse service '{verb}'")
        return b"OKAY"

    async def _forward(
        self, connection: Connection, pair: str, rest: str, mine: dict[str, tuple[str, trio.CancelScope]]
    ) -> bytes:
        local, _, remote = pair.partition(";")
        if local in mine:
            if rest != pair:
                raise _Refusal("cannot rebind existing socket")
            scope = mine[local][1]
            self._open[connection, local] = (remote, scope)
            return b""
        listener = await listen_inside(self._root, local)
        chosen = b""
        if local == "tcp:0":
            port = str(listener.socket.getsockname()[1])
            local, chosen = f"tcp:{port}", b"%04x" % len(port) + port.encode()
        await connection.spawn(self._listen, connection, listener, local, remote)
        return chosen

    async def _listen(
        self,
        connection: Connection,
        listener: trio.SocketListener,
        local: str,
        remote: str,
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        with trio.CancelScope() as scope:
            self._open[connection, local] = (remote, scope)
            try:
                async with listener, trio.open_nursery() as nursery:
                    task_status.started()
                    await trio.serve_listeners(
                        functools.partial(self._connected, connection, local), [listener], handler_nursery=nursery
                    )
            finally:
                del self._open[connection, local]

    async def _connected(self, connection: Connection, local: str, inside: trio.SocketStream) -> None:
        async with inside:
            stream = await connection.connect(self._open[connection, local][0])
            if stream is not None:
                try:
                    await _join(stream, inside)
                finally:
                    connection.release(stream)
