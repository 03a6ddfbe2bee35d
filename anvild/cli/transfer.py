"""Files between this machine and the daemon: whole or not at all, with flat memory and a progress bar for people."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path, PurePosixPath
from typing import Protocol

import httpx2
import trio
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from .exits import ExitCode, Failure
from .output import Output, plain, size

__all__ = ["Bar", "copy_out", "inside", "place", "progress", "pull_file", "push_file", "read_file", "save"]

CHUNK = 256 * 1024


class Bar:
    """Counts bytes; shows them when there is somebody to look."""

    def __init__(self, shown: Progress | None, task: TaskID | None) -> None:
        self._shown = shown
        self._task = task
        self.count = 0

    def advance(self, count: int) -> None:
        """Count bytes that have moved."""
        self.count += count
        if self._shown is not None and self._task is not None:
            self._shown.advance(self._task, count)


@contextmanager
def progress(output: Output, name: str, total: int | None) -> Iterator[Bar]:
    """Show a progress bar on standard error while the block runs, where that is a terminal."""
    console = Console(stderr=True)
    if output.json or not console.is_terminal:
        yield Bar(None, None)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True) as shown:
        yield Bar(shown, shown.add_task(plain(name), total=total))


def inside(directory: Path, name: str) -> Path:
    """Return where a file called ``name`` by the daemon goes below ``directory``, refusing to leave it."""
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or PurePosixPath(name).is_absolute():
        raise Failure(ExitCode.USAGE, "unsafe_name", f"a file called {name!r} would lie outside of {directory}")
    return directory.joinpath(*parts)


async def push_file(
    output: Output, source: Path, target: str, send: Callable[[str, AsyncIterator[bytes]], Awaitable[object]]
) -> None:
    """Hand a file of this machine to ``send`` with the path that it shall have, and say so. A ``target`` with a / at
    its end is a directory. Raises Failure where there is no such file."""
    if not await trio.Path(source).is_file():
        raise Failure(ExitCode.USAGE, "no_such_file", f"{source} is no file")
    path = f"{target}{source.name}" if target.endswith("/") else target
    total = (await trio.Path(source).stat()).st_size
    with progress(output, source.name, total) as bar:
        await send(path, read_file(source, bar))
    _tell(output, path, total)


async def pull_file(output: Output, response: httpx2.Response, source: str, target: Path) -> None:
    """Write the body of an answer, which is the file ``source``, to ``target``, and say so: a file, a directory, or -
    for standard output."""
    if str(target) == "-":
        await copy_out(response)
        return
    path = target / source.rpartition("/")[2] if await trio.Path(target).is_dir() else target
    _tell(output, str(path), await save(response, path, output))


def _tell(output: Output, path: str, count: int) -> None:
    if output.json:
        output.document({"path": path, "size": count})
    else:
        output.say(f"{path}  {size(count)}")


async def save(response: httpx2.Response, path: Path, output: Output) -> int:
    """Write the body of an answer to ``path`` and return its size.

    The bytes go to a temporary file beside it, which is renamed at the end; cancelled or broken, nothing is left.
    """
    length = response.headers.get("Content-Length")
    with progress(output, path.name, int(length) if length else None) as bar:
        async with _appearing(path) as file:
            try:
                async for chunk in response.aiter_raw():
                    await file.write(chunk)
                    bar.advance(len(chunk))
            except httpx2.TransportError as error:
                reason = f"{path.name}: the connection broke: {error}"
                raise Failure(ExitCode.UNREACHABLE, "cut_short", reason) from None
    return bar.count


async def place(path: Path, data: bytes) -> None:
    """Write a small file, whole or not at all."""
    async with _appearing(path) as file:
        await file.write(data)


class _Writable(Protocol):
    async def write(self, data: bytes, /) -> int: ...


@asynccontextmanager
async def _appearing(path: Path) -> AsyncIterator[_Writable]:
    """A temporary file to write to, which is at ``path`` after the block, or gone after an error."""
    await trio.Path(path.parent).mkdir(parents=True, exist_ok=True)
    descriptor, temporary = await trio.to_thread.run_sync(
        lambda: tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    )
    try:
        async with trio.wrap_file(os.fdopen(descriptor, "wb")) as file:
            yield file
        await trio.Path(temporary).rename(path)
    except BaseException:
        with trio.CancelScope(shield=True):
            await trio.Path(temporary).unlink(missing_ok=True)
        raise


async def copy_out(response: httpx2.Response) -> int:
    """Write the body of an answer to standard output and return its size."""
    count = 0
    async for chunk in response.aiter_raw():
        await trio.to_thread.run_sync(sys.stdout.buffer.write, chunk)
        count += len(chunk)
    sys.stdout.buffer.flush()
    return count


async def read_file(path: Path, bar: Bar) -> AsyncIterator[bytes]:
    """Read a file piece by piece."""
    async with await trio.open_file(path, "rb") as file:
        while chunk := await file.read(CHUNK):
            yield chunk
            bar.advance(len(chunk))
