"""The client against a daemon that misbehaves on cue: a transport in memory plays it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import httpx2
import pytest
import trio
from trio.testing import MockClock

from anvild.cli.api import Api, connect
from anvild.cli.context import Context
from anvild.cli.exits import ExitCode, Failure
from anvild.cli.output import Output

Answer = httpx2.Response | Exception


class Script:
    """Answers each request with the next of its answers, and keeps the requests."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.requests: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Broken(httpx2.AsyncByteStream):
    """A body that ends with a broken connection."""

    def __init__(self, chunks: Sequence[bytes]) -> None:
        self.chunks = chunks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self.chunks:
            yield chunk
        raise httpx2.ReadError("reset by peer")


def sse(*events: tuple[int, str], broken: bool = False) -> httpx2.Response:
    text = "".join(f'id: {number}\nevent: {kind}\ndata: {{"id":{number}}}\n\n' for number, kind in events)
    headers = {"Content-Type": "text/event-stream"}
    chunks = [b": keep-alive\n\n", text.encode()]
    return (
        httpx2.Response(200, headers=headers, stream=Broken(chunks))
        if broken
        else httpx2.Response(200, headers=headers, content=b"".join(chunks))
    )


async def with_api(script: Script, use: Callable[[Api], Any], key: str | None = "wrn_k") -> Any:
    context = Context(url="http://lab:8470", key=key, output=Output())
    async with connect(context, transport=httpx2.MockTransport(script)) as api:
        return await use(api)


async def failure(*answers: Answer, key: str | None = "wrn_k") -> Failure:
    with pytest.raises(Failure) as raised:
        await with_api(Script(*answers), lambda api: api.get("/runs"), key)
    return raised.value


async def test_a_call_carries_key_and_query() -> None:
    script = Script(httpx2.Response(200, json={"runs": []}))
    assert await with_api(script, lambda api: api.get("/runs", limit=3, after=None)) == {"runs": []}
    [request] = script.requests
    assert str(request.url) == "http://lab:8470/api/v1/runs?limit=3"
    assert request.headers["X-API-Key"] == "wrn_k"


async def test_every_post_can_be_told_from_its_repetition() -> None:
    script = Script(httpx2.Response(202, json={}), httpx2.Response(204))

    async def twice(api: Api) -> None:
        assert await api.post("/runs", {"pipeline": "smoke"}) == {}
        assert await api.post("/runs/1/cancel") == {}

    await with_api(script, twice)
    first, second = script.requests
    assert first.headers["Idempotency-Key"] != second.headers["Idempotency-Key"]
    assert json.loads(first.content) == {"pipeline": "smoke"}
    assert second.content == b""


async def test_the_daemons_sentence_is_the_clients() -> None:
    error = {"error": {"code": "not_found", "message": "there is no run 7"}}
    told = await failure(httpx2.Response(404, json=error))
    assert (told.exit_code, told.code, told.message) == (ExitCode.NOT_FOUND, "not_found", "there is no run 7")


async def test_no_key_is_said_in_a_way_that_helps() -> None:
    error = {"error": {"code": "unauthenticated", "message": "Sign in."}}
    assert (await failure(httpx2.Response(401, json=error))).message == "Sign in."
    assert "anvil login" in (await failure(httpx2.Response(401, json=error), key=None)).message


async def test_somebody_else_answers() -> None:
    told = await failure(httpx2.Response(502, text="<html>proxy</html>"))
    assert "is that an anvild" in told.message
    assert (await failure(httpx2.Response(200, text="<html>"))).exit_code is ExitCode.FAULT


async def test_nobody_answers() -> None:
    for error in (httpx2.ConnectError("refused"), httpx2.ReadTimeout("slow"), httpx2.RemoteProtocolError("cut")):
        told = await failure(error)
        assert told.exit_code is ExitCode.UNREACHABLE
        assert "http://lab:8470" in told.message
    assert (await failure(httpx2.Response(200, stream=Broken([b'{"ru'])))).exit_code is ExitCode.UNREACHABLE


async def follow(api: Api, count: int) -> list[str]:
    async with aclosing(api.events("/events", after="4", kind="run.")) as events:
        seen = []
        async for event in events:
            assert event.data == {"id": int(event.id)}
            seen.append(f"{event.id} {event.kind}")
            if len(seen) == count:
                return seen
    raise AssertionError


# The HTTP library leaves its own generators to the collector when a stream is left before its end.
@pytest.mark.filterwarnings("ignore:Async generator 'httpx2:ResourceWarning")
async def test_a_stream_goes_on_where_it_broke(autojump_clock: MockClock) -> None:
    script = Script(
        sse((5, "run.queued"), (6, "run.running"), broken=True),
        httpx2.ConnectError("refused"),
        httpx2.Response(503, json={"error": {"code": "unavailable", "message": "starting"}}),
        sse(),
        sse((7, "run.passed")),
    )
    assert await with_api(script, lambda api: follow(api, 3)) == ["5 run.queued", "6 run.running", "7 run.passed"]
    assert [request.headers["Last-Event-ID"] for request in script.requests] == ["4", "6", "6", "6", "6"]
    assert {request.url.query for request in script.requests} == {b"kind=run."}


async def test_the_stream_of_a_run_ends_with_it(autojump_clock: MockClock) -> None:
    script = Script(sse((5, "run.queued")), sse((6, "run.passed")), httpx2.Response(204))

    async def all_of(api: Api) -> list[str]:
        async with aclosing(api.events("/runs/1/events", after="0")) as events:
            return [event.kind async for event in events]

    assert await with_api(script, all_of) == ["run.queued", "run.passed"]


async def test_a_stream_that_is_refused_ends(autojump_clock: MockClock) -> None:
    refused = httpx2.Response(403, json={"error": {"code": "forbidden", "message": "not yours"}})
    with pytest.raises(Failure, match="not yours"):
        await with_api(Script(refused), lambda api: follow(api, 1))


async def test_a_daemon_that_stays_away_is_given_up(autojump_clock: MockClock) -> None:
    began = trio.current_time()
    with pytest.raises(Failure) as raised:
        await with_api(Script(*(httpx2.ConnectError("refused") for _ in range(100))), lambda api: follow(api, 1))
    assert raised.value.exit_code is ExitCode.UNREACHABLE
    assert 60 <= trio.current_time() - began < 70


async def test_lines_are_whole_however_they_come() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for chunk in (b'{"a":', b'1}\n\n{"a":2}\n{"a"', b":3}"):
            yield chunk

    async def lines(api: Api) -> list[bytes]:
        async with api.lines("/devices/1/exec", {"argv": ["ls"]}) as found:
            return [line async for line in found]

    script = Script(httpx2.Response(200, content=chunks()))
    assert await with_api(script, lines) == [b'{"a":1}', b'{"a":2}', b'{"a":3}']
