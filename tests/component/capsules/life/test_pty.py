"""Terminals in capsules, with namespace sandboxes."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio_websocket import WebSocketConnection

from anvild.capsules.routes import pty
from tests.support.capsules import Caller, Lab
from tests.support.sockets import open_socket

BINARY = "python-httpx/0.28"


class Terminal:
    """A client's end of a terminal, in one of its two dialects."""

    def __init__(self, socket: WebSocketConnection, *, binary: bool) -> None:
        self._socket = socket
        self._binary = binary
        self.told: list[Any] = []
        self.screen = b""

    async def send(self, kind: str, **fields: Any) -> None:
        await self._socket.send_message(json.dumps({"type": kind, **fields}))

    async def type(self, keys: bytes) -> None:
        if self._binary:
            await self._socket.send_message(keys)
        else:
            await self.send("input", data=base64.b64encode(keys).decode())

    async def until(self, *wanted: str, screen: bytes | None = None) -> Any:
        """Read until a message of a type, or until something is on the screen."""
        with trio.fail_after(60):
            while True:
                message = await self._socket.get_message()
                if isinstance(message, bytes):
                    assert self._binary
                    self.screen += message
                elif (told := json.loads(message))["type"] == "output":
                    assert not self._binary
                    self.screen += base64.b64decode(told["data"])
                elif told["type"] in wanted:
                    return told
                else:
                    self.told.append(told)
                if screen is not None and screen in self.screen:
                    return None


@asynccontextmanager
async def terminal(lab: Lab, capsule: str, *, agent: str = "other", frames: str = "") -> AsyncIterator[Terminal]:
    url = f"{lab.wing.url.replace('http', 'ws')}/v1/capsules/{capsule}/pty{frames}"
    headers = [("X-API-Key", lab.wing.first.api_key), ("User-Agent", agent)]
    async with open_socket(url, extra_headers=headers) as socket:
        yield Terminal(socket, binary=agent == BINARY if not frames else "binary" in frames)


@pytest.mark.parametrize(
    ("agent", "frames"),
    [("other", ""), (BINARY, ""), ("other", "?frames=binary"), (BINARY, "?frames=json")],
    ids=["json", "binary", "asked for binary", "asked for json"],
)
async def test_a_terminal_in_either_dialect(capsule: str, sandboxes: Lab, agent: str, frames: str) -> None:
    async with terminal(sandboxes, capsule, agent=agent, frames=frames) as one:
        await one.send("start", cmd="/bin/sh", cols=100, rows=30, envs={"PS1": "> "}, cwd="/usr")
        started = await one.until("started")
        assert started["tag"].startswith("pty-")
        await one.type(b"stty size; pwd\n")
        await one.until(screen=b"30 100\r\n/usr\r\n")
        await one.send("resize", cols=0, rows=40)
        await one.send("resize", cols=120, rows=40)
        await one.type(b"stty size\n")
        await one.until(screen=b"40 120\r\n")
        await one.type(b"exit 3\n")
        assert await one.until("exit") == {"type": "exit", "exit_code": 3}


async def test_a_terminal_outlives_its_connection(api: Caller, capsule: str, sandboxes: Lab) -> None:
    async with terminal(sandboxes, capsule) as first:
        await first.send("start", cmd="/bin/sh")
        started = await first.until("started")
        await first.type(b"A=kept; echo be''fore\n")
        await first.until(screen=b"before\r\n")
    async with terminal(sandboxes, capsule) as second:
        await second.send("connect", tag=started["tag"])
        assert await second.until("started") == started
        await second.until(screen=b"before\r\n")
        await second.type(b"echo $A\n")
        await second.until(screen=b"kept\r\n")
        listed = await api("GET", "/v1/capsules/{id}/processes", 200, values={"id": capsule})
        assert started["tag"] in {each.get("tag") for each in listed["processes"]}
        await second.send("kill")
        assert await second.until("exit") == {"type": "exit", "exit_code": -1}


async def test_what_is_no_message_is_told_of(capsule: str, sandboxes: Lab) -> None:
    for first in (
        {"kind": "input", "data": ""},
        {"kind": "connect", "tag": "pty-none"},
        {"kind": "start", "cols": 9999},
    ):
        async with terminal(sandboxes, capsule) as one:
            await one.send(first.pop("kind"), **first)
            assert (await one.until("error"))["fatal"] is True
    async with terminal(sandboxes, capsule) as one:
        await one.send("start", cmd="/bin/sh")
        for kind, fields in (("input", {"data": "?"}), ("input", {}), ("resize", {"cols": 9999, "rows": 1})):
            await one.send(kind, **fields)
            assert (await one.until("error"))["fatal"] is False
        await one.send("pong")
        await one.send("whatever", data=1)
        await one.type(b"echo st''ill\n")
        await one.until(screen=b"still\r\n")
        assert [told["type"] for told in one.told] == ["started"]
        await one.send("kill")
        await one.until("exit")


async def test_a_quiet_terminal_is_pinged(capsule: str, sandboxes: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pty, "PING_SECONDS", 0.01)
    async with terminal(sandboxes, capsule) as one:
        await one.send("start", cmd="cat")
        await one.until("ping")
        await one.send("kill")
        await one.until("exit")
