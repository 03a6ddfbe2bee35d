"""What a policy lets through, and what none does."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anvild.sdk import InvalidArgument, NetworkPolicy
from anvild.sdk.network import rules as rules_module
from anvild.sdk.network.addresses import Reach, is_own, parse_address, reach_of
from anvild.sdk.network.rules import Rules, check_private, host_of

PUBLIC = "93.184.215.14"
PUBLIC_6 = "2606:2800:21f:cb07:6820:80da:af6b:8b2c"


def rules(*allow: str, private: tuple[str, ...] = ()) -> Rules:
    return Rules(NetworkPolicy(allow=allow, private=private))


def refusal(found: Rules, address: str, port: int = 443, name: str | None = None) -> str | None:
    parsed = parse_address(address)
    assert parsed is not None
    return found.refusal(name, parsed, port)


@pytest.mark.parametrize(
    ("address", "reach"),
    [
        (PUBLIC, Reach.PUBLIC),
        (PUBLIC_6, Reach.PUBLIC),
        ("203.0.113.9", Reach.PUBLIC),
        ("127.0.0.1", Reach.LOOPBACK),
        ("127.255.255.254", Reach.LOOPBACK),
        ("::1", Reach.LOOPBACK),
        ("::ffff:127.0.0.1", Reach.LOOPBACK),
        ("::ffff:7f00:1", Reach.LOOPBACK),
        ("10.0.0.1", Reach.PRIVATE),
        ("172.31.255.255", Reach.PRIVATE),
        ("172.32.0.0", Reach.PUBLIC),
        ("192.168.1.1", Reach.PRIVATE),
        ("100.64.0.1", Reach.PRIVATE),
        ("::ffff:10.1.2.3", Reach.PRIVATE),
        ("fc00::1", Reach.PRIVATE),
        ("fdff::1", Reach.PRIVATE),
        ("fec0::1", Reach.PRIVATE),
        ("169.254.169.254", Reach.LOCAL),
        ("169.254.0.1", Reach.LOCAL),
        ("::ffff:169.254.169.254", Reach.LOCAL),
        ("fe80::1", Reach.LOCAL),
        ("febf::1", Reach.LOCAL),
        ("fd00:ec2::254", Reach.LOCAL),
        ("100.100.100.200", Reach.LOCAL),
        ("168.63.129.16", Reach.LOCAL),
        ("192.0.0.192", Reach.LOCAL),
        ("0.0.0.0", Reach.SPECIAL),
        ("0.1.2.3", Reach.SPECIAL),
        ("224.0.0.251", Reach.SPECIAL),
        ("255.255.255.255", Reach.SPECIAL),
        ("240.0.0.1", Reach.SPECIAL),
        ("::", Reach.SPECIAL),
        ("::7f00:1", Reach.SPECIAL),
        ("64:ff9b::7f00:1", Reach.SPECIAL),
        ("2002:7f00:1::", Reach.SPECIAL),
        ("2001:0:7f00:1::", Reach.SPECIAL),
        ("ff02::1", Reach.SPECIAL),
    ],
)
def test_where_an_address_leads(address: str, reach: Reach) -> None:
    parsed = parse_address(address)
    assert parsed is not None
    assert reach_of(parsed) is reach


@given(st.ip_addresses(v=4))
def test_a_wrapped_address_leads_where_the_bare_one_does(address: IPv4Address) -> None:
    assert parse_address(f"::ffff:{address}") == address


@given(st.ip_addresses())
def test_no_policy_lets_more_through_than_public_addresses(address: IPv4Address | IPv6Address) -> None:
    """The standard library's own idea of what is no public address is never wider than ours."""
    everything = rules("*", "0.0.0.0/0", "::/0", "*.org")
    if everything.refusal("host.example.org", address, 80) is None:
        assert not any((address.is_loopback, address.is_link_local, address.is_multicast, address.is_unspecified))
        documentation = any(address in network for network in DOCUMENTATION if network.version == address.version)
        assert documentation or not address.is_private


DOCUMENTATION = tuple(
    rules_module.parse_network(text)
    for text in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20", "2001::/23")
)
"""Ranges that the standard library counts as private, though they are no less reachable than others."""


@pytest.mark.parametrize(
    ("entry", "name", "address", "port", "allowed"),
    [
        ("*", None, PUBLIC, 443, True),
        ("*", "any.example.org", PUBLIC_6, 1, True),
        ("*:443", None, PUBLIC, 443, True),
        ("*:443", None, PUBLIC, 80, False),
        ("packages.example.org", "packages.example.org", PUBLIC, 443, True),
        ("Packages.Example.org.", "packages.example.org", PUBLIC, 443, True),
        ("packages.example.org", "www.packages.example.org", PUBLIC, 443, False),
        ("packages.example.org", "evilpackages.example.org", PUBLIC, 443, False),
        ("packages.example.org", None, PUBLIC, 443, False),
        ("*.mirror.example:443", "deb.mirror.example", PUBLIC, 443, True),
        ("*.mirror.example:443", "a.b.mirror.example", PUBLIC, 443, True),
        ("*.mirror.example:443", "deb.mirror.example", PUBLIC, 80, False),
        ("*.mirror.example", "mirror.example", PUBLIC, 443, False),
        ("*.mirror.example", "evilmirror.example", PUBLIC, 443, False),
        ("203.0.113.0/24", None, "203.0.113.77", 22, True),
        ("203.0.113.0/24", "named.example.org", "203.0.113.77", 22, True),
        ("203.0.113.0/24", None, "203.0.114.1", 22, False),
        ("203.0.113.7:22", None, "203.0.113.7", 22, True),
        ("203.0.113.7:22", None, "203.0.113.7", 23, False),
        (f"[{PUBLIC_6}]:443", None, PUBLIC_6, 443, True),
        (f"[{PUBLIC_6}]:443", None, PUBLIC_6, 80, False),
        (PUBLIC_6, None, PUBLIC_6, 80, True),
        ("2606::/16", None, PUBLIC_6, 80, True),
        ("0.0.0.0/0", None, PUBLIC, 80, True),
    ],
)
def test_entries(entry: str, name: str | None, address: str, port: int, allowed: bool) -> None:
    assert refusal(rules(entry), address, port, name) == (None if allowed else "is not on the allow-list")


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "::1", "10.1.2.3", "169.254.169.254", "fe80::1", "fc00::1", "0.0.0.0"]
)
@pytest.mark.parametrize("entry", ["*", "0.0.0.0/0", "::/0", "*.example.org", "name.example.org"])
def test_what_is_not_public_is_refused_whatever_is_allowed(entry: str, address: str) -> None:
    told = refusal(rules(entry), address, 80, "name.example.org")
    assert told is not None
    assert told != "is not on the allow-list"


def test_private_addresses_need_the_operator_and_an_entry() -> None:
    permitted = ("10.1.0.0/16", "fd12::/32")
    assert refusal(rules("10.1.2.3", private=permitted), "10.1.2.3") is None
    assert refusal(rules("*.lab", private=permitted), "fd12::7", name="git.lab") is None
    assert refusal(rules("10.0.0.0/8", private=permitted), "10.2.0.1") == "is private"
    assert refusal(rules("*", private=permitted), "10.1.2.3") == "is not on the allow-list"
    assert refusal(rules("127.0.0.1:8080", private=("127.0.0.1/32",)), "127.0.0.1", 8080) is None
    assert refusal(rules("*.local", private=("127.0.0.1/32",)), "127.0.0.2", name="a.local") == "is loopback"


def test_the_hosts_own_addresses_are_never_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where they are public, or among those that the operator permits."""
    monkeypatch.setattr(rules_module, "is_own", lambda address: str(address) in (PUBLIC, "10.1.0.1"))
    assert refusal(rules("*", PUBLIC), PUBLIC) == "is the host itself"
    assert refusal(rules("10.1.0.0/16", private=("10.1.0.0/16",)), "10.1.0.1") == "is the host itself"
    assert refusal(rules("10.1.0.0/16", private=("10.1.0.0/16",)), "10.1.0.2") is None


def test_the_kernel_knows_its_own_addresses() -> None:
    assert is_own(ip_address("127.0.0.1"))
    assert is_own(ip_address("127.9.9.9"))
    assert not is_own(ip_address(PUBLIC))
    assert not is_own(ip_address("2001:db8::1"))


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("no host", "no name"),
        ("", "no name"),
        ("-a.org", "no name"),
        ("a..org", "no name"),
        ("a" * 64 + ".org", "no name"),
        ("*.", "no name"),
        ("**.org", "no name"),
        ("a.*.org", "no name"),
        ("http://a.org", "no port"),
        ("a.org/path", "no range"),
        ("bücher.example", "no name"),
        ("a.org:0", "no port"),
        ("a.org:65536", "no port"),
        ("a.org:http", "no port"),
        ("a.org:", "no port"),
        ("10.0.0.0/33", "no range"),
        ("203.0.113.1/24", "host bits"),
        ("127.1", "neither a name nor an address"),
        ("0177.0.0.1", "neither"),
        ("0x7f000001", "neither"),
        ("2130706433", "neither"),
        ("::ffff:10.0.0.0/120", "IPv4"),
        ("[::1", "brackets|RANGE"),
        ("[2606::1]443", "RANGE"),
        ("fe80::1%eth0", "no range"),
        ("169.254.169.254", "no policy"),
        ("224.0.0.0/4", "no policy"),
        ("fe80::/64", "no policy"),
        ("10.0.0.0/8", "operator"),
        ("127.0.0.1", "operator"),
        ("[::1]:80", "operator"),
    ],
)
def test_entries_that_cannot_be(entry: str, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says) as caught:
        rules("packages.example.org", entry)
    assert caught.value.details == {"field": "allow[1]"}


@pytest.mark.parametrize(
    "network", ["0.0.0.0/0", "8.8.8.8", "169.254.0.0/16", "::/0", "fe80::/10", "224.0.0.0/4", "x", "10.0.0.1/8"]
)
def test_operators_permit_private_addresses_alone(network: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_private(("10.0.0.0/8", network))
    assert caught.value.details == {"field": "private[1]"}


def test_names_are_looked_up_only_where_something_could_let_them_through() -> None:
    assert rules("packages.example.org:443").may_ask_for("packages.example.org", 443)
    assert not rules("packages.example.org:443").may_ask_for("packages.example.org", 80)
    assert not rules("packages.example.org").may_ask_for("secret.evil.example", 443)
    assert rules("203.0.113.0/24").may_ask_for("any.example", 443)
    assert rules("*").may_ask_for("any.example", 443)


@pytest.mark.parametrize(
    "text", ["127.1", "0177.0.0.1", "0x7f.0.0.1", "2130706433", "0x7f000001", "127.0.0.1.", "1.2.3.4.5", "a b", "", "%"]
)
def test_forms_that_machines_read_differently_are_no_hosts(text: str) -> None:
    if text == "127.0.0.1.":
        assert reach_of(host_of("127.0.0.1")) is Reach.LOOPBACK  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument):
        host_of(text)


def test_hosts() -> None:
    assert host_of("Packages.Example.org.") == "packages.example.org"
    assert host_of("[::1]") == host_of("::1") == ip_address("::1")
    assert host_of("::FFFF:127.0.0.1") == ip_address("127.0.0.1")
    assert host_of("_dmarc.example.org") == "_dmarc.example.org"


@given(st.text(max_size=80))
def test_any_text_is_a_host_or_refused(text: str) -> None:
    try:
        found = host_of(text)
    except InvalidArgument:
        return
    assert not isinstance(found, str) or found.isascii()


@given(st.text(min_size=1, max_size=80))
def test_any_text_is_an_entry_or_refused(text: str) -> None:
    with suppress(InvalidArgument):
        assert refusal(rules(text), "127.0.0.1", name="name.example") is not None
