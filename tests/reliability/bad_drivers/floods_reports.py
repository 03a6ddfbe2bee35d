"""Reports a million times a second, as far as it is let."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import NoReturn

import msgspec
import trio

from anvild.sdk import Report, Sighting, hookimpl

sys.path.insert(0, str(Path(__file__).parent / "shared"))
from lamp import LampDriver  # the folder had to be named first

ANVIL_API = "1.0"


class BadDriver(LampDriver):
    name = "floods_reports"

    async def watch(self, report: Report) -> NoReturn:
        async with trio.open_nursery() as nursery:
            for start in range(64):
                nursery.start_soon(self.flood, report, start)
        raise AssertionError("unreachable")

    async def flood(self, report: Report, start: int) -> None:
        for number in itertools.count(start, 64):
            await report(Sighting(kind="seen", device=msgspec.structs.replace(self.device, model=str(number))))


@hookimpl
def anvil_drivers() -> list[type[LampDriver]]:
    return [BadDriver]
