"""The image in which programs run code: its server runs when a guest of it is there. It takes minutes to build."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import trio

from anvild.sdk import DeviceRequest, InvalidArgument, Lease, Ports
from anvild_microvm.driver import MicrovmDriver

pytestmark = pytest.mark.soak

IMAGE = "code-runner-beta"
PORT = 8888


async def ignore(line: str) -> None:
    """Nobody reads this progress."""


async def ask_server(session: Ports, method: str, path: str, body: Any = None) -> Any:
    """Ask the server in a guest as a stranger's browser would: no token, another origin."""
    sent = b"" if body is None else json.dumps(body).encode()
    head = (
        f"{method} /api/{path} HTTP/1.0\r\nHost: 8888-guest.example.org\r\nOrigin: http://elsewhere.example\r\n"
        f"Content-Length: {len(sent)}\r\n\r\n"
    )
    answer = b""
    async with await session.connect_port(PORT) as stream:
        await stream.send_all(head.encode() + sent)
        while chunk := await stream.receive_some():
            answer += chunk
    heading, _, content = answer.partition(b"\r\n\r\n")
    assert heading.split()[1] in (b"200", b"201", b"204"), answer
    return json.loads(content) if content else None


async def test_guests_have_a_server_with_a_kernel_of_their_own(
    make_driver: Callable[..., AbstractAsyncContextManager[MicrovmDriver]],
    ask: Callable[..., DeviceRequest],
    lease: Lease,
) -> None:
    async with make_driver(cache="code-runner") as driver:
        template = await driver.build_image(IMAGE, ignore)
        assert (template.warm, template.fixed) == (True, True)
        with pytest.raises(InvalidArgument, match="leave vcpus and memory out"):
            await driver.create(ask("other", IMAGE, memory=2**30))
        with trio.fail_after(300):
            for name in ("one", "two"):
                fact = await driver.create(ask(name, IMAGE))
                async with driver.open(fact, lease) as session:
                    await has_a_server(session.require(Ports))


async def has_a_server(session: Ports) -> None:
    assert await ask_server(session, "GET", "kernels") == []
    assert "wrenn" in (await ask_server(session, "GET", "kernelspecs"))["kernelspecs"]
    made = await ask_server(session, "POST", "kernels", {"name": "wrenn"})
    assert [each["id"] for each in await ask_server(session, "GET", "kernels")] == [made["id"]]
    assert made["name"] == "wrenn"
    await ask_server(session, "DELETE", f"kernels/{made['id']}")
