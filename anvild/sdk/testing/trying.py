"""Calls to a driver, bounded in time and judged by how they end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
import trio

from ..errors import AnvilError
from .rules import Broken, require

__all__ = [
    "CANCEL_SECONDS",
    "CLEAN_SECONDS",
    "DESCRIBE_SECONDS",
    "STOP_SECONDS",
    "VERB_SECONDS",
    "cancelled",
    "described",
    "leaf",
    "limited",
    "refused",
    "valid",
]

T = TypeVar("T")

DESCRIBE_SECONDS = 10.0
STOP_SECONDS = 30.0
VERB_SECONDS = 60.0
CLEAN_SECONDS = 120.0
CANCEL_SECONDS = 1.0
ALLOWANCE = 1.0
"""What is added to :data:`CANCEL_SECONDS` before a cancellation counts as late: a host that is busy is no defect."""


async def refused(
    what: str, error: type[AnvilError] | tuple[type[AnvilError], ...], call: Callable[[], Awaitable[object]]
) -> None:
    """Require that a call raises one of these errors."""
    wanted = error if isinstance(error, tuple) else (error,)
    names = " or ".join(each.__name__ for each in wanted)
    try:
        got = await limited(what, VERB_SECONDS, call)
    except wanted:
        return
    except Exception as other:
        raise Broken(f"{what} must raise {names}, and raised {described(leaf(other))}") from other
    raise Broken(f"{what} must raise {names}, and returned {got!r}")


async def cancelled(what: str, call: Callable[[], Awaitable[object]], *, after: float = 0.2) -> None:
    """Call, cancel after a moment, and require that the call ends within a second."""
    took: float | None = None
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            began = float("inf")

            async def stop() -> None:
                nonlocal began
                await trio.sleep(after)
                began = trio.current_time()
                scope.cancel()

            nursery.start_soon(stop)
            try:
                await call()
            finally:
                took = trio.current_time() - began
                nursery.cancel_scope.cancel()
    require(
        took is not None and took <= CANCEL_SECONDS + ALLOWANCE,
        f"{what} did not end within {CANCEL_SECONDS:g} s of being cancelled, but after {took or 0:.1f} s",
    )


async def limited(what: str, seconds: float, call: Callable[[], Awaitable[T]]) -> T:
    """Call within a time. Raises Broken when it takes longer."""
    with trio.move_on_after(seconds):
        return await call()
    raise Broken(f"{what} did not end within {seconds:g} s")


def valid(value: object, kind: Any, what: str) -> None:
    """Require that a value is of its type in every field: in-process drivers can make what no wire would carry."""
    try:
        msgspec.convert(msgspec.to_builtins(value), kind)
    except (msgspec.ValidationError, TypeError, NotImplementedError) as error:
        raise Broken(f"{what} returned {value!r}: {error}") from None


def leaf(error: BaseException) -> BaseException:
    """Return what a group of one is about."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def described(error: BaseException) -> str:
    """Say an error in one line."""
    if isinstance(error, Broken):
        return str(error)
    text = str(error).strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
