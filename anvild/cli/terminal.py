"""Terminals: ``anvil device shell``, and what the other wings' shells share with it."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator
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
from .hands import Ended
from .lookup import device_id

__all__ = ["check_terminal", "converse", "shell", "terminal_size"]

CHUNK = 32 * 1024


async def shell(
    device: str,
    /,
    *command: Annotated[str, Parameter(help="Program to run instead of the login shell.")],
    user: Annotated[str | None, Parameter(help="Who to be on the device.")] = None,
    context: Ctx,
) -> int:
    """Open a terminal on a device. It ends with its shell; the shell's exit code becomes anvil's."""
    check_terminal("device")
    async with connect(context) as api:
        target = await device_id(api, device)
        async with api.socket(f"/devices/{target}/shell") as session:
            start = {"argv": command or None, "user": user, **_size()}
            await session.send_json({"type": "start", **{n: v for n, v in start.items() if v is not None}})
            return await converse(session, _size, _ended)


def check_terminal(noun: str) -> None:
    """Raise Failure when nobody sits there."""
    if not sys.stdin.isatty():
        raise Failure(ExitCode.USAGE, "no_terminal", f"anvil {noun} shell needs a terminal; use anvil {noun} exec")


async def converse(
    session: AsyncWebSocketSession, size: Callable[[], dict[str, int]], ended: Callable[[dict[str, Any]], int | None]
) -> int:
    """Carry bytes both ways until the far side says how its program ended, and return its exit code.

    ``size`` says how large the terminal is now, in the words of the far side; ``ended`` reads one of its messages:
    the exit code, or None when it goes on.
    """
    with _raw_terminal():
        return await _carry(session, size, ended)


async def _carry(
    session: AsyncWebSocketSession, size: Callable[[], dict[str, int]], ended: Callable[[dict[str, Any]], int | None]
) -> int:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_send_keys, session)
        nursery.start_soon(_send_sizes, session, size)
        try:
            while True:
                match await session.receive():
                    case wsproto.events.BytesMessage(data=data):
                        await trio.to_thread.run_sync(_write, bytes(data))
                    case wsproto.events.TextMessage(data=text):
                        code = ended(msgspec.json.decode(text, type=dict[str, Any]))
                        if code is not None:
                            nursery.cancel_scope.cancel()
                            return code
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


async def _send_sizes(session: AsyncWebSocketSession, size: Callable[[], dict[str, int]]) -> None:
    with trio.open_signal_receiver(signal.SIGWINCH) as changes:
        async for _ in changes:
            await session.send_json({"type": "resize", **size()})


def terminal_size() -> os.terminal_size:
    """Return how large this terminal is now."""
    return shutil.get_terminal_size()


def _size() -> dict[str, int]:
    size = terminal_size()
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


def _ended(message: dict[str, Any]) -> int | None:
    if message.get("type") == "error":
        raise error_from_code(message["code"], message["message"])
    return msgspec.convert(message, Ended).exit_code if message.get("type") == "exit" else None
