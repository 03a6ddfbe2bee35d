"""Writes one line of a gigabyte to its log, and then short ones for ever."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

import trio

from anvild.sdk import Report, Sighting, hookimpl

sys.path.insert(0, str(Path(__file__).parent / "shared"))
from lamp import LampDriver  # the folder had to be named first

ANVIL_API = "1.0"


class BadDriver(LampDriver):
    name = "floods_log"

    async def watch(self, report: Report) -> NoReturn:
        await report(Sighting(kind="seen", device=self.device))
        await trio.to_thread.run_sync(self.write)
        raise AssertionError("unreachable")

    def write(self) -> None:
        for _ in range(1024):
            os.write(2, b"x" * 2**20)
        while True:
            os.write(2, b"\n" + b"again\n" * 10_000)


@hookimpl
def anvil_drivers() -> list[type[LampDriver]]:
    return [BadDriver]
