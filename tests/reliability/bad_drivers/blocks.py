"""Blocks its thread, as a library does that waits for a cable."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import NoReturn

from anvild.sdk import Report, Sighting, hookimpl

sys.path.insert(0, str(Path(__file__).parent / "shared"))
from lamp import LampDriver  # the folder had to be named first

ANVIL_API = "1.0"


class BadDriver(LampDriver):
    name = "blocks"

    async def watch(self, report: Report) -> NoReturn:
        await report(Sighting(kind="seen", device=self.device))
        sys.stderr.write("waiting for the bus\n")
        while True:
            time.sleep(3600)  # noqa: ASYNC251  # this is what is wrong with it


@hookimpl
def anvil_drivers() -> list[type[LampDriver]]:
    return [BadDriver]
