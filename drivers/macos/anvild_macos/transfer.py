"""Bytes from and to files on a Mac, as they are, through the streams of a command."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterable

import trio

from anvild.sdk import InvalidArgument, NotFound, PermissionDenied

from .child import CHUNK, Child
from .place import Done, Place, refused
from .shell import script

READ = """\
if [ -d "$1" ]; then echo directory; elif [ ! -e "$1" ]; then echo missing; elif [ ! -r "$1" ]; then echo denied
else echo ready; exec cat -- "$1"; fi
"""
TAKE = 'umask 077; exec cat >"$1"'
LINE_LIMIT = 64


class ChildStream(trio.abc.ReceiveStream):
    """The output of a program on a Mac. Its end is checked: a program that failed raises what it complained of."""

    def __init__(self, child: Child, what: str) -> None:
        self._child = child
        self._what = what
        self._checked = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = await self._child.stdout.receive_some(max_bytes)
        if not data and not self._checked:
            self._checked = True
            await check(self._child, self._what)
        return data

    async def aclose(self) -> None:
        await self._child.aclose()


async def check(child: Child, what: str) -> None:
    """Wait for the end of a program whose output has been read. Raises what it complained of, or DeviceLost."""
    said = b""
    while child.stderr is not None and (chunk := await child.stderr.receive_some()):
        said = (said + chunk)[-CHUNK:]
    code = await child.wait()
    if code:
        raise refused(what, Done(code=code, out=b"", err=said))


async def open_file(place: Place, path: str, what: str) -> trio.abc.ReceiveStream:
    """Open a file on a Mac. Raises NotFound, PermissionDenied, InvalidArgument for a directory, DeviceLost."""
    child = await place.start(script(READ, path))
    try:
        word = await child.first_line()
        if not word:
            await check(child, what)
        _check_word(word, path, what)
        return ChildStream(child, what)
    except BaseException:
        await child.aclose()
        raise


def _check_word(word: bytes, path: str, what: str) -> None:
    if word == b"directory":
        raise InvalidArgument(f"{what}: {path!r} is a directory")
    if word == b"missing":
        raise NotFound(f"{what}: there is no file {path!r} on the Mac")
    if word == b"denied":
        raise PermissionDenied(f"{what}: {path!r} may not be read")


async def upload(place: Place, path: str, source: AsyncIterable[bytes], what: str) -> int:
    """Stream ``source`` into the file ``path`` of a Mac and return how many bytes it had.

    When it fails or is cancelled, a part of the file may be there: the caller removes it.
    """
    size = 0
    async with contextlib.AsyncExitStack() as stack:
        if isinstance(source, AsyncGenerator):
            await stack.enter_async_context(contextlib.aclosing(source))
        child = await stack.enter_async_context(place.feed(script(TAKE, path)))
        try:
            async for chunk in source:
                await child.stdin.send_all(chunk)
                size += len(chunk)
        except trio.BrokenResourceError:  # it has ended, and says why below
            size = -1
        await child.stdin.aclose()
        await check(child, what)
    return size
