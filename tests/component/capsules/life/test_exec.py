"""Programs in capsules, with namespace sandboxes: every answer is held against the contract."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from trio_websocket import WebSocketConnection

from tests.support.capsules import Caller, Lab
from tests.support.sockets import open_socket

EXEC = "/v1/capsules/{id}/exec"
PROCESSES = "/v1/capsules/{id}/processes"
SHELL = "/bin/sh"


async def run(api: Caller, capsule: str, line: str, **more: Any) -> Any:
    body = {"cmd": SHELL, "args": ["-c", line], **more}
    return await api("POST", EXEC, 200, values={"id": capsule}, json=body)


@asynccontextmanager
async def stream(lab: Lab, path: str) -> AsyncIterator[WebSocketConnection]:
    url = lab.wing.url.replace("http", "ws") + path
    async with open_socket(url, extra_headers=[("X-API-Key", lab.wing.first.api_key)]) as socket:
        yield socket


async def rest(socket: WebSocketConnection) -> list[Any]:
    """The messages up to the last one, with output of one kind put together."""
    told: list[Any] = []
    with trio.fail_after(60):
        while not told or told[-1]["type"] not in ("exit", "error"):
            message = json.loads(await socket.get_message())
            if told and message["type"] == told[-1]["type"]:
                told[-1]["data"] += message["data"]
            else:
                told.append(message)
    return told


async def test_a_program_is_run_to_its_end(api: Caller, capsule: str) -> None:
    done = await run(api, capsule, "echo out; echo err >&2; exit 3")
    assert done["duration_ms"] >= 0
    del done["duration_ms"]
    assert done == {
        "sandbox_id": capsule,
        "cmd": SHELL,
        "stdout": "out\n",
        "stderr": "err\n",
        "exit_code": 3,
        "encoding": "utf-8",
    }
    bare = await api("POST", EXEC, 200, values={"id": capsule}, json={"cmd": "echo", "args": ["a  b", "$HOME"]})
    assert bare["stdout"] == "a  b $HOME\n"
    told = await run(api, capsule, 'echo "$GREETING" from $PWD', envs={"GREETING": "hello"}, cwd="/usr")
    assert told["stdout"] == "hello from /usr\n"
    odd = await run(api, capsule, "printf '\\377'; echo more >&2")
    assert (odd["encoding"], base64.b64decode(odd["stdout"]), base64.b64decode(odd["stderr"])) == (
        "base64",
        b"\xff",
        b"more\n",
    )
    assert (await run(api, capsule, "kill -9 $$"))["exit_code"] == -1


async def test_a_program_that_goes_wrong(api: Caller, capsule: str) -> None:
    slow = await api(
        "POST",
        EXEC,
        502,
        promised=False,
        values={"id": capsule},
        json={"cmd": "sleep", "args": ["60"]} | {"timeout_sec": 1},
    )
    assert slow["code"] == "agent_error"
    with trio.fail_after(60):
        while "sleep" in str(await api("GET", PROCESSES, 200, values={"id": capsule})):
            pass  # it has been killed, and is about to be gone
    much = {"cmd": SHELL, "args": ["-c", "head -c 17000000 /dev/zero"]}
    refused = await api("POST", EXEC, 502, promised=False, values={"id": capsule}, json=much)
    assert (refused["code"], "16 MiB" in refused["message"]) == ("agent_error", True)
    for body, status in (
        ({"cmd": "/no/such"}, 404),
        ({"cmd": "echo", "args": ["a\0b"]}, 400),
        ({"cmd": "pwd", "cwd": "usr"}, 400),
        ({"cmd": "pwd", "cwd": "/no/such"}, 404),
        ({"cmd": "echo", "background": True, "tag": "not a tag"}, 400),
        ({}, 400),
    ):
        await api("POST", EXEC, status, promised=False, values={"id": capsule}, json=body)


async def test_a_program_is_left_running(api: Caller, capsule: str, sandboxes: Lab) -> None:
    body = {"cmd": SHELL, "args": ["-c", "echo early; sleep 600; :"], "background": True}
    first = await api("POST", EXEC, 202, values={"id": capsule}, json=body)
    assert first["tag"].startswith("proc-")
    await api("POST", EXEC, 202, values={"id": capsule}, json=body | {"tag": "mine"})
    again = await api("POST", EXEC, 409, promised=False, values={"id": capsule}, json=body | {"tag": "mine"})
    assert again["code"] == "already_exists"
    found = (await api("GET", PROCESSES, 200, values={"id": capsule}))["processes"]
    tags = {each["tag"]: each for each in found if "tag" in each}
    assert set(tags) == {first["tag"], "mine"}
    assert tags[first["tag"]]["pid"] == first["pid"]
    assert tags["mine"]["cmd"] == SHELL
    assert len(found) > 2
    one = PROCESSES + "/{selector}"
    async with stream(sandboxes, f"/v1/capsules/{capsule}/processes/{first['pid']}/stream") as socket:
        assert json.loads(await socket.get_message()) == {"type": "start", "pid": first["pid"]}
        assert json.loads(await socket.get_message()) == {"type": "stdout", "data": "early\n"}
        await api("DELETE", one, 204, values={"id": capsule, "selector": first["tag"]}, params={"signal": "SIGTERM"})
        assert await rest(socket) == [{"type": "exit", "exit_code": -1}]
    await api("DELETE", one, 204, values={"id": capsule, "selector": str(tags["mine"]["pid"])})
    for missing in ("mine2", "999999", "99999999999999999999"):
        await api("DELETE", one, 404, values={"id": capsule, "selector": missing})
    refused = await api(
        "DELETE", one, 400, promised=False, values={"id": capsule, "selector": "1"}, params={"signal": "SIGHUP"}
    )
    assert refused["code"] == "invalid_request"


async def test_a_program_is_followed(api: Caller, capsule: str, sandboxes: Lab) -> None:
    path = f"/v1/capsules/{capsule}/exec/stream"
    async with stream(sandboxes, path) as socket:
        await socket.send_message(
            json.dumps({"type": "start", "cmd": SHELL, "args": ["-c", "printf '\\303\\244'; exit 4"]})
        )
        started, *told = await rest(socket)
        assert started["type"] == "start"
        assert told == [{"type": "stdout", "data": "ä"}, {"type": "exit", "exit_code": 4}]
    async with stream(sandboxes, path) as socket:
        await socket.send_message(json.dumps({"type": "start", "cmd": "sleep", "args": ["600"]}))
        await socket.get_message()
        await socket.send_message(json.dumps({"type": "stop"}))
        assert await rest(socket) == [{"type": "exit", "exit_code": -1}]
    for first in ('{"type": "stop"}', "nonsense", '{"type": "start", "cmd": "/no/such"}'):
        async with stream(sandboxes, path) as socket:
            await socket.send_message(first)
            assert [each["type"] for each in await rest(socket)] == ["error"]


async def test_a_stream_that_cannot_begin_is_refused(api: Caller, capsule: str, sandboxes: Lab) -> None:
    await api("DELETE", "/v1/capsules/{id}", 202, values={"id": capsule})
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode(),
    }
    for path, id_, status in (
        ("/v1/capsules/{id}/exec/stream", capsule, 409),
        ("/v1/capsules/{id}/processes/1/stream", capsule, 409),
        ("/v1/capsules/{id}/exec/stream", "cl-x", 404),
    ):
        # A connection that was to be upgraded is closed.
        await sandboxes.by_key()("GET", path, status, promised=False, values={"id": id_}, headers=upgrade)


async def test_many_programs_at_once(api: Caller, capsule: str) -> None:
    answers: list[Any] = []

    async def one(number: int) -> None:
        answers.append((await run(api, capsule, f"echo {number}"))["stdout"])

    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(one, number)
    assert sorted(int(each) for each in answers) == list(range(100))
