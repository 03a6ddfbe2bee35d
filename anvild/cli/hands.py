"""``anvil device exec`` and ``shell``: programs and terminals on a device, by hand."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import termios
import tty
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import msgspec
import trio
import wsproto.events
from cyclopts import Parameter
from httpx2.websockets import AsyncWebSocketSession, WebSocketDisconnect

from anvild.sdk import error_from_code

from .api import connect
from .context import Ctx
from .exits import ExitCode, Failure
from .lookup import device_id, pairs
from .output import Output

__all__ = ["exec_", "shell"]

CHUNK = 32 * 1024


class Ended(msgspec.Struct, frozen=True):
    """How a program ended."""

    code: int | None = None
    signal: int | None = None

    @property
    def exit_code(self) -> int:
        """The exit code as a shell has it: 128 and the signal's number for a signal."""
        return 128 + (self.signal or 0) if self.code is None else self.code


async def exec_(
    device: str,
    /,
    *command: str,
    env: Annotated[tuple[str, ...], Parameter(negative="", help="NAME=VALUE for the program; repeatable.")] = (),
    cwd: Annotated[str | None, Parameter(help="Directory to start in.")] = None,
    user: Annotated[str | None, Parameter(help="Who shall run it.")] = None,
    timeout: Annotated[float | None, Parameter(help="Seconds after which it is ended; an hour when not given.")] = None,
    context: Ctx,
) -> int:
    """Run a program on a device and pass its output on as it comes.

    Put -- before the program. Its exit code becomes anvil's; 128 + N means that signal N ended it.
    """
    if not command:
        raise Failure(ExitCode.USAGE, "no_command", "name a program after the device: anvil device exec DEVICE -- ls")
    body = {"command": command, "env": pairs("--env", env), "cwd": cwd, "user": user, "timeout": timeout}
    async with connect(context) as api:
        target = await device_id(api, device)
        request = {name: value for name, value in body.items() if value}
        ended = None
        async with api.lines(f"/devices/{target}/exec", request) as lines:
            async for line in lines:
                ended = _take(msgspec.json.decode(line, type=dict[str, Any]), context.output)
    if ended is None:
        raise Failure(ExitCode.UNREACHABLE, "cut_short", "the connection ended before the program did")
    return ended.exit_code


async def shell(
    device: str,
    /,
    *command: Annotated[str, Parameter(help="Program to run instead of the login shell.")],
    user: Annotated[str | None, Parameter(help="Who to be on the device.")] = None,
    context: Ctx,
) -> int:
    """Open a terminal on a device. It ends with its shell; the shell's exit code becomes anvil's."""
    if not sys.stdin.isatty():
        raise Failure(ExitCode.USAGE, "no_terminal", "anvil device shell needs a terminal; use anvil device exec")
    async with connect(context) as api:
        target = await device_id(api, device)
        async with api.websocket(f"/devices/{target}/shell") as session:
            start = {"argv": command or None, "user": user, **_terminal_size()}
            await session.send_json({"type": "start", **{n: v for n, v in start.items() if v is not None}})
            with _raw_terminal():
                return await _converse(session)


async def _converse(session: AsyncWebSocketSession) -> int:
    """Carry bytes both ways until the far side says how its program ended."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_send_keys, session)
        nursery.start_soon(_send_sizes, session)
        try:
            while True:
                match await session.receive():
                    case wsproto.events.BytesMessage(data=data):
                        await trio.to_thread.run_sync(_write, bytes(data))
                    case wsproto.events.TextMessage(data=text):
                        ended = _control(text)
                        if ended is not None:
                            nursery.cancel_scope.cancel()
                            return ended.exit_code
        except WebSocketDisconnect as closed:
            raise Failure(
                ExitCode.UNREACHABLE, "cut_short", f"the terminal's connection ended: {closed.reason or closed.code}"
            ) from None


async def _send_keys(session: AsyncWebSocketSession) -> None:
    keyboard = sys.stdin.fileno()
    while True:
        await trio.lowlevel.wait_readable(keyboard)
        data = os.read(keyboard, CHUNK)
        if not data:
            return
        await session.send_bytes(data)


async def _send_sizes(session: AsyncWebSocketSession) -> None:
    with trio.open_signal_receiver(signal.SIGWINCH) as changes:
        async for _ in changes:
            await session.send_json({"type": "resize", **_terminal_size()})


def _terminal_size() -> dict[str, int]:
    size = shutil.get_terminal_size()
    return {"columns": size.columns, "rows": size.lines}


@contextmanager
def _raw_terminal() -> Iterator[None]:
    """Let every key through, and put the terminal back whatever happens."""
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    tty.setraw(keyboard)
    try:
        yield
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _control(text: str) -> Ended | None:
    message = msgspec.json.decode(text, type=dict[str, Any])
    if message.get("type") == "error":
        raise error_from_code(message["code"], message["message"])
    return msgspec.convert(message, Ended) if message.get("type") == "exit" else None


def _take(message: dict[str, Any], output: Output) -> Ended | None:
    """Pass one line of an exec answer on; the last one tells how the program ended."""
    if output.json:
        output.line(message)
    if (error := message.get("error")) is not None:
        raise error_from_code(error["code"], error["message"])
    if (ended := message.get("exit")) is not None:
        return msgspec.convert(ended, Ended)
    if not output.json:
        target = sys.stderr if message["stream"] == "stderr" else sys.stdout
        target.buffer.write(b64decode(message["data"]))
        target.flush()
    return None
