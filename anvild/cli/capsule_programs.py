"""``anvil capsule exec`` and ``anvil capsule shell``: programs in a capsule, by hand."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import msgspec
import wsproto.events
from cyclopts import Parameter
from httpx2.websockets import AsyncWebSocketSession, WebSocketDisconnect

from .api import CAPSULES, connect
from .context import Ctx
from .exits import ExitCode, Failure
from .lookup import pairs
from .output import Output
from .terminal import check_terminal, converse, terminal_size

__all__ = ["exec_", "shell"]


async def exec_(
    capsule: str,
    /,
    *command: str,
    env: Annotated[tuple[str, ...], Parameter(negative="", help="NAME=VALUE for the program; repeatable.")] = (),
    cwd: Annotated[str | None, Parameter(help="Directory to start in.")] = None,
    context: Ctx,
) -> int:
    """Run a program in a capsule and pass its output on, as text, as it comes.

    Put -- before the program. Its exit code becomes anvil's. It ends with the connection.
    """
    if not command:
        raise Failure(ExitCode.USAGE, "no_command", "name a program after the capsule: anvil capsule exec ID -- ls")
    program, *words = command
    start: dict[str, Any] = {"type": "start", "cmd": program, "args": words, "envs": pairs("--env", env)}
    if cwd is not None:
        start["cwd"] = cwd
    async with (
        connect(context, wing=CAPSULES) as api,
        api.socket(f"/capsules/{capsule}/exec/stream") as session,
    ):
        await session.send_json(start)
        return await _follow(session, context.output)


async def shell(
    capsule: str,
    /,
    *command: Annotated[str, Parameter(help="Program to run instead of bash.")],
    context: Ctx,
) -> int:
    """Open a terminal in a capsule. It ends with its program, whose exit code becomes anvil's."""
    check_terminal("capsule")
    async with (
        connect(context, wing=CAPSULES) as api,
        api.socket(f"/capsules/{capsule}/pty", frames="binary") as session,
    ):
        program, *words = command or ("/bin/bash", "-l")
        await session.send_json({"type": "start", "cmd": program, "args": words, **_size()})
        return await converse(session, _size, _ended)


async def _follow(session: AsyncWebSocketSession, output: Output) -> int:
    try:
        while True:
            received = await session.receive()
            assert isinstance(received, wsproto.events.TextMessage)
            message = msgspec.json.decode(received.data, type=dict[str, Any])
            if output.json:
                output.line(message)
            elif message["type"] in ("stdout", "stderr"):
                target = sys.stderr if message["type"] == "stderr" else sys.stdout
                target.write(message["data"])
                target.flush()
            if (code := _ended(message)) is not None:
                return code
    except WebSocketDisconnect as closed:
        reason = f"the connection ended before the program did: {closed.reason or closed.code}"
        raise Failure(ExitCode.UNREACHABLE, "cut_short", reason) from None


def _size() -> dict[str, int]:
    size = terminal_size()
    return {"cols": size.columns, "rows": size.lines}


def _ended(message: dict[str, Any]) -> int | None:
    """The exit code of a last message: 255 stands for a signal, as with ssh. Raises Failure for an error."""
    if message["type"] == "error" and message.get("fatal", True):
        raise Failure(ExitCode.CONFLICT, "agent_error", message["data"])
    if message["type"] != "exit":
        return None
    code: int = message["exit_code"]
    return code if code >= 0 else 255
