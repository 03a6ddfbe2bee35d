"""Handshakes and frames that no WebSocket client should send. Nothing may ever happen."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Awaitable, Callable

import pytest

Attack = Callable[[tuple[bytes, ...], bool], Awaitable[None]]

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def handshake(path: bytes = b"/lab/echo", *more: bytes, method: bytes = b"GET", version: bytes = b"1.1") -> bytes:
    lines = [
        method + b" " + path + b" HTTP/" + version,
        b"Host: t",
        b"Connection: keep-alive, Upgrade",
        b"Upgrade: websocket",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        *more,
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def frame(opcode: int, data: bytes = b"", *, fin: bool = True, rsv: int = 0, mask: bool = True) -> bytes:
    head = bytes([fin << 7 | rsv << 4 | opcode])
    bit = mask << 7
    if len(data) < 126:
        head += bytes([bit | len(data)])
    elif len(data) < 65_536:
        head += bytes([bit | 126]) + struct.pack("!H", len(data))
    else:
        head += bytes([bit | 127]) + struct.pack("!Q", len(data))
    return head + (b"\0\0\0\0" if mask else b"") + data


HELLO = handshake()
BOMB = zlib.compress(b"\0" * 10_000_000)

CASES: dict[str, tuple[bytes, ...]] = {
    "open": (HELLO,),
    "echo": (HELLO, frame(TEXT, b"hello"), frame(BINARY, b"bytes")),
    "trailing_frame": (HELLO + frame(TEXT, b"early"),),
    "trailing_noise": (HELLO + b"\xff" * 500,),
    "trailing_to_nowhere": (handshake(b"/nowhere") + frame(TEXT, b"early"),),
    "trailing_noise_to_nowhere": (handshake(b"/lab/nowhere") + b"\xff" * 500,),
    "trailing_to_never": (handshake(b"/lab/never") + frame(TEXT, b"early") * 100,),
    "trailing_flood_to_never": (handshake(b"/lab/never") + frame(BINARY, b"x" * 60_000) * 20,),
    "trailing_request": (HELLO + b"GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n",),
    "to_plain_operation": (handshake(b"/lab/download"),),
    "to_root": (handshake(b"/healthz"),),
    "never_accepted": (handshake(b"/lab/never"),),
    "body_length": (handshake(b"/lab/echo", b"Content-Length: 3") + b"abc",),
    "body_chunked": (handshake(b"/lab/echo", b"Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n",),
    "body_length_nowhere": (handshake(b"/nowhere", b"Content-Length: 3") + b"abc",),
    "method_post": (handshake(method=b"POST"),),
    "http_1_0": (handshake(version=b"1.0"),),
    "key_missing": (HELLO.replace(b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b""),),
    "key_garbage": (HELLO.replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"\xff\xfe!"),),
    "version_old": (HELLO.replace(b"Version: 13", b"Version: 8"),),
    "version_garbage": (HELLO.replace(b"Version: 13", b"Version: \xff"),),
    "version_missing": (HELLO.replace(b"Sec-WebSocket-Version: 13\r\n", b""),),
    "protocols": (handshake(b"/lab/echo", b"Sec-WebSocket-Protocol: a, b,,\xff"),),
    "extensions": (handshake(b"/lab/echo", b"Sec-WebSocket-Extensions: permessage-deflate; x=\xff, ,;"),),
    "deflated": (
        handshake(b"/lab/echo", b"Sec-WebSocket-Extensions: permessage-deflate"),
        frame(BINARY, BOMB, rsv=4),
    ),
    "upgrade_twice": (HELLO + HELLO,),
    "cut_handshake": (HELLO[:80],),
    "cut_header": (HELLO, frame(TEXT, b"hello")[:1]),
    "cut_length": (HELLO, frame(BINARY, b"x" * 70_000)[:5]),
    "cut_mask": (HELLO, frame(TEXT, b"hello")[:4]),
    "cut_payload": (HELLO, frame(TEXT, b"hello")[:-2]),
    "byte_by_byte": (HELLO, *(bytes([byte]) for byte in frame(TEXT, b"hi"))),
    "too_big": (HELLO, frame(BINARY, b"x" * 100_000)),
    "too_big_text": (HELLO, frame(TEXT, b"x" * 100_000)),
    "too_big_in_fragments": (HELLO, frame(BINARY, b"x" * 50_000, fin=False) + frame(0, b"x" * 50_000)),
    "too_big_then_more": (HELLO, frame(BINARY, b"x" * 100_000) * 3),
    "too_big_declared": (HELLO, b"\x82\xff" + struct.pack("!Q", 2**62) + b"\0\0\0\0" + b"x" * 1000),
    "length_negative": (HELLO, b"\x82\xff" + b"\xff" * 8 + b"\0\0\0\0"),
    "length_not_minimal": (HELLO, b"\x82\xff" + struct.pack("!Q", 3) + b"\0\0\0\0abc"),
    "unmasked": (HELLO, frame(TEXT, b"hello", mask=False)),
    "reserved_bits": (HELLO, frame(TEXT, b"hello", rsv=7)),
    "opcode_unknown": (HELLO, frame(5, b"hello")),
    "opcode_control_unknown": (HELLO, frame(13, b"hello")),
    "continuation_alone": (HELLO, frame(0, b"hello")),
    "fragments_interleaved": (HELLO, frame(TEXT, b"a", fin=False) + frame(BINARY, b"b")),
    "fragments_endless": (HELLO, frame(TEXT, b"", fin=False) + frame(0, b"", fin=False) * 5000),
    "control_long": (HELLO, frame(PING, b"x" * 200)),
    "control_fragmented": (HELLO, frame(PING, b"x", fin=False)),
    "utf8_invalid": (HELLO, frame(TEXT, b"\xff\xfe")),
    "utf8_cut": (HELLO, frame(TEXT, "ü".encode()[:1])),
    "empty_binary": (HELLO, frame(BINARY), frame(BINARY)),
    "empty_text": (HELLO, frame(TEXT) * 100),
    "pings": (HELLO, frame(PING, b"x") * 3000),
    "pongs": (HELLO, frame(PONG, b"x") * 3000),
    "messages_tiny": (HELLO, frame(TEXT, b"x") * 5000),
    "close": (HELLO, frame(CLOSE, struct.pack("!H", 1000))),
    "close_empty": (HELLO, frame(CLOSE)),
    "close_one_byte": (HELLO, frame(CLOSE, b"x")),
    "close_bad_code": (HELLO, frame(CLOSE, struct.pack("!H", 5))),
    "close_bad_reason": (HELLO, frame(CLOSE, struct.pack("!H", 1000) + b"\xff")),
    "close_then_more": (HELLO, frame(CLOSE) + frame(TEXT, b"more") + b"\xff" * 100),
    "close_twice": (HELLO, frame(CLOSE) * 2),
    "handler_fails": (handshake(b"/lab/fail"),),
    "handler_fails_on_data": (handshake(b"/lab/fail") + frame(TEXT, b"x") * 10,),
    "handler_floods_a_stalled_reader": (handshake(b"/lab/flood"),),
    "handler_floods_a_talker": (handshake(b"/lab/flood"), frame(TEXT, b"x") * 1000),
    "behind_a_request": (b"GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n" + HELLO, frame(TEXT, b"hello")),
}


@pytest.mark.parametrize("by_reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_websocket(attack: Attack, case: tuple[bytes, ...], by_reset: bool) -> None:
    await attack(case, by_reset)
