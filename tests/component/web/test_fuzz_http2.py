"""Frames that no HTTP/2 client should send. Nothing may ever happen."""

from __future__ import annotations

import random
import struct
from collections.abc import Awaitable, Callable

import pytest
from hpack import Encoder

Attack = Callable[[tuple[bytes, ...], bool], Awaitable[None]]

DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED = 1, 4, 8

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
NOISE = random.Random(5).randbytes(2048)


def frame(kind: int, stream: int = 0, data: bytes = b"", flags: int = 0) -> bytes:
    return struct.pack("!I", len(data))[1:] + bytes([kind, flags]) + struct.pack("!I", stream) + data


def fields(*more: tuple[bytes, bytes], **pseudo: bytes) -> bytes:
    """A header block; a pseudo field of b"" is left out."""
    known = {"method": b"GET", "scheme": b"http", "path": b"/healthz", "authority": b"t"} | pseudo
    pairs = [(b":" + name.encode(), value) for name, value in known.items() if value]
    return Encoder().encode([*pairs, *more], huffman=False)


def ask(stream: int = 1, *more: tuple[bytes, bytes], end: bool = True, **pseudo: bytes) -> bytes:
    return frame(HEADERS, stream, fields(*more, **pseudo), END_HEADERS | (END_STREAM if end else 0))


def setting(number: int, value: int) -> bytes:
    return struct.pack("!HI", number, value)


HELLO = PREFACE + frame(SETTINGS)
WIDE = PREFACE + frame(SETTINGS, 0, setting(4, 2**31 - 1)) + frame(WINDOW, 0, struct.pack("!I", 2**30))
UPLOAD = ask(1, end=False, method=b"PUT", path=b"/lab/upload")
POST_WAIT = ask(1, end=False, method=b"POST", path=b"/lab/wait")

CASES: dict[str, tuple[bytes, ...]] = {
    "preface": (PREFACE,),
    "preface_cut": (PREFACE[:20],),
    "preface_wrong": (PREFACE[:18] + b"XX\r\n\r\n" + frame(SETTINGS),),
    "preface_then_http_1": (PREFACE + b"GET / HTTP/1.1\r\nHost: t\r\n\r\n",),
    "preface_after_request": (b"GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n" + HELLO,),
    "hello": (HELLO,),
    "hello_noise": (HELLO + NOISE,),
    "noise_frames": (HELLO, *(NOISE[at : at + 64] for at in range(0, 512, 64))),
    "get": (HELLO + ask(),),
    "gets": (HELLO + b"".join(ask(2 * n + 1) for n in range(80)),),
    "get_byte_by_byte": (HELLO, *(bytes([byte]) for byte in ask()[:12])),
    "cut_frame_head": (HELLO + ask()[:5],),
    "cut_frame_body": (HELLO + ask()[:15],),
    "head": (HELLO + ask(1, method=b"HEAD", path=b"/lab/download"),),
    "connect_no_path": (HELLO + ask(1, method=b"CONNECT", path=b"", scheme=b""),),
    "connect_with_path": (HELLO + ask(1, method=b"CONNECT"),),
    "connect_extended": (HELLO + ask(1, method=b"CONNECT", protocol=b"websocket"),),
    "method_missing": (HELLO + ask(1, method=b""),),
    "method_bytes": (HELLO + ask(1, method=b"G\xff"),),
    "path_missing": (HELLO + ask(1, path=b""),),
    "path_relative": (HELLO + ask(1, path=b"healthz"),),
    "path_star": (HELLO + ask(1, method=b"OPTIONS", path=b"*"),),
    "path_bytes": (HELLO + ask(1, path=b"/\xff\xfe"),),
    "path_long": (HELLO + ask(1, path=b"/" + b"a" * 10_000),),
    "scheme_missing": (HELLO + ask(1, scheme=b""),),
    "pseudo_unknown": (HELLO + ask(1, other=b"x"),),
    "pseudo_late": (HELLO + frame(HEADERS, 1, Encoder().encode([(b"a", b"b"), (b":path", b"/")]), 5),),
    "header_upper": (HELLO + ask(1, (b"Upper", b"x")),),
    "header_connection": (HELLO + ask(1, (b"connection", b"close")),),
    "header_newline": (HELLO + ask(1, (b"a", b"b\r\nc: d")),),
    "header_empty_name": (HELLO + ask(1, (b"", b"x")),),
    "headers_many": (HELLO + ask(1, *[(b"a%d" % n, b"b") for n in range(150)]),),
    "headers_large": (HELLO + ask(1, *[(b"a", b"b" * 1000)] * 14),),
    "headers_bomb": (HELLO + frame(HEADERS, 1, fields((b"a", b"b" * 4000)) + b"\xbe" * 8000, 5),),
    "headers_garbage": (HELLO + frame(HEADERS, 1, NOISE[:200], 5),),
    "headers_on_zero": (HELLO + frame(HEADERS, 0, fields(), 5),),
    "headers_on_even": (HELLO + ask(2),),
    "headers_backwards": (HELLO + ask(5) + ask(3),),
    "headers_twice": (HELLO + ask(1, end=False, path=b"/lab/wait") * 2,),
    "headers_padded_wrong": (HELLO + frame(HEADERS, 1, b"\xff" + fields(), 5 | PADDED),),
    "continuation_alone": (HELLO + frame(CONTINUATION, 1, fields(), END_HEADERS),),
    "continuation_missing": (HELLO + frame(HEADERS, 1, fields()) + frame(PING, 0, b"12345678"),),
    "continuation_flood": (HELLO + frame(HEADERS, 1, fields()) + frame(CONTINUATION, 1, b"\0\x01a\x01b") * 500,),
    "trailers": (HELLO + UPLOAD + frame(DATA, 1, b"abc") + frame(HEADERS, 1, Encoder().encode([(b"a", b"b")]), 5),),
    "trailers_pseudo": (HELLO + UPLOAD + ask(1),),
    "data": (HELLO + UPLOAD + frame(DATA, 1, b"x" * 10_000) + frame(DATA, 1, b"", END_STREAM),),
    "data_tiny_frames": (HELLO + UPLOAD + frame(DATA, 1, b"x") * 3000,),
    "data_empty_frames": (HELLO + UPLOAD + frame(DATA, 1) * 3000,),
    "data_padded": (HELLO + UPLOAD + frame(DATA, 1, b"\x80" + b"x" * 200, PADDED),),
    "data_padded_wrong": (HELLO + UPLOAD + frame(DATA, 1, b"\xff" + b"x", PADDED),),
    "data_unread": (HELLO + POST_WAIT + frame(DATA, 1, b"x" * 16_000) * 4,),
    "data_beyond_window": (HELLO + POST_WAIT + frame(DATA, 1, b"x" * 16_000) * 6,),
    "data_stalls": (HELLO + UPLOAD, frame(DATA, 1, b"x")),
    "data_to_nowhere": (HELLO + ask(1, end=False, method=b"POST", path=b"/nowhere") + frame(DATA, 1, b"x" * 9000) * 3,),
    "data_after_end": (HELLO + ask() + frame(DATA, 1, b"x"),),
    "data_after_answer": (HELLO + ask(1, end=False), frame(DATA, 1, b"x" * 1000)),
    "data_on_zero": (HELLO + frame(DATA, 0, b"x"),),
    "data_on_idle": (HELLO + frame(DATA, 7, b"x"),),
    "data_length_lie": (HELLO + ask(1, (b"content-length", b"3"), end=False) + frame(DATA, 1, b"x" * 10, END_STREAM),),
    "window_zero": (HELLO + frame(WINDOW, 0, b"\0\0\0\0"),),
    "window_zero_stream": (HELLO + ask(1, path=b"/lab/wait") + frame(WINDOW, 1, b"\0\0\0\0"),),
    "window_overflow": (HELLO + frame(WINDOW, 0, struct.pack("!I", 2**31 - 1)),),
    "window_idle_stream": (HELLO + frame(WINDOW, 9, b"\0\0\0\1"),),
    "window_short": (HELLO + frame(WINDOW, 0, b"\0"),),
    "window_flood": (HELLO + ask(1, path=b"/lab/download") + frame(WINDOW, 1, b"\0\0\0\1") * 3000,),
    "reset": (HELLO + ask(1, path=b"/lab/wait") + frame(RST, 1, b"\0\0\0\x08"),),
    "reset_idle": (HELLO + frame(RST, 5, b"\0\0\0\x08"),),
    "reset_twice": (HELLO + ask(1, path=b"/lab/wait") + frame(RST, 1, b"\0\0\0\x08") * 2,),
    "reset_short": (HELLO + ask() + frame(RST, 1, b"\0"),),
    "reset_in_download": (WIDE + ask(1, path=b"/lab/download"), frame(RST, 1, b"\0\0\0\x08")),
    "reset_rapid": (
        HELLO + b"".join(ask(2 * n + 1, path=b"/lab/wait") + frame(RST, 2 * n + 1, b"\0\0\0\x08") for n in range(600)),
    ),
    "priority": (HELLO + frame(PRIORITY, 1, b"\0\0\0\0\x10") + ask(),),
    "priority_self": (HELLO + frame(PRIORITY, 1, b"\0\0\0\1\x10"),),
    "priority_flood": (HELLO + b"".join(frame(PRIORITY, n, b"\0\0\0\0\x10") for n in range(1, 4001, 2)),),
    "ping": (HELLO + frame(PING, 0, b"12345678"),),
    "ping_short": (HELLO + frame(PING, 0, b"1"),),
    "ping_on_stream": (HELLO + frame(PING, 1, b"12345678"),),
    "ping_flood": (HELLO + frame(PING, 0, b"12345678") * 3000,),
    "settings_flood": (HELLO + frame(SETTINGS) * 3000,),
    "settings_odd_length": (HELLO + frame(SETTINGS, 0, b"12345"),),
    "settings_on_stream": (HELLO + frame(SETTINGS, 1),),
    "settings_ack_alone": (HELLO + frame(SETTINGS, 0, b"", 1) * 3,),
    "settings_ack_data": (HELLO + frame(SETTINGS, 0, setting(1, 1), 1),),
    "settings_bad_window": (HELLO + frame(SETTINGS, 0, setting(4, 2**31)),),
    "settings_bad_frame_size": (HELLO + frame(SETTINGS, 0, setting(5, 1)),),
    "settings_unknown": (HELLO + frame(SETTINGS, 0, setting(99, 1)),),
    "settings_no_window": (PREFACE + frame(SETTINGS, 0, setting(4, 0)) + ask(1, path=b"/lab/download"),),
    "settings_window_shrinks": (WIDE + ask(1, path=b"/lab/download"), frame(SETTINGS, 0, setting(4, 0))),
    "settings_table_zero": (HELLO + frame(SETTINGS, 0, setting(1, 0)) + ask(),),
    "goaway": (HELLO + frame(GOAWAY, 0, b"\0" * 8),),
    "goaway_in_flight": (HELLO + ask(1, path=b"/lab/wait") + frame(GOAWAY, 0, b"\0" * 8),),
    "goaway_then_more": (HELLO + frame(GOAWAY, 0, b"\0" * 8) + ask(),),
    "push_promise": (HELLO + frame(PUSH, 1, b"\0\0\0\2" + fields(), END_HEADERS),),
    "unknown_frame": (HELLO + frame(77, 3, b"whatever") + ask(),),
    "frame_too_large": (HELLO + UPLOAD + frame(DATA, 1, b"x" * 20_000),),
    "frame_length_lie": (HELLO + b"\xff\xff\xff" + bytes([HEADERS, 5]) + b"\0\0\0\1" + b"x" * 5000,),
    "streams_too_many": (HELLO + b"".join(ask(2 * n + 1, path=b"/lab/wait") for n in range(150)),),
    "leaves_with_downloads": (WIDE + b"".join(ask(2 * n + 1, path=b"/lab/download") for n in range(8)),),
    "leaves_with_waits": (HELLO + b"".join(ask(2 * n + 1, path=b"/lab/wait") for n in range(8)),),
    "download_no_window": (HELLO + ask(1, path=b"/lab/download"),),
    "download_and_gets": (WIDE + ask(1, path=b"/lab/download") + b"".join(ask(2 * n + 3) for n in range(20)),),
}


@pytest.mark.parametrize("by_reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_http2(attack: Attack, case: tuple[bytes, ...], by_reset: bool) -> None:
    await attack(case, by_reset)
