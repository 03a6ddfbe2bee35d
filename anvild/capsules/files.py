"""Files of capsules: paths as people write them, and moving their content."""

from __future__ import annotations

import posixpath
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager

import trio

from anvild.core.errors import FieldProblem, InvalidRequest
from anvild.sdk import AnvilError, Command, Entry, Exec, Files, ResourceExhausted, Session, run

__all__ = ["CapsuleFull", "absolute", "content", "link_target", "write"]

CHUNK = 64 * 1024
HOME_SECONDS = 30.0


class CapsuleFull(AnvilError):
    """There is no room for it in the capsule."""

    code = "agent_error"
    http = 502


async def absolute(path: str, session: Session, *, field: str = "body.path") -> str:
    """Return a path as an absolute one: relative ones, and those with ``~``, begin at the home of the capsule's user.

    Raises InvalidRequest for an empty one.
    """
    if not path or "\0" in path:
        raise InvalidRequest("this is no path", (FieldProblem(field, "a path without NUL characters"),))
    if path.startswith("/"):
        return path
    found = await run(session.require(Exec), Command(argv=("sh", "-c", 'printf %s "$HOME"')), deadline=HOME_SECONDS)
    home = found.stdout.decode(errors="replace") or "/"
    rest = path[1:].lstrip("/") if path == "~" or path.startswith("~/") else path
    return posixpath.join(home, rest) if rest else home


async def write(session: Session, path: str, source: AsyncGenerator[bytes, None]) -> None:
    """Write a file as its content arrives: it appears whole or not at all. Raises CapsuleFull, and as Files.write."""
    try:
        async with aclosing(source):
            await session.require(Files).write(path, source, mode=0o644)
    except ResourceExhausted as error:
        raise CapsuleFull(error.message) from None


@asynccontextmanager
async def content(using: AbstractAsyncContextManager[Session], path: str) -> AsyncIterator[AsyncIterator[bytes]]:
    """Open a file and give its content in pieces. Raises NotFound, InvalidArgument for a directory."""
    async with using as session:
        stream = await session.require(Files).read(await absolute(path, session))
        async with stream, aclosing(_pieces(stream)) as pieces:
            yield pieces


async def _pieces(stream: trio.abc.ReceiveStream) -> AsyncGenerator[bytes, None]:
    while data := await stream.receive_some(CHUNK):
        yield bytes(data)


def link_target(entry: Entry) -> str | None:
    """Return where a link leads to, as an absolute path."""
    if entry.target is None:
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(entry.path), entry.target))
