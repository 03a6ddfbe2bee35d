"""Bytes that no HTTP/1 client should send, and connections that end where none should. Nothing may ever happen."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import pytest

Attack = Callable[[tuple[bytes, ...], bool], Awaitable[None]]

HEAD = b" HTTP/1.1\r\nHost: t\r\n"
GET = b"GET /healthz" + HEAD
PUT = b"PUT /lab/upload" + HEAD
JSON = b"POST /lab/forms" + HEAD + b"Content-Type: application/json\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"

NOISE = random.Random(4).randbytes(4096)

CASES: dict[str, tuple[bytes, ...]] = {
    "nothing": (b"",),
    "noise": (NOISE,),
    "noise_in_pieces": (NOISE[:100], NOISE[100:200], NOISE[200:300]),
    "nulls": (b"\0" * 5000,),
    "blank_lines": (b"\r\n" * 3000,),
    "no_newline": (b"G" * 70_000,),
    "tls_hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + NOISE[:512],),
    "ssh": (b"SSH-2.0-OpenSSH_9.6\r\n",),
    "socks": (b"\x05\x01\x00",),
    "proxy_protocol": (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + GET + b"\r\n",),
    "http_0_9": (b"GET /\r\n",),
    "http_1_0": (b"GET /healthz HTTP/1.0\r\n\r\n",),
    "http_1_0_keep_alive": (b"GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" * 2,),
    "http_1_2": (b"GET / HTTP/1.2\r\nHost: t\r\n\r\n",),
    "http_9_9": (b"GET / HTTP/9.9\r\nHost: t\r\n\r\n",),
    "http_word": (b"GET / HTTP/one\r\nHost: t\r\n\r\n",),
    "method_lower": (b"get /healthz" + HEAD + b"\r\n",),
    "method_odd": (b"M-SEARCH /healthz" + HEAD + b"\r\n",),
    "method_illegal": (b"G(T /" + HEAD + b"\r\n",),
    "method_long": (b"A" * 3000 + b" /" + HEAD + b"\r\n",),
    "target_none": (b"GET  HTTP/1.1\r\nHost: t\r\n\r\n",),
    "target_relative": (b"GET healthz" + HEAD + b"\r\n",),
    "target_star": (b"OPTIONS *" + HEAD + b"\r\n",),
    "target_star_get": (b"GET *" + HEAD + b"\r\n",),
    "target_authority": (b"CONNECT t:80" + HEAD + b"\r\n",),
    "target_absolute": (b"GET http://other/healthz" + HEAD + b"\r\n",),
    "target_absolute_bare": (b"GET http://other" + HEAD + b"\r\n",),
    "target_absolute_bad": (b"GET http://" + HEAD + b"\r\n", b"GET https:///" + HEAD + b"\r\n"),
    "target_ftp": (b"GET ftp://t/" + HEAD + b"\r\n",),
    "target_raw_bytes": (b"GET /\xff\xfe" + HEAD + b"\r\n",),
    "target_percent": (b"GET /%zz%ff%00%2f%" + HEAD + b"\r\n",),
    "target_dots": (b"GET /lab/../../../etc/passwd" + HEAD + b"\r\n",),
    "target_slashes": (b"GET //////lab//forms//" + HEAD + b"\r\n",),
    "target_long": (b"GET /" + b"a" * 20_000 + HEAD + b"\r\n",),
    "target_longer": (b"GET /" + b"a" * 200_000,),
    "target_fragment": (b"GET /healthz#x?y" + HEAD + b"\r\n",),
    "query_invalid_utf8": (b"GET /lab/wait?a=%ff%fe&&&=%" + HEAD + b"\r\n",),
    "query_fields": (b"GET /lab/wait?" + b"a&" * 3000 + HEAD + b"\r\n",),
    "host_missing": (b"GET / HTTP/1.1\r\n\r\n",),
    "host_twice": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",),
    "host_odd": (b"GET / HTTP/1.1\r\nHost: \x80\xff{}\r\n\r\n",),
    "header_no_colon": (GET + b"nonsense\r\n\r\n",),
    "header_space_name": (GET + b"a b: c\r\n\r\n",),
    "header_space_colon": (GET + b"a : c\r\n\r\n",),
    "header_empty_name": (GET + b": c\r\n\r\n",),
    "header_null": (GET + b"a: b\0c\r\n\r\n",),
    "header_bare_cr": (GET + b"a: b\rc: d\r\n\r\n",),
    "header_bare_lf": (b"GET /healthz HTTP/1.1\nHost: t\n\n",),
    "header_folded": (GET + b"a: b\r\n c\r\n\td\r\n\r\n",),
    "header_folded_first": (b"GET /healthz HTTP/1.1\r\n Host: t\r\n\r\n",),
    "header_latin1": (GET + b"a: \xe9\xff\r\n\r\n",),
    "header_many": (GET + b"a: b\r\n" * 5000 + b"\r\n",),
    "header_many_small": (GET + b"a:b\r\n" * 110 + b"\r\n",),
    "header_large": (GET + b"a: " + b"b" * 100_000 + b"\r\n\r\n",),
    "header_dribble": tuple(bytes([byte]) for byte in GET[:30]),
    "length_negative": (PUT + b"Content-Length: -1\r\n\r\n",),
    "length_plus": (PUT + b"Content-Length: +3\r\n\r\nabc",),
    "length_word": (PUT + b"Content-Length: three\r\n\r\n",),
    "length_huge": (PUT + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n",),
    "length_beyond_limit": (JSON + b"Content-Length: 99999999\r\n\r\n{",),
    "length_twice": (PUT + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",),
    "length_list": (PUT + b"Content-Length: 3, 3\r\n\r\nabc",),
    "length_and_chunked": (PUT + b"Content-Length: 3\r\n" + CHUNKED + b"0\r\n\r\n",),
    "length_short": (PUT + b"Content-Length: 10\r\n\r\nabc",),
    "length_long": (JSON + b"Content-Length: 2\r\n\r\n{}{}{}{}",),
    "length_on_get": (GET + b"Content-Length: 3\r\n\r\nabc" + GET + b"\r\n",),
    "encoding_unknown": (PUT + b"Transfer-Encoding: gzip\r\n\r\nabc",),
    "encoding_list": (PUT + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",),
    "encoding_twice": (PUT + b"Transfer-Encoding: chunked\r\n" + CHUNKED + b"0\r\n\r\n",),
    "encoding_http_1_0": (b"PUT /lab/upload HTTP/1.0\r\nHost: t\r\n" + CHUNKED + b"0\r\n\r\n",),
    "chunk_bad_size": (PUT + CHUNKED + b"xyz\r\nabc\r\n",),
    "chunk_negative": (PUT + CHUNKED + b"-1\r\nabc\r\n",),
    "chunk_huge_size": (PUT + CHUNKED + b"f" * 16 + b"\r\nabc",),
    "chunk_endless_size": (PUT + CHUNKED + b"0" * 100_000,),
    "chunk_extension": (PUT + CHUNKED + b"3;a=b;c\r\nabc\r\n0\r\n\r\n",),
    "chunk_extension_long": (PUT + CHUNKED + b"3;" + b"a" * 100_000,),
    "chunk_no_newline": (PUT + CHUNKED + b"3\r\nabcdef",),
    "chunk_trailers": (PUT + CHUNKED + b"0\r\na: b\r\n\r\n",),
    "chunk_trailers_many": (PUT + CHUNKED + b"0\r\n" + b"a: b\r\n" * 20_000,),
    "chunk_many": (PUT + CHUNKED + b"1\r\nx\r\n" * 5000 + b"0\r\n\r\n",),
    "chunk_error_late": (PUT + CHUNKED + b"3\r\nabc\r\n", b"zz\r\n"),
    "chunk_error_while_waiting": (b"POST /lab/wait" + HEAD + CHUNKED, b"zz\r\n"),
    "body_unread": (b"POST /lab/wait" + HEAD + b"Content-Length: 1000000\r\n\r\n" + b"x" * 150_000,),
    "body_stalls": (PUT + b"Content-Length: 1000000\r\n\r\n", b"x" * 1000),
    "body_to_nowhere": (b"POST /nowhere" + HEAD + b"Content-Length: 1000000\r\n\r\n" + b"x" * 100_000,),
    "body_dribbles": (PUT + b"Content-Length: 1000\r\n\r\n", b"x", b"x", b"x", b"x"),
    "body_no_json": (JSON + b"Content-Length: 4\r\n\r\n\xff\xfe{}",),
    "body_deep_json": (JSON + b"Content-Length: 60000\r\n\r\n" + b"[" * 60_000,),
    "body_refused_type": (b"POST /lab/forms" + HEAD + b"Content-Length: 2\r\n\r\n{}",),
    "expect": (PUT + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n", b"abc"),
    "expect_unread": (b"POST /lab/wait" + HEAD + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n", b"abc"),
    "expect_odd": (PUT + b"Content-Length: 3\r\nExpect: 200-maybe\r\n\r\nabc",),
    "pipeline": ((GET + b"\r\n") * 200,),
    "pipeline_behind_wait": (b"GET /lab/wait" + HEAD + b"\r\n" + (GET + b"\r\n") * 2000,),
    "pipeline_garbage": (GET + b"\r\n" + NOISE,),
    "pipeline_half": (GET + b"\r\n" + GET,),
    "close_then_more": (GET + b"Connection: close\r\n\r\n" + GET + b"\r\n",),
    "download_stalled": (b"GET /lab/download" + HEAD + b"\r\n",),
    "download_twice": ((b"GET /lab/download" + HEAD + b"\r\n") * 2,),
    "download_head": (b"HEAD /lab/download" + HEAD + b"\r\n",),
    "download_http_1_0": (b"GET /lab/download HTTP/1.0\r\n\r\n",),
    "waiting": (b"GET /lab/wait" + HEAD + b"\r\n",),
    "h2c_upgrade": (GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",),
    "h2c_upgrade_bad": (GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: !!\r\n\r\n",),
    "upgrade_unknown": (GET + b"Connection: Upgrade\r\nUpgrade: quic\r\n\r\n",),
    "upgrade_insecure": (GET + b"Upgrade-Insecure-Requests: 1\r\nUpgrade: \xff\r\n\r\n",),
    "upgrade_tls": (b"OPTIONS *" + HEAD + b"Upgrade: TLS/1.0\r\nConnection: Upgrade\r\n\r\n",),
    "cookie_garbage": (b"GET /lab/wait" + HEAD + b"Cookie: \xff=;;=\x01; a\r\n\r\n",),
    "request_id_garbage": (GET + b"X-Request-Id: \xff\xfe\r\n\r\n",),
}

WHOLE = {
    "get": GET + b"Accept: */*\r\n\r\n",
    "length": JSON + b'Content-Length: 12\r\n\r\n{"name":"a"}',
    "chunked": PUT + CHUNKED + b"3\r\nabc\r\n2;x\r\nde\r\n0\r\nt: u\r\n\r\n",
}
for name, whole in WHOLE.items():
    # Each place where one part of a message ends and the next begins, and the middle of each part.
    borders = [at for at, byte in enumerate(whole) if byte in b" /:\r\n;"]
    for at in sorted({*borders, *(border + 1 for border in borders)})[:: 3 if name == "length" else 2]:
        CASES[f"cut_{name}_{at}"] = (whole[:at],)


@pytest.mark.parametrize("by_reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_http1(attack: Attack, case: tuple[bytes, ...], by_reset: bool) -> None:
    await attack(case, by_reset)
