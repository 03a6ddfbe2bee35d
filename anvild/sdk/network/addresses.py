"""What an address is, as far as a filter cares: public, or one of those that lead to where a stranger must not go."""

from __future__ import annotations

import errno
import socket
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from ..errors import InvalidArgument

__all__ = [
    "PERMITTABLE",
    "Address",
    "Network",
    "Reach",
    "describe",
    "is_own",
    "parse_address",
    "parse_network",
    "reach_of",
]

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class Reach(StrEnum):
    """Where an address leads. What is LOOPBACK or PRIVATE can be permitted by name; what is LOCAL or SPECIAL cannot."""

    PUBLIC = "public"
    LOOPBACK = "loopback"
    PRIVATE = "private"
    LOCAL = "link-local or a metadata service"
    SPECIAL = "of no single machine"


PERMITTABLE = (Reach.PRIVATE, Reach.LOOPBACK)

_RANGES: tuple[tuple[Network, Reach], ...] = tuple(
    (ip_network(text), reach)
    for reach, texts in {
        Reach.LOOPBACK: ("127.0.0.0/8", "::1/128"),
        Reach.LOCAL: (
            "169.254.0.0/16",
            "fe80::/10",
            # Metadata services of clouds that are not at a link-local address.
            "100.100.100.200/32",
            "168.63.129.16/32",
            "192.0.0.192/32",
            "fd00:ec2::254/128",
            "fd20:ce::254/128",
        ),
        Reach.PRIVATE: (
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "100.64.0.0/10",
            "198.18.0.0/15",
            "fc00::/7",
            "fec0::/10",
        ),
        Reach.SPECIAL: (
            "0.0.0.0/8",
            "192.0.0.0/24",
            "192.88.99.0/24",
            "224.0.0.0/4",
            "240.0.0.0/4",
            # The unspecified address, and IPv4 addresses that are wrapped so that another machine unwraps them.
            "::/96",
            "::ffff:0:0/96",
            "::ffff:0:0:0/96",
            "64:ff9b::/32",
            "100::/64",
            "2001::/32",
            "2002::/16",
            "ff00::/8",
        ),
    }.items()
    for text in texts
)
"""The first range that holds an address says what it is."""

_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def parse_address(text: str) -> Address | None:
    """Return the address that a text is, in the one form that every machine reads alike; None when it is none.

    IPv4 inside IPv6 (``::ffff:…``) is the IPv4 address. A zone is not taken: what needs one is link-local.
    """
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return None
        return address.ipv4_mapped or address
    return address


def parse_network(text: str) -> Network:
    """Return the range that a text is: an address, or one with the length of its prefix. Raises InvalidArgument."""
    try:
        network = ip_network(text)
    except ValueError as error:
        raise InvalidArgument(f"{text!r} is no range of addresses: {error}") from None
    if "%" in text:
        raise InvalidArgument(f"{text!r} is no range of addresses: zones are not taken")
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped is not None:
        raise InvalidArgument(f"{text!r} is a range of IPv4 addresses: write it as one")
    return network


def reach_of(address: Address) -> Reach:
    """Say where an address leads."""
    return next((reach for network, reach in _RANGES if address in network), Reach.PUBLIC)


def describe(network: Network) -> Reach | None:
    """Say where all addresses of a range lead; None when they do not lead to the same."""
    for held, reach in _RANGES:
        if _within(network, held):
            return reach
    return None if any(network.overlaps(held) for held, _ in _RANGES) else Reach.PUBLIC


def _within(network: Network, other: Network) -> bool:
    if isinstance(network, IPv4Network):
        return isinstance(other, IPv4Network) and network.subnet_of(other)
    return isinstance(other, IPv6Network) and network.subnet_of(other)


def is_own(address: Address) -> bool:
    """Say whether an address is one of this machine, by asking the kernel whether a socket may have it.

    Where the kernel gives no clear answer the address counts as one.
    """
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as trial:
            trial.bind((str(address), 0))
    except OSError as error:
        return error.errno not in _NOT_HERE
    return True
