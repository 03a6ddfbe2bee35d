"""``anvil device exec``: programs on a device, by hand."""

from __future__ import annotations

import sys
from base64 import b64decode
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter

from anvild.sdk import error_from_code

from .api import connect
from .context import Ctx
from .exits import ExitCode, Failure
from .lookup import device_id, pairs
from .output import Output

__all__ = ["Ended", "exec_"]


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
    body = {"argv": command, "env": pairs("--env", env), "cwd": cwd, "user": user, "timeout": timeout}
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
