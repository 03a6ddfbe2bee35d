"""Terminals in capsules. They go on without a connection, and are found again by their tag."""

from __future__ import annotations

import base64
import binascii
import secrets
import signal
from contextlib import suppress

import msgspec
import trio

from anvild.core.errors import InvalidRequest
from anvild.sdk import AnvilError, Command, Exec, Process, TerminalSize, WrongState
from anvild.web.request import Request
from anvild.web.websocket import WebSocket

from ..commands import checked, exit_code, first_error
from ..life import Capsules
from ..schemas import pty as wire
from .capsules import GONE, TAGS
from .common import beyond, id_in_path
from .views import View

__all__ = ["add_pty"]

PING_SECONDS = 30.0
Message = wire.Start | wire.Connect | wire.Input | wire.Resize | wire.Kill


def add_pty(view: View, capsules: Capsules) -> None:
    """Add the terminal."""

    async def pty_session(request: Request, socket: WebSocket) -> None:
        capsule_id = id_in_path(request, "cl")
        async with capsules.use(view.team(request), capsule_id, busy=False) as session:
            exec_ = session.require(Exec)
            await socket.accept()
            terminal = _Terminal(socket, binary=_binary(request))
            try:
                async with await _begin(exec_, await socket.receive()) as process, trio.open_nursery() as nursery:
                    await socket.send(wire.Started(process.tag or "", process.pid))
                    nursery.start_soon(terminal.ping)
                    nursery.start_soon(_keys, terminal, process, capsules, capsule_id)
                    await terminal.show(process)
                    nursery.cancel_scope.cancel()
            except* AnvilError as group:
                await socket.send(wire.Failed(first_error(group).message, fatal=True))

    view.websocket(
        "/capsules/{id}/pty",
        pty_session,
        summary="Interactive PTY session via WebSocket",
        description="The first message is `start`, or `connect` with a tag, which shows the last output again. With "
        "`?frames=binary` output comes as binary messages, with `?frames=json` as base64; without it, clients get what "
        "they are known to read. Input is taken in either form.",
        tags=TAGS,
        errors={**GONE, 409: "Capsule not running"},
        action="capsules:write",
    )


class _Terminal:
    """The client's end of a terminal."""

    def __init__(self, socket: WebSocket, *, binary: bool) -> None:
        self.socket = socket
        self._binary = binary

    async def ping(self) -> None:
        while True:
            await trio.sleep(PING_SECONDS)
            await self.socket.send(wire.Ping())

    async def show(self, process: Process) -> None:
        async for chunk in process:
            if self._binary:
                await self.socket.send(bytes(chunk.data))
            else:
                await self.socket.send(wire.Output(base64.b64encode(chunk.data).decode()))
        await self.socket.send(wire.Exited(exit_code(await process.wait())))


async def _begin(exec_: Exec, data: str | bytes) -> Process:
    """Start the program of a first message, or find it again. Raises InvalidRequest, and as Exec."""
    first = _message(data)
    if isinstance(first, wire.Connect):
        return await exec_.attach(first.tag, replay=True)
    if not isinstance(first, wire.Start):
        raise InvalidRequest("the first message starts a terminal, or connects to one")
    command = Command(
        argv=(first.cmd, *first.args),
        env={"TERM": "xterm-256color", **first.envs},
        cwd=first.cwd or None,
        user=first.user or None,
        tag=f"pty-{secrets.token_hex(4)}",
        terminal=TerminalSize(columns=first.cols or 80, rows=first.rows or 24),
        stdin=True,
    )
    return await exec_.start(checked(command))


async def _keys(terminal: _Terminal, process: Process, capsules: Capsules, capsule_id: str) -> None:
    """Do what the client sends. What is no message is told of, and what is not known is left alone."""
    async for data in terminal.socket:
        try:
            message = _message(data)
            if isinstance(message, bytes | wire.Input):
                await capsules.note_use(capsule_id)
                with suppress(WrongState):  # it has just ended
                    await process.send(message if isinstance(message, bytes) else _decoded(message.data))
            elif isinstance(message, wire.Resize) and message.cols > 0 and message.rows > 0:
                size = {"columns": message.cols, "rows": message.rows}
                await process.resize(msgspec.convert(size, TerminalSize))
            elif isinstance(message, wire.Kill):
                await process.signal(signal.SIGKILL)
        except (InvalidRequest, msgspec.ValidationError) as error:
            await terminal.socket.send(wire.Failed(str(error), fatal=False))


def _message(data: str | bytes) -> Message | bytes | None:
    """Return a message; bytes are keys. None is one of a type that is not known. Raises InvalidRequest."""
    if isinstance(data, bytes):
        return data
    try:
        known: Message = msgspec.json.decode(data, type=Message)
    except msgspec.ValidationError as error:
        if "Invalid value" in str(error) and "$.type" in str(error):
            return None
        raise InvalidRequest(f"this is no message to a terminal: {error}") from None
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"this is no message to a terminal: {error}") from None
    return known


def _decoded(data: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error as error:
        raise InvalidRequest(f"the input is no base64: {error}") from None


def _binary(request: Request) -> bool:
    """Say whether output goes out as bytes: as asked for, else as the client is known to read it."""
    frames = beyond(request, "frames")
    if frames and frames[0] in ("json", "binary"):
        return frames[0] == "binary"
    return request.principal.kind == "api_key" and (request.user_agent or "").startswith("python-httpx/")
