"""A network policy, understood: which names, addresses and ports it lets through."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from ..errors import InvalidArgument
from ..values import NetworkPolicy
from .addresses import PERMITTABLE, Address, Network, Reach, describe, is_own, parse_address, parse_network, reach_of

__all__ = ["NOT_LISTED", "PORTS", "Rules", "check_private", "host_of"]

_LABEL = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_NUMBER = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)")
LONGEST_NAME = 253
PORTS = 65535
ANYWHERE = "*"
NOT_LISTED = "is not on the allow-list"


class _Entry(msgspec.Struct, frozen=True):
    """One entry of an allow-list: all public addresses, a name, the names below one, or a range of addresses."""

    port: int | None
    name: str | None = None
    below: str | None = None
    network: Network | None = None

    @property
    def anywhere(self) -> bool:
        return self.name is None and self.below is None and self.network is None

    def names(self, name: str) -> bool:
        return name == self.name or (self.below is not None and name.endswith(self.below))


class Rules:
    """What a policy lets through. Raises InvalidArgument, with the ``field`` of the policy that cannot be."""

    def __init__(self, policy: NetworkPolicy) -> None:
        self._private = check_private(policy.private)
        self._entries = [self._entry(text, at) for at, text in enumerate(policy.allow)]

    def _entry(self, text: str, at: int) -> _Entry:
        try:
            entry = _parse(text.lower())
            if entry.network is not None:
                self._check_network(entry.network)
        except InvalidArgument as error:
            raise InvalidArgument(error.message, field=f"allow[{at}]") from None
        return entry

    def _check_network(self, network: Network) -> None:
        """Raise InvalidArgument for a range of which nothing could ever be reached."""
        reach = describe(network)
        if reach in (None, Reach.PUBLIC):
            return
        if reach not in PERMITTABLE:
            raise InvalidArgument(f"{network} is {reach}: no policy lets it through")
        if not any(network.overlaps(permitted) for permitted in self._private):
            raise InvalidArgument(f"{network} is {reach}, and is not among what the operator permits of such addresses")

    def may_ask_for(self, name: str, port: int) -> bool:
        """Say whether a name need be looked up at all: whether anything could let through where it leads."""
        entries = [entry for entry in self._entries if entry.port in (None, port)]
        return any(entry.anywhere or entry.network is not None or entry.names(name) for entry in entries)

    def refusal(self, name: str | None, address: Address, port: int) -> str | None:
        """Return why an address, to which a name leads or which was asked for itself, is not let through, in words
        that follow a subject; None when it is."""
        reach = reach_of(address)
        permitted = reach in PERMITTABLE and any(address in network for network in self._private)
        if reach is not Reach.PUBLIC and not permitted:
            return f"is {reach}"
        if reach is not Reach.LOOPBACK and is_own(address):
            return "is the host itself"
        for entry in self._entries:
            if entry.port not in (None, port):
                continue
            if entry.network is not None and address in entry.network:
                return None
            if entry.anywhere and reach is Reach.PUBLIC:
                return None
            if name is not None and entry.names(name):
                return None
        return NOT_LISTED


def check_private(texts: Sequence[str]) -> tuple[Network, ...]:
    """Return the ranges that an operator permits beyond public addresses.

    Raises InvalidArgument with the ``field`` for what is none, and for one that holds anything but private addresses
    or those of the loopback.
    """
    found = []
    for at, text in enumerate(texts):
        field = f"private[{at}]"
        try:
            network = parse_network(text)
        except InvalidArgument as error:
            raise InvalidArgument(error.message, field=field) from None
        reach = describe(network)
        if reach not in PERMITTABLE:
            told = "public and other addresses" if reach is None else f"addresses that are {reach}"
            raise InvalidArgument(f"{text} holds {told}; only private ones can be permitted", field=field)
        found.append(network)
    return tuple(found)


def host_of(text: str) -> str | Address:
    """Return what a program names as a host: a name in lower case, or an address.

    Raises InvalidArgument for what is neither, and for addresses in forms that machines read differently, such as
    ``127.1``, ``0177.0.0.1`` and ``2130706433``.
    """
    text = text.lower()
    address = parse_address(text.removeprefix("[").removesuffix("]") if text.startswith("[") else text)
    if address is not None:
        return address
    return _check_name(text.removesuffix("."))


def _check_name(text: str) -> str:
    if len(text) > LONGEST_NAME or not _NAME.fullmatch(text):
        raise InvalidArgument(f"{text[:LONGEST_NAME]!r} is no name of a host")
    if _NUMBER.fullmatch(text.rpartition(".")[2]):
        raise InvalidArgument(f"{text!r} is neither a name nor an address in its usual form")
    return text


def _parse(text: str) -> _Entry:
    """Read ``TARGET`` or ``TARGET:PORT``. IPv6 with a port stands in brackets."""
    if text.startswith("["):
        target, closed, rest = text[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise InvalidArgument(f"{text!r}: an IPv6 range with a port is written as [RANGE]:PORT")
        port = _port(rest[1:], text) if rest else None
        return _Entry(port, network=parse_network(target))
    if text.count(":") > 1:
        return _Entry(None, network=parse_network(text))
    target, colon, rest = text.partition(":")
    port = _port(rest, text) if colon else None
    if target == ANYWHERE:
        return _Entry(port)
    if target.startswith("*."):
        return _Entry(port, below="." + _check_name(target[2:].removesuffix(".")))
    if "/" in target or parse_address(target) is not None:
        return _Entry(port, network=parse_network(target))
    return _Entry(port, name=_check_name(target.removesuffix(".")))


def _port(text: str, entry: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(PORTS)) and 0 < int(text) <= PORTS):
        raise InvalidArgument(f"{entry!r}: {text!r} is no port")
    return int(text)
