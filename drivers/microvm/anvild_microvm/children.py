"""Child processes that do one job and end: tools of the host such as ``qemu-img`` or ``mmdebstrap``."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import trio

from anvild.sdk import DriverFault, Unavailable

__all__ = ["Tool", "check_tools", "run_tool"]

GRACE_SECONDS = 0.5
KEPT_OUTPUT = 4096

Tool = tuple[str, str]
"""A program and the Debian package that brings it."""


def check_tools(tools: Sequence[Tool], purpose: str) -> None:
    """Raise Unavailable that names the missing programs and the command that installs them."""
    missing = [tool for tool in tools if shutil.which(tool[0]) is None]
    if missing:
        programs = ", ".join(program for program, _ in missing)
        packages = " ".join(dict.fromkeys(package for _, package in missing))
        raise Unavailable(f"{purpose} needs {programs}: apt-get install {packages}", missing=programs)


async def _end_group(process: trio.Process) -> None:
    """End a cancelled child with all its children: politely first, then for certain."""
    for number, patience in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, float("inf"))):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        with trio.move_on_after(patience):
            await process.wait()
            return


async def run_tool(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    report: Callable[[str], Awaitable[None]] | None = None,
) -> str:
    """Run a program to its end and return its standard output as text.

    ``report`` receives each line of its standard error. Raises DriverFault with the end of its standard error when it
    fails. Cancelling it ends the program with its whole process group.
    """
    words = [os.fspath(word) for word in argv]
    output = bytearray()
    errors = bytearray()
    async with trio.open_nursery() as nursery:
        process = await nursery.start(
            partial(
                trio.run_process,
                words,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                check=False,
                cwd=cwd,
                env=None if env is None else {**os.environ, **env},
                start_new_session=True,
                deliver_cancel=_end_group,
            )
        )
        nursery.start_soon(_collect, process.stdout, output)
        line = bytearray()
        async for chunk in process.stderr:
            errors += chunk
            del errors[:-KEPT_OUTPUT]
            line += chunk
            while report is not None and b"\n" in line:
                text, _, rest = line.partition(b"\n")
                await report(text.decode(errors="replace").strip())
                line = rest
    if process.returncode != 0:
        raise DriverFault(
            f"{Path(words[0]).name} ended with status {process.returncode}: "
            f"{errors.decode(errors='replace').strip() or 'it said nothing'}"
        )
    return output.decode(errors="replace")


async def _collect(stream: trio.abc.ReceiveStream, into: bytearray) -> None:
    async for chunk in stream:
        into += chunk
