"""What only a machine can: it is put aside with its memory and comes back as it was. Its template is the usual one."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
from clients import Clients, inside, raises, told
from notebook import KERNELS, run_code, serve
from work import until
from wrenn import exceptions
from wrenn.models import Status

WARM_MB = 512
"""A capsule of this size starts from memory; one of another size boots first."""

PATIENCE = 300
"""Seconds; machines that are emulated may need longer than the 30 that the SDK waits by itself."""


async def drive(sdk: Clients) -> None:
    """Drive all of it."""
    capsule = await told(sdk.Capsule.create(memory_mb=WARM_MB))
    async with inside(capsule):
        await told(capsule.wait_ready(PATIENCE))
        assert capsule.info.template == "minimal"
        await told(capsule.commands.run("echo data > /tmp/file"))
        counting = "n=0; while read -r line; do n=$((n + 1)); echo $line $n; done"
        async with inside(capsule.pty("/bin/sh", ["-c", counting])) as terminal:
            await told(terminal.write(b"first\n"))
            await until(terminal, b"first 1")
            tag = terminal.tag
        await paused(sdk, capsule)
        await told(capsule.wait_ready(PATIENCE))
        assert await told(capsule.files.read("/tmp/file")) == "data\n"
        async with inside(capsule.pty_connect(tag)) as terminal:
            await told(terminal.write(b"second\n"))
            await until(terminal, b"second 2")
        await with_memory(sdk, capsule)
    runner = await told(sdk.CodeRunner.create(template="minimal", memory_mb=WARM_MB))
    async with inside(runner):
        await told(runner.wait_ready(PATIENCE))
        await cells_of(runner)


async def cells_of(runner: Any) -> None:
    """The kernel of a machine keeps its names while the machine is put aside, and is not reached then."""
    await serve(runner, KERNELS)
    await run_code(runner, "x = 41")
    async with httpx.AsyncClient(headers={"X-API-Key": runner._client._api_key}, timeout=60) as client:
        url = f"{runner.get_url(KERNELS)}/api/kernels"
        await told(runner._client.capsules.pause(runner.capsule_id))
        assert (await client.get(url)).status_code == 409
        await told(runner.close())
        await reaches(runner._client.capsules, runner.capsule_id, Status.paused)
        await told(runner.resume())
        await told(runner.wait_ready(PATIENCE))
        assert (await client.get(url)).status_code == 200
    assert (await run_code(runner, "x + 1")).text == "42"


async def paused(sdk: Clients, capsule: Any) -> None:
    """Put a capsule aside and bring it back, by each of the ways that there are."""
    ident = capsule.capsule_id
    client = sdk.Client()
    async with inside(client):
        raw = client.capsules
        assert (await told(capsule.pause())).status in (Status.pausing, Status.paused)
        await reaches(raw, ident, Status.paused)
        with raises(exceptions.WrennConflictError) as found:
            await told(raw.ping(ident))
        assert found.error.code == "invalid_state"
        assert (await told(capsule.resume())).status in (Status.resuming, Status.running)
        await told(capsule.wait_ready(PATIENCE))
        assert (await told(sdk.Capsule.pause(ident))).status in (Status.pausing, Status.paused)
        await reaches(raw, ident, Status.paused)
        other = await told(sdk.Capsule.connect(ident))  # which resumes it
        assert await told(other.is_running())
        await told(raw.pause(ident))
        await reaches(raw, ident, Status.paused)
        assert (await told(sdk.Capsule.resume(ident))).status in (Status.resuming, Status.running)
        await told(capsule.wait_ready(PATIENCE))
        await told(raw.pause(ident))
        await reaches(raw, ident, Status.paused)
        assert (await told(raw.resume(ident))).status in (Status.resuming, Status.running)


async def reaches(raw: Any, ident: str, wanted: Status) -> None:
    """Wait for a state more closely than the SDK does."""
    while True:
        if (await told(raw.get(ident))).status is wanted:
            return
        await asyncio.sleep(0.05)


async def with_memory(sdk: Clients, capsule: Any) -> None:
    """A template of a machine holds its memory and processes."""
    started = await told(capsule.commands.run("exec sleep 600", background=True, tag="sleeper"))
    client = sdk.Client()
    async with inside(client):
        made = await told(capsule.create_snapshot(f"sdk-{capsule.capsule_id}"))
        assert (made.type, made.memory_mb) == ("snapshot", WARM_MB)
        async with inside(await told(sdk.Capsule.create(template=made.name))) as fork:
            await told(fork.wait_ready(PATIENCE))
            found = {process.tag: process.pid for process in await told(fork.commands.list())}
            assert found["sleeper"] == started.pid
            assert await told(fork.files.read("/tmp/file")) == "data\n"
        await told(client.snapshots.delete(made.name))
