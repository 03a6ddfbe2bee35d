"""Takes more and more memory."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

import trio

from anvild.sdk import Report, Sighting, hookimpl

sys.path.insert(0, str(Path(__file__).parent / "shared"))
from lamp import LampDriver  # the folder had to be named first

ANVIL_API = "1.0"


class BadDriver(LampDriver):
    name = "eats_memory"

    async def watch(self, report: Report) -> NoReturn:
        await report(Sighting(kind="seen", device=self.device))
        eaten = []
        while True:
            eaten.append(b"x" * 2**20)
            await trio.lowlevel.checkpoint()


@hookimpl
def anvil_drivers() -> list[type[LampDriver]]:
    return [BadDriver]
