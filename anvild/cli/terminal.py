"""``anvil device shell``: a terminal on a device."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import termios
import tty
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any

import httpx2
import msgspec
import trio
import wsproto.events
from cyclopts import Parameter
from httpx2.websockets import AsyncWebSocketSession, WebSocketDisconnect, WebSocketUpgradeError

from anvild.sdk import error_from_code

from .api import PREFIX, Api, connect
from .context import Ctx
from .exits import ExitCode, Failure
from .hands import Ended
from .lookup import device_id

__all__ = ["shell"]

CHUNK = 32 * 1024
MAX_FRAME = 16 * 2**20


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
        async with _connected(api, f"/devices/{target}/shell") as session:
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


@asynccontextmanager
async def _connected(api: Api, path: str) -> AsyncIterator[AsyncWebSocketSession]:
    try:
        async with api.http.websocket(PREFIX + path, max_message_size_bytes=MAX_FRAME) as session:
            yield session
    except* WebSocketUpgradeError as group:
        refused = group.exceptions[0]
        assert isinstance(refused, WebSocketUpgradeError)
        raise api.failure(refused.response.status_code, b"") from None
    except* httpx2.TransportError as group:
        raise api.unreachable(group.exceptions[0]) from None
