"""Reads where nothing is, as a library does that has freed it."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import NoReturn

from anvild.sdk import Report, Sighting, hookimpl

sys.path.insert(0, str(Path(__file__).parent / "shared"))
from lamp import LampDriver  # the folder had to be named first

ANVIL_API = "1.0"


class BadDriver(LampDriver):
    name = "segfaults"

    async def watch(self, report: Report) -> NoReturn:
        await report(Sighting(kind="seen", device=self.device))
        ctypes.string_at(0)
        raise AssertionError("unreachable")


@hookimpl
def anvil_drivers() -> list[type[LampDriver]]:
    return [BadDriver]
