"""The framings, read back whole however they are cut, and garbage that is refused."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from anvild_ios.usbmux import MuxAddress
from anvild_ios.wire.afc import AfcOperation, encode_packet, join_texts, receive_packet, texts
from anvild_ios.wire.archive import archive, unarchive
from anvild_ios.wire.dtx import DtxKind, DtxMessage, Int32, encode_dtx, receive_dtx
from anvild_ios.wire.plists import decode_plist, encode_message, encode_mux, receive_message, receive_mux
from anvild_ios.wire.streams import Wire, WireBroken, WireClosed, WireGarbled

KEYS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=20).filter(
    lambda text: "\ufffe" not in text and "\uffff" not in text
)
VALUES = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**64 - 1) | KEYS | st.binary(max_size=100),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(KEYS, below, max_size=4),
    max_leaves=10,
)
PLISTS = st.dictionaries(KEYS, VALUES, max_size=6)
CUTS = st.lists(st.integers(1, 50), min_size=1, max_size=20)


class Pieces(trio.abc.Stream):
    """A stream that hands out bytes in pieces of given sizes, then ends."""

    def __init__(self, data: bytes, cuts: list[int]) -> None:
        self.data = data
        self.cuts = cuts
        self.turn = 0

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        size = self.cuts[self.turn % len(self.cuts)]
        self.turn += 1
        piece, self.data = self.data[:size], self.data[size:]
        return piece

    async def send_all(self, data: Any) -> None:
        raise trio.BrokenResourceError

    async def wait_send_all_might_not_block(self) -> None:
        raise trio.BrokenResourceError

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


def received(data: bytes, cuts: list[int], read: Callable[[Wire], Awaitable[Any]]) -> list[Any]:
    """All that can be read from these bytes."""

    async def main() -> list[Any]:
        wire = Wire(Pieces(data, cuts))
        found = []
        while True:
            try:
                found.append(await read(wire))
            except WireClosed:
                return found

    return trio.run(main)


@settings(deadline=None)
@given(st.lists(PLISTS, max_size=3), CUTS, st.booleans())
def test_messages_come_back(values: list[dict[str, Any]], cuts: list[int], binary: bool) -> None:
    data = b"".join(encode_message(each, binary=binary) for each in values)
    assert received(data, cuts, receive_message) == values


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), PLISTS), max_size=3), CUTS)
def test_mux_messages_come_back(values: list[tuple[int, dict[str, Any]]], cuts: list[int]) -> None:
    data = b"".join(encode_mux(each, tag) for tag, each in values)
    assert received(data, cuts, receive_mux) == values


@settings(deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=60), st.binary(max_size=200)), max_size=3), CUTS)
def test_afc_packets_come_back(values: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
    data = b"".join(encode_packet(7, AfcOperation.WRITE, head, payload) for head, payload in values)
    assert [(each.head, each.payload) for each in received(data, cuts, receive_packet)] == values


ARCHIVED = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | KEYS | st.binary(max_size=100),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(KEYS, below, max_size=4),
    max_leaves=10,
)


@settings(deadline=None)
@given(ARCHIVED)
def test_archives_come_back(value: Any) -> None:
    assert unarchive(archive(value)) == value


@settings(deadline=None)
@given(
    st.integers(0, 2**32 - 1), KEYS, st.lists(ARCHIVED | st.integers(-(2**31), 2**31 - 1).map(Int32), max_size=3), CUTS
)
def test_dtx_messages_come_back(identifier: int, method: str, arguments: list[Any], cuts: list[int]) -> None:
    message = DtxMessage(identifier, 1, -3, DtxKind.CALL, method, tuple(arguments), wanted=True)
    assert received(encode_dtx(message) * 2, cuts, receive_dtx) == [message, message]


async def test_dtx_messages_come_in_pieces() -> None:
    whole = encode_dtx(DtxMessage(7, 0, 1, DtxKind.ANSWER, "value"))
    payload = whole[32:]
    parts = (b"", payload[:10], payload[10:])
    data = b"".join(
        struct.pack("<IIHHIIIiI", 0x1F3D5B79, 32, number, 3, len(part) or len(payload), 7, 0, 1, 0) + part
        for number, part in enumerate(parts)
    )
    assert (await receive_dtx(Wire(Pieces(data, [7])))).value == "value"


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_archive_is_refused(data: bytes) -> None:
    with pytest.raises(WireGarbled):
        unarchive(data)


@settings(deadline=None)
@given(st.binary(max_size=300), CUTS, st.sampled_from([receive_message, receive_mux, receive_packet, receive_dtx]))
def test_garbage_is_an_error_of_the_wire(data: bytes, cuts: list[int], read: Callable[[Wire], Awaitable[Any]]) -> None:
    async def main() -> None:
        wire = Wire(Pieces(data, cuts))
        while True:
            await read(wire)

    with pytest.raises(WireBroken):
        trio.run(main)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_property_list_is_refused(data: bytes) -> None:
    with contextlib.suppress(WireGarbled):
        assert isinstance(decode_plist(data), dict)


@settings(deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20), max_size=5))
def test_texts_come_back(words: list[str]) -> None:
    assert texts(join_texts(words)) == words


def test_a_length_out_of_all_measure_is_refused() -> None:
    with pytest.raises(WireGarbled, match="limit"):
        received(b"\xff\xff\xff\xff", [4], receive_message)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/run/mux", MuxAddress(path="/run/mux")),
        ("UNIX:/run/mux", MuxAddress(path="/run/mux")),
        ("127.0.0.1:27015", MuxAddress(host="127.0.0.1", port=27015)),
        ("[::1]:27015", MuxAddress(host="::1", port=27015)),
    ],
)
def test_addresses_are_read(text: str, expected: MuxAddress) -> None:
    assert MuxAddress.parse(text) == expected


@pytest.mark.parametrize("text", ["", "mux", "host:", ":1", "host:0", "host:70000", "UNIX:mux"])
def test_wrong_addresses_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        MuxAddress.parse(text)


def test_the_setting_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USBMUXD_SOCKET_ADDRESS", "127.0.0.1:1")
    assert str(MuxAddress.choose(None)) == "127.0.0.1:1"
    assert str(MuxAddress.choose("/there")) == "/there"
    monkeypatch.delenv("USBMUXD_SOCKET_ADDRESS")
    assert str(MuxAddress.choose(None)) == "/var/run/usbmuxd"
