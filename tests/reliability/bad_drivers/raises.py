"""Raises in every hook."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

from anvild.sdk import Description, DeviceFact, Recovery, Report, hookimpl

sys.path.insert(0, str(Path(__file__).parent / "shared"))
from lamp import LampDriver  # the folder had to be named first

ANVIL_API = "1.0"


class BadDriver(LampDriver):
    name = "raises"

    async def start(self) -> None:
        raise ZeroDivisionError("a bug in start")

    async def stop(self) -> None:
        raise ZeroDivisionError("a bug in stop")

    async def describe(self) -> Description:
        raise ZeroDivisionError("a bug in describe")

    async def watch(self, report: Report) -> NoReturn:
        raise ZeroDivisionError("a bug in watch")

    async def clean(self, device: DeviceFact) -> None:
        raise ZeroDivisionError("a bug in clean")

    async def recover(self, handle: str) -> Recovery:
        raise ZeroDivisionError("a bug in recover")


@hookimpl
def anvil_drivers() -> list[type[LampDriver]]:
    return [BadDriver]
