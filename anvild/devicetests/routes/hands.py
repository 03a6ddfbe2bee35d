"""Devices by hand: made, taken away, programs run on them, terminals, files."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Literal

import msgspec
import trio
from msgspec import UNSET, UnsetType

from anvild.core.engine import Device, Devices
from anvild.core.errors import InvalidRequest
from anvild.core.identity import require
from anvild.sdk import (
    AnvilError,
    Command,
    DeadlineExceeded,
    Exec,
    Files,
    Process,
    Session,
    TerminalSize,
    check_absolute,
)
from anvild.web.api import Api
from anvild.web.request import Answer, Request
from anvild.web.websocket import WebSocket

from .. import schemas as wire
from ..hands import Hands, Order
from ..shapes import device_shape
from .common import actor_of, team_of

__all__ = ["add_hands"]

TAGS = ("Devices by hand",)
BAD_ID = {400: "id must be a UUID, or a value is not as expected", 404: "Not found"}
BUSY = {409: "The device is in use, or not ready."}
NDJSON = "application/x-ndjson"
LOGIN_SHELL = ("sh", "-c", 'exec "${SHELL:-sh}" -l')
CHUNK = 256 * 1024
KILL = 9


Using = AbstractAsyncContextManager[Session]


class Start(msgspec.Struct, frozen=True, kw_only=True, tag="start"):
    """The first message to a terminal: what to run (the login shell when nothing is named), as whom, in what size."""

    argv: tuple[str, ...] | UnsetType = UNSET
    user: str | UnsetType = UNSET
    cwd: str | UnsetType = UNSET
    columns: int = 80
    rows: int = 24


class Resize(msgspec.Struct, frozen=True, kw_only=True, tag="resize"):
    """The terminal has another size now."""

    columns: int
    rows: int


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag="exit"):
    """How the program ended."""

    code: int | None
    signal: int | None


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="error"):
    """The terminal cannot go on."""

    code: str
    message: str


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """A line of an exec answer: output, as base64."""

    stream: Literal["stdout", "stderr"]
    data: str


class ExitStatus(msgspec.Struct, frozen=True, kw_only=True):
    """An exit code, or the number of the signal that ended the program."""

    code: int | None
    signal: int | None


class Exited(msgspec.Struct, frozen=True, kw_only=True):
    """The last line of an exec answer."""

    exit: ExitStatus


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong."""

    code: str
    message: str


class Broken(msgspec.Struct, frozen=True, kw_only=True):
    """The last line of an exec answer when the program could not be followed to its end."""

    error: ErrorBody


def add_hands(api: Api, hands: Hands, devices: Devices, *, max_upload: int) -> None:
    """Add the operations on devices by hand."""
    _add_making(api, hands, devices)
    _add_exec(api, hands, devices)
    _add_files(api, hands, devices, max_upload)
    _add_shell(api, hands, devices)


def _add_making(api: Api, hands: Hands, devices: Devices) -> None:
    @api.post(
        "/devices/made",
        summary="Make a device from a template, and keep it until it is deleted.",
        description="Answers when the device takes verbs.",
        tags=TAGS,
        answers={201: wire.DeviceAnswer},
        errors={400: "The body is not as expected.", 404: "No such driver or template.", 507: "No slot is free."},
        body=wire.DeviceMakeBody,
        action="devices:use",
        idempotent=True,
        contract=False,
    )
    async def make_device(request: Request) -> wire.DeviceAnswer:
        given = msgspec.structs.asdict(request.body)
        order = Order(**{name: value for name, value in given.items() if value is not UNSET})
        device = await hands.make(order, actor_of(request))
        return wire.DeviceAnswer(device=device_shape(device, team_of(request)))

    @api.delete(
        "/devices/{id:uuid}",
        summary="Destroy a device that was made by hand; retire any other one.",
        tags=TAGS,
        answers={204: None},
        errors={**BAD_ID, 409: "The device was made for a run."},
        action="devices:use",
        contract=False,
    )
    async def remove_device(request: Request) -> Answer:
        device = await devices.get(request.path["id"], team_of(request))
        require(request.principal, "devices:use" if device.made_to_order else "devices:write", device)
        await hands.remove(device, actor_of(request))
        return Answer(204)


def _add_exec(api: Api, hands: Hands, devices: Devices) -> None:
    async def exec_on_device(request: Request) -> Answer:
        body: wire.ExecBody = request.body
        device = await _usable(request, devices)
        command = Command(
            argv=body.argv,
            env=body.env,
            cwd=None if body.cwd is UNSET else body.cwd,
            user=None if body.user is UNSET else body.user,
        )
        using = hands.session(device.id, actor_of(request))
        return Answer(200, await hands.keep_open(_output(using, command, body.timeout)), media_type=NDJSON)

    api.raw(
        "POST",
        "/devices/{id:uuid}/exec",
        exec_on_device,
        summary="Run a program on a device and stream its output.",
        description='Each line is an object: `{"stream", "data"}` with base64 data, and at the end '
        '`{"exit": {"code", "signal"}}` or `{"error": {"code", "message"}}`. The program ends with the connection.',
        tags=TAGS,
        answers={200: bytes},
        media_type=NDJSON,
        errors={**BAD_ID, **BUSY},
        body=wire.ExecBody,
        action="devices:use",
        contract=False,
    )


@asynccontextmanager
async def _output(using: Using, command: Command, timeout: float) -> AsyncIterator[AsyncIterator[bytes]]:
    async with (
        using as session,
        await session.require(Exec).start(command) as process,
        aclosing(_lines(process, trio.current_time() + timeout)) as lines,
    ):
        yield lines


async def _lines(process: Process, deadline: float) -> AsyncGenerator[bytes, None]:
    """The answer's lines. Nothing is yielded inside a cancel scope, which would not be the sender's."""
    outputs = aiter(process)
    try:
        while True:
            chunk = None
            with trio.move_on_at(deadline) as limit:
                chunk = await anext(outputs, None)
            if limit.cancelled_caught:
                await process.signal(KILL)
                yield _line(Broken(error=ErrorBody(code=DeadlineExceeded.code, message="the program took too long")))
                return
            if chunk is None:
                break
            yield _line(Chunk(stream=chunk.stream.value, data=base64.b64encode(chunk.data).decode()))
        ended = await process.wait()
        yield _line(Exited(exit=ExitStatus(code=ended.code, signal=ended.signal)))
    except AnvilError as error:
        yield _line(Broken(error=ErrorBody(code=error.code, message=error.message)))
    finally:
        if isinstance(outputs, AsyncGenerator):
            await outputs.aclose()


def _line(message: msgspec.Struct) -> bytes:
    return msgspec.json.encode(message) + b"\n"


def _add_files(api: Api, hands: Hands, devices: Devices, max_upload: int) -> None:
    async def read_file(request: Request) -> Answer:
        path = _path(request)
        device = await _usable(request, devices)
        using = hands.session(device.id, actor_of(request))
        return Answer(200, await hands.keep_open(_content(using, path)))

    api.raw(
        "GET",
        "/devices/{id:uuid}/files",
        read_file,
        summary="Fetch a file from a device.",
        tags=TAGS,
        answers={200: bytes},
        errors={**BAD_ID, **BUSY},
        query=wire.FileQuery,
        action="devices:use",
        contract=False,
    )

    async def write_file(request: Request) -> wire.FileWritten:
        path = _path(request)
        query: wire.FileWriteQuery = request.query
        device = await _usable(request, devices)
        async with hands.session(device.id, actor_of(request)) as session, aclosing(_received(request)) as source:
            user = None if query.user is UNSET else query.user
            size = await session.require(Files).write(path, source, mode=int(query.mode, 8), user=user)
        return wire.FileWritten(path=path, size=size)

    api.raw(
        "PUT",
        "/devices/{id:uuid}/files",
        write_file,
        summary="Write a file on a device; it appears there whole or not at all.",
        tags=TAGS,
        answers={200: wire.FileWritten},
        errors={**BAD_ID, **BUSY, 413: "The file is too large."},
        query=wire.FileWriteQuery,
        action="devices:use",
        max_body=max_upload,
        contract=False,
    )


@asynccontextmanager
async def _content(using: Using, path: str) -> AsyncIterator[AsyncIterator[bytes]]:
    async with using as session, await session.require(Files).read(path) as stream, aclosing(_chunks(stream)) as chunks:
        yield chunks


async def _chunks(stream: trio.abc.ReceiveStream) -> AsyncGenerator[bytes, None]:
    while data := await stream.receive_some(CHUNK):
        yield bytes(data)


async def _received(request: Request) -> AsyncGenerator[bytes, None]:
    async for chunk in request.chunks():
        yield chunk


def _add_shell(api: Api, hands: Hands, devices: Devices) -> None:
    async def device_shell(request: Request, socket: WebSocket) -> None:
        device = await _usable(request, devices)
        async with hands.session(device.id, actor_of(request)) as session:
            exec_ = session.require(Exec)
            await socket.accept()
            try:
                start = _message(await socket.receive())
                if not isinstance(start, Start):
                    raise InvalidRequest("the first message starts the terminal")
                process = await exec_.start(_terminal(start))
                async with process, trio.open_nursery() as nursery:
                    nursery.start_soon(_keys, socket, process)
                    await _screen(socket, process)
                    nursery.cancel_scope.cancel()
            except AnvilError as error:
                await socket.send(Failed(code=error.code, message=error.message))

    api.websocket(
        "/devices/{id:uuid}/shell",
        device_shell,
        summary="A terminal on a device.",
        description='Binary messages are keys and output. Text messages are JSON: `{"type": "start", "argv", "user", '
        '"cwd", "columns", "rows"}` comes first, `{"type": "resize", "columns", "rows"}` at any time; '
        '`{"type": "exit", "code", "signal"}` or `{"type": "error", "code", "message"}` is the last one back.',
        tags=TAGS,
        errors={**BAD_ID, **BUSY},
        action="devices:use",
        contract=False,
    )


async def _keys(socket: WebSocket, process: Process) -> None:
    async for message in socket:
        if isinstance(message, bytes):
            await process.send(message)
        elif isinstance(control := _message(message), Resize):
            await process.resize(_size(control))


async def _screen(socket: WebSocket, process: Process) -> None:
    outputs = aiter(process)
    try:
        async for chunk in outputs:
            await socket.send(chunk.data)
    finally:
        if isinstance(outputs, AsyncGenerator):
            await outputs.aclose()
    ended = await process.wait()
    await socket.send(Ended(code=ended.code, signal=ended.signal))


def _terminal(start: Start) -> Command:
    return Command(
        argv=start.argv or LOGIN_SHELL,
        user=None if start.user is UNSET else start.user,
        cwd=None if start.cwd is UNSET else start.cwd,
        env={"TERM": "xterm-256color"},
        terminal=_size(start),
        stdin=True,
    )


def _size(message: Start | Resize) -> TerminalSize:
    try:
        return msgspec.convert({"columns": message.columns, "rows": message.rows}, TerminalSize)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"a terminal of that size cannot be: {error}") from None


def _message(data: str | bytes) -> Start | Resize:
    try:
        return msgspec.json.decode(data, type=Start | Resize)
    except msgspec.MsgspecError as error:
        raise InvalidRequest(f"this is no message to a terminal: {error}") from None


def _path(request: Request) -> str:
    query: wire.FileQuery = request.query
    return check_absolute(query.path)


async def _usable(request: Request, devices: Devices) -> Device:
    device = await devices.get(request.path["id"], team_of(request))
    require(request.principal, "devices:use", device)
    return device
