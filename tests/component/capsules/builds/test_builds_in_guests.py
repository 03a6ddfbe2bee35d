"""Builds in real guests: a template of files boots, one with a health check goes on where the build was."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio

from anvild.sdk import ImageBuild
from anvild_microvm.driver import MicrovmDriver
from tests.guests import IMAGE, lend_images, skip_without_guests
from tests.support.capsules import served_lab

from .conftest import Yard

COUNT = "START i=0; while :; do i=$((i+1)); echo $i >> counted; sleep 0.1; done"


async def ignore(line: str) -> None:
    """Nobody reads this progress."""


@pytest.fixture
async def guests(tmp_path: Path) -> AsyncIterator[Yard]:
    """A yard with guests, from the image that the tests of the driver share."""
    skip_without_guests()
    await trio.to_thread.run_sync(lend_images, tmp_path / "data")
    async with served_lab(tmp_path / "data", drivers={"microvm": MicrovmDriver}) as lab:
        hosted = lab.wing.engine.driver("microvm")
        await hosted.wait_ready()
        await hosted.require(ImageBuild).build_image(IMAGE, ignore)
        yield Yard(lab, await lab.signed_in(), driver="microvm")


async def says(yard: Yard, capsule: Mapping[str, str], line: str) -> list[str]:
    """Run a line of shell in a capsule, which must succeed, and return the words that it printed."""
    body = {"cmd": "/bin/sh", "args": ["-c", line]}
    done = await yard.lab.by_key()("POST", "/v1/capsules/{id}/exec", 200, values=capsule, json=body)
    assert done["exit_code"] == 0, done
    return str(done["stdout"]).split()


async def test_templates_with_and_without_memory(guests: Yard) -> None:
    yard = guests
    recipe = ("WORKDIR /srv/work", "ENV WORD=said", COUNT, "RUN useradd --no-create-home maker", "USER maker")
    wish: dict[str, Any] = {"base_template": IMAGE}
    warm = await yard.submit(*recipe, name="warm", healthcheck="--interval=100ms test -s /srv/work/counted", **wish)
    cold = await yard.submit(*recipe, "RUN id -un", name="cold", memory_mb=384, **wish)
    for build in (warm, cold):
        ended = await yard.reaches(build, "success")
        assert all(step["ok"] for step in ended["logs"])
    assert ended["logs"][-2]["stdout"] == "maker\n"
    shown = {each["name"]: each for each in await yard.lab.by_key()("GET", "/v1/snapshots", 200)}
    assert {name: (each["type"], each["memory_mb"], each["platform"]) for name, each in shown.items()} == {
        "warm": ("snapshot", 512, True),
        "cold": ("base", 384, True),
        IMAGE: ("base", 512, True),
    }
    look = "id -un; echo $WORD; test -s /srv/work/counted && wc -l < /srv/work/counted"
    for name, running in (("warm", ["start-1"]), ("cold", [])):
        capsule = await yard.capsule(name)
        account, word, _ = await says(yard, capsule, look)
        assert (account, word) == ("maker", "said")
        found = await yard.lab.by_key()("GET", "/v1/capsules/{id}/processes", 200, values=capsule)
        tags = [each["tag"] for each in found["processes"] if each.get("tag")]
        assert tags == running, "what was started runs on where there is memory, and only there"
