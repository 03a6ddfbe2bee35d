"""The SDK's two clients behind one way of calling, so that one program drives both of them."""

from __future__ import annotations

import inspect
import socket
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import wrenn

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # of a name that the SDK itself still has for older programs
    from wrenn import code_runner


@dataclass(frozen=True)
class Clients:
    """The entrances of one of the two clients."""

    Capsule: Any
    Client: Any
    CodeRunner: Any


KINDS = {
    "sync": Clients(wrenn.Capsule, wrenn.WrennClient, code_runner.Capsule),
    "async": Clients(wrenn.AsyncCapsule, wrenn.AsyncWrennClient, code_runner.AsyncCapsule),
}


async def told(result: Any) -> Any:
    """Return what a call has returned, or what it will have."""
    return await result if inspect.isawaitable(result) else result


async def each(iterable: Any) -> AsyncIterator[Any]:
    """Iterate over what a call yields, and leave it at the end or where the caller breaks off."""
    if hasattr(iterable, "__aiter__"):
        try:
            async for item in iterable:
                yield item
        finally:
            if hasattr(iterable, "aclose"):
                await iterable.aclose()
        return
    try:
        for item in iterable:
            yield item
    finally:
        if hasattr(iterable, "close"):
            iterable.close()


@asynccontextmanager
async def inside(manager: Any) -> AsyncIterator[Any]:
    """Enter and leave a context manager of either kind."""
    if hasattr(manager, "__aenter__"):
        async with manager as entered:
            yield entered
    else:
        with manager as entered:
            yield entered


class Raised:
    """What a block has raised."""

    error: Any


@contextmanager
def raises(expected: type[Exception]) -> Iterator[Raised]:
    """Expect a block to raise an error."""
    found = Raised()
    try:
        yield found
    except expected as error:
        found.error = error
    else:
        raise AssertionError(f"{expected.__name__} was expected")


def resolve_local_names() -> None:
    """Let names below ``localhost`` mean this machine, as browsers and newer resolvers do; many resolvers do not."""
    resolve = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **more: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        return resolve("127.0.0.1" if name and name.endswith(".localhost") else host, *args, **more)

    socket.getaddrinfo = getaddrinfo
