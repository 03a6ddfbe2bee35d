from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest

from anvild.core.errors import InvalidRequest
from anvild.web.errors import UnsupportedMediaType
from anvild.web.validation import decode_json, decode_query


class Inner(msgspec.Struct, rename="camel"):
    os_version: str
    size: Annotated[int, msgspec.Meta(ge=1)] = 1


class Body(msgspec.Struct, forbid_unknown_fields=True):
    name: Annotated[str, msgspec.Meta(min_length=1)]
    kind: Literal["a", "b"] = "a"
    inner: Inner | None = None
    items: list[Inner] = []
    labels: dict[str, int] = {}
    short: Annotated[list[int], msgspec.Meta(max_length=2)] = []


class Query(msgspec.Struct):
    before: Annotated[str, msgspec.Meta(max_length=3)] | None = None
    limit: int | None = None
    on: bool = False


async def problems(data: Any) -> dict[str, str]:
    with pytest.raises(InvalidRequest) as caught:
        await decode_json(msgspec.json.encode(data), Body, "application/json")
    return {problem.field: problem.expected for problem in caught.value.problems}


async def test_every_problem_has_its_path_and_what_was_expected() -> None:
    found = await problems(
        {
            "name": "",
            "kind": "c",
            "inner": {"size": 0},
            "items": [{"osVersion": "1"}, {"osVersion": 2}, 3],
            "labels": {"x": "y"},
            "short": [1, 2, 3],
            "more": 1,
        }
    )
    assert found == {
        "body.name": "string of length >= 1",
        "body.kind": "one of a, b",
        "body.inner.osVersion": "string (it is required)",
        "body.inner.size": "integer >= 1",
        "body.items[1].osVersion": "string",
        "body.items[2]": "object",
        "body.labels.x": "integer",
        "body.short": "array of length <= 2",
        "body.more": "no such field",
    }


async def test_a_body_of_another_kind() -> None:
    assert await problems([]) == {"body": "object"}
    assert await problems(None) == {"body": "object"}


async def test_problems_are_bounded() -> None:
    assert len(await problems({"name": "a", "items": [1] * 1000})) == 50


async def test_content_types() -> None:
    for good in (
        "application/json",
        "application/json;charset=utf-8",
        "application/merge-patch+json",
        "Application/JSON",
    ):
        assert (await decode_json(b'{"name":"a"}', Body, good)).name == "a"
    for bad in (None, "", "text/json", "application/x-www-form-urlencoded", "application/jsonp"):
        with pytest.raises(UnsupportedMediaType):
            await decode_json(b'{"name":"a"}', Body, bad)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b'{"name": "a"} x',
        b"\xff\xfe",
        b'{"name": "\xff"}',
        b'{"name": "\\ud800"}',
        b'{"name": "\\u0000"}',
        b'{"name": NaN}',
        b"[" * 100 + b"]" * 100,
        b'{"name":' * 100_000,
        b'{"labels": {"x": 99999999999999999999999999}}',
        # Wrong in type before it is wrong in form.
        b"9-",
        b"[",
        b'{"name": 1',
        b"1e999",
    ],
)
async def test_what_is_no_good_json(data: bytes) -> None:
    with pytest.raises(InvalidRequest):
        await decode_json(data, Body, "application/json")


async def test_brackets_in_strings_are_no_depth() -> None:
    data = msgspec.json.encode({"name": '[{"\\' * 500})
    assert (await decode_json(data, Body, "application/json")).name == '[{"\\' * 500


def test_queries() -> None:
    assert decode_query(b"limit=5&on=true&other=x", Query) == Query(limit=5, on=True)
    assert decode_query(b"before=a%20b", Query).before == "a b"
    for bad in (b"limit=x", b"limit=", b"on=perhaps", b"before=abcd", b"a=%ff", b"a=%00", b"a&" * 300, b"\xff"):
        with pytest.raises(InvalidRequest):
            decode_query(bad, Query)
    with pytest.raises(InvalidRequest) as caught:
        decode_query(b"limit=x&before=abcd", Query)
    assert {problem.field for problem in caught.value.problems} == {"query.limit", "query.before"}
