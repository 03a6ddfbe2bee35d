from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import pytest

from anvild.sdk import Services
from anvild.web.api import Api
from anvild.web.download import download
from anvild.web.errors import ErrorShape
from anvild.web.request import Answer, ByteStream, Request

FILE = bytes(range(200))


@pytest.fixture
def call(services: Services, client: type) -> Any:
    api = Api(name="files", prefix="", title="Files", version="1", errors=ErrorShape(), services=services)

    async def part(offset: int, length: int) -> AsyncGenerator[bytes]:
        for start in range(offset, offset + length, 64):
            yield FILE[start : min(start + 64, offset + length)]

    def open_part(offset: int, length: int) -> ByteStream:
        return aclosing(part(offset, length))

    async def get(request: Request) -> Answer:
        return download(request, open_part, size=len(FILE), media_type="image/png", etag="abc", filename='a "ü".png')

    api.raw("GET", "/file", get, summary="A file.", answers={200: bytes})
    return client(api.app)


Call = Callable[..., Any]


async def test_the_whole(call: Call) -> None:
    reply = await call("GET", "/file")
    assert (reply.status, reply.body) == (200, FILE)
    assert reply.header("content-length") == "200"
    assert reply.header("content-type") == "image/png"
    assert reply.header("content-disposition") == "attachment; filename*=UTF-8''a%20%22%C3%BC%22.png"
    head = await call("HEAD", "/file")
    assert (head.status, head.body, head.header("content-length")) == (200, b"", "200")


@pytest.mark.parametrize(
    ("header", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=10-99", 10, 99),
        ("bytes=190-", 190, 199),
        ("bytes=-5", 195, 199),
        ("bytes=5-999", 5, 199),
    ],
)
async def test_a_part(call: Call, header: str, first: int, last: int) -> None:
    reply = await call("GET", "/file", headers={"range": header})
    assert (reply.status, reply.body) == (206, FILE[first : last + 1])
    assert reply.header("content-range") == f"bytes {first}-{last}/200"
    assert reply.header("content-length") == str(last - first + 1)


async def test_what_is_no_part(call: Call) -> None:
    for header in ("bytes=200-", "bytes=-0"):
        reply = await call("GET", "/file", headers={"range": header})
        assert (reply.status, reply.json()["error"]["code"]) == (416, "range_not_satisfiable")
    for header in ("bytes=9-3", "bytes=-", "bytes=a-b", "lines=1-2", "bytes=0-1,5-6"):
        assert (await call("GET", "/file", headers={"range": header})).status == 200


async def test_conditions(call: Call) -> None:
    assert (await call("GET", "/file", headers={"if-none-match": '"x", "abc"'})).status == 304
    assert (await call("GET", "/file", headers={"range": "bytes=0-1", "if-range": '"abc"'})).status == 206
    assert (await call("GET", "/file", headers={"range": "bytes=0-1", "if-range": '"old"'})).status == 200
