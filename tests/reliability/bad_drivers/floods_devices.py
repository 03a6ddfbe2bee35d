"""Finds ten thousand devices a minute, each of them new, and loses them again."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import NoReturn

import msgspec

from anvild.sdk import Report, ResourceExhausted, Sighting, hookimpl

sys.path.insert(0, str(Path(__file__).parent / "shared"))
from lamp import LampDriver  # the folder had to be named first

ANVIL_API = "1.0"


class BadDriver(LampDriver):
    name = "floods_devices"

    async def watch(self, report: Report) -> NoReturn:
        for number in itertools.count():
            device = msgspec.structs.replace(self.device, identity=f"{self.name}-{number}")
            try:
                await report(Sighting(kind="seen", device=device))
                await report(Sighting(kind="lost", device=device))
            except ResourceExhausted:
                continue
        raise AssertionError("unreachable")


@hookimpl
def anvil_drivers() -> list[type[LampDriver]]:
    return [BadDriver]
