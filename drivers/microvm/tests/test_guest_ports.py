"""Ports of real guests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio

from anvild.sdk import Command, DeviceRequest, InvalidArgument, Lease, Unavailable, WrongState
from anvild_microvm.driver import MicrovmDriver
from anvild_microvm.session import MicrovmSession

ECHO = """
import socket
listener = socket.create_server(("127.0.0.1", 4000))
print("ready", flush=True)
while True:
    with listener.accept()[0] as peer:
        while data := peer.recv(65536):
            peer.sendall(data.upper())
"""


async def test_a_port_is_reached(driver: MicrovmDriver, ask: Callable[..., DeviceRequest], lease: Lease) -> None:
    fact = await driver.create(ask("ports"))
    assert "ports" in fact.capabilities
    async with driver.open(fact, lease) as session:
        assert isinstance(session, MicrovmSession)
        with pytest.raises(Unavailable):
            await session.connect_port(4000)
        with pytest.raises(InvalidArgument):
            await session.connect_port(0)
        async with await session.start(Command(argv=("/usr/bin/python3", "-c", ECHO))) as server:
            await anext(aiter(server))
            async with await session.connect_port(4000) as stream:
                await stream.send_all(b"hello")
                assert await stream.receive_some() == b"HELLO"
                await stream.send_eof()
                assert await stream.receive_some() == b""
            left = await session.connect_port(4000)
            await session.freeze()
            with pytest.raises(WrongState):
                await session.connect_port(4000)
            await session.thaw()
    with pytest.raises(trio.ClosedResourceError):  # it has ended with its session
        await left.send_all(b"hello")
