"""Leaves, in the middle of its work."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

from anvild.sdk import Report, Sighting, hookimpl

sys.path.insert(0, str(Path(__file__).parent / "shared"))
from lamp import LampDriver  # the folder had to be named first

ANVIL_API = "1.0"


class BadDriver(LampDriver):
    name = "exits"

    async def watch(self, report: Report) -> NoReturn:
        await report(Sighting(kind="seen", device=self.device))
        os._exit(3)


@hookimpl
def anvil_drivers() -> list[type[LampDriver]]:
    return [BadDriver]
