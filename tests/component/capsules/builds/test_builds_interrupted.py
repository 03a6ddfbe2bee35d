"""Builds that are interrupted where it hurts: while their template is being made."""

from __future__ import annotations

from pathlib import Path

import trio

from anvild.sdk import Template
from anvild_sandbox.driver import SandboxDriver
from tests.support.capsules import served_lab

from .conftest import CANCEL, Yard


class SlowSandboxDriver(SandboxDriver):
    """Says when it has made a template, and tells of that only once it may."""

    made = trio.Event()
    go = trio.Event()

    async def snapshot(self, identity: str, template: str, *, memory: bool = True) -> Template:
        taken = await super().snapshot(identity, template, memory=memory)
        type(self).made.set()
        await type(self).go.wait()
        return taken


def slow() -> type[SlowSandboxDriver]:
    """A driver of this kind with moments of its own."""
    return type("OneSlowSandboxDriver", (SlowSandboxDriver,), {"made": trio.Event(), "go": trio.Event()})


async def test_cancelling_while_the_template_is_made_leaves_none(tmp_path: Path) -> None:
    kind = slow()
    async with served_lab(tmp_path / "data", drivers={"sandbox": kind}) as lab:
        await lab.wing.engine.driver("sandbox").wait_ready()
        yard = Yard(lab, await lab.signed_in())
        build = await yard.submit("RUN true")
        await kind.made.wait()
        assert len(await yard.driver_has()) == 2
        assert (await yard.get(build))["status"] == "running"
        await yard.admin("POST", CANCEL, 204, values={"id": build})
        assert (await yard.get(build))["status"] == "cancelled"
        await yard.nothing_is_left()
        assert [each["name"] for each in await lab.by_key()("GET", "/v1/snapshots", 200)] == ["host"]


async def test_a_build_begins_anew_with_the_next_daemon(tmp_path: Path) -> None:
    kind = slow()
    async with served_lab(tmp_path / "data", drivers={"sandbox": kind}, tidy=False) as lab:
        await lab.wing.engine.driver("sandbox").wait_ready()
        yard = Yard(lab, await lab.signed_in())
        build = await yard.submit("RUN true")
        waiting = [await yard.submit("RUN true", name=f"n{number}", skip_pre_post=True) for number in range(3)]
        await kind.made.wait()
    async with served_lab(tmp_path / "data", drivers={"sandbox": SandboxDriver}) as lab:
        await lab.wing.engine.driver("sandbox").wait_ready()
        yard = Yard(lab, await lab.signed_in())
        ended = await yard.reaches(build, "success")
        assert [each["step"] for each in ended["logs"]] == [1, 2, 3], "the log is that of the present attempt"
        for each in waiting:
            await yard.reaches(each, "success")
        await yard.nothing_is_left(templates=4)
        shown = await lab.by_key()("GET", "/v1/snapshots", 200)
        assert sorted(each["name"] for each in shown) == ["host", "made", "n0", "n1", "n2"]
