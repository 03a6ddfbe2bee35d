"""The filter: looks a name up, checks name and address against the rules, and connects to the address it checked."""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable, Sequence

import trio

from ..errors import AnvilError, DeadlineExceeded, InvalidArgument, PermissionDenied, Unavailable
from .addresses import Address, parse_address
from .rules import NOT_LISTED, PORTS, Rules, host_of

__all__ = ["Filter", "Resolve", "look_up"]

LOOKUP_SECONDS = 15.0
CONNECT_SECONDS = 10.0
ADDRESSES = 6
LOOKUPS = 4

Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""Looks a name up and returns its addresses. Raises OSError when it has none."""


def look_up(limiter: trio.CapacityLimiter) -> Resolve:
    """Return a resolver that asks this machine's own, in threads that ``limiter`` gives.

    An abandoned question occupies its thread until it is answered, so a limiter of one's own keeps those who ask much
    from holding up others.
    """

    async def resolve(name: str) -> Sequence[str]:
        found = await trio.to_thread.run_sync(
            lambda: socket.getaddrinfo(name, None, type=socket.SOCK_STREAM), limiter=limiter, abandon_on_cancel=True
        )
        return [str(each[4][0]) for each in found]

    return resolve


class Filter:
    """Opens connections that the rules let through, as a :class:`~anvild.sdk.network.way.Way`. What it raises is a
    sentence for the device.

    It gives away no address that a name leads to: who may not go there need not know it.
    """

    def __init__(self, rules: Rules, *, resolve: Resolve | None = None) -> None:
        self._rules = rules
        self._resolve = resolve or look_up(trio.CapacityLimiter(LOOKUPS))

    async def __call__(self, host: str, port: int) -> trio.SocketStream:
        """Connect to a host, by name or address, on a port.

        Raises InvalidArgument for what is no host, PermissionDenied, Unavailable, DeadlineExceeded.
        """
        target = host_of(host)
        if not 0 < port <= PORTS:
            raise InvalidArgument(f"{port} is no port")
        if not isinstance(target, str):
            self._check(None, [target], port)
            return await _connect([target], port, shown(target, port))
        told = shown(target, port)
        if not self._rules.may_ask_for(target, port):
            raise PermissionDenied(f"{told} {NOT_LISTED}")
        return await _connect(self._check(target, await self._addresses(target, told), port), port, told)

    async def _addresses(self, name: str, told: str) -> list[Address]:
        try:
            with trio.fail_after(LOOKUP_SECONDS):
                texts = await self._resolve(name)
        except trio.TooSlowError:
            raise DeadlineExceeded(f"{told}: the name could not be looked up within {LOOKUP_SECONDS:g} s") from None
        except (OSError, UnicodeError):
            raise Unavailable(f"{told}: the name has no address") from None
        found = dict.fromkeys(address for text in texts if (address := parse_address(text)) is not None)
        if not found:
            raise Unavailable(f"{told}: the name has no address")
        return list(found)

    def _check(self, name: str | None, addresses: Sequence[Address], port: int) -> list[Address]:
        """Return the addresses that are let through. Raises PermissionDenied when none is."""
        refusals = [(address, self._rules.refusal(name, address, port)) for address in addresses[:ADDRESSES]]
        allowed = [address for address, refusal in refusals if refusal is None]
        if not allowed:
            address, refusal = refusals[0]
            subject = shown(address, port) if name is None else shown(name, port)
            leads = "" if name is None or refusal == NOT_LISTED else "leads to an address that "
            raise PermissionDenied(f"{subject} {leads}{refusal}")
        return allowed


def shown(host: str | Address, port: int) -> str:
    """Return a host and a port as people write them."""
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"


async def _connect(addresses: Sequence[Address], port: int, told: str) -> trio.SocketStream:
    """Connect to the first of the addresses that answers."""
    failure: AnvilError = Unavailable(f"{told} cannot be reached")
    for address in addresses:
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        try:
            trial = trio.socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            failure = Unavailable(f"{told}: {_words(error)}", reason=error.errno)
            continue
        try:
            with trio.fail_after(CONNECT_SECONDS):
                await trial.connect((str(address), port))
            return trio.SocketStream(trial)
        except trio.TooSlowError:
            trial.close()
            failure = DeadlineExceeded(f"{told} did not answer within {CONNECT_SECONDS:g} s")
        except OSError as error:
            trial.close()
            failure = Unavailable(f"{told}: {_words(error)}", reason=error.errno)
        except BaseException:
            trial.close()
            raise
    raise failure


def _words(error: OSError) -> str:
    if error.errno == errno.ECONNREFUSED:
        return "nothing listens there"
    return (error.strerror or str(error)).lower()
