"""What all capabilities of a session stand on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from anvild.sdk import DeviceFact, Session

from ..fleet import Fleet
from ..link import Link

__all__ = ["AndroidBase", "Closing"]

Closing = Callable[[], Awaitable[object]]


class AndroidBase(Session):
    """A session's device, and what it must do when it ends."""

    def __init__(self, device: DeviceFact, link: Link, fleet: Fleet) -> None:
        self.device = device
        self.link = link
        self.fleet = fleet
        self.closing: list[Closing] = []
        """Called when the session ends, the last first. What they raise of the interface's errors is logged."""

    @property
    def sdk(self) -> int:
        """The API level of the device; 0 where it does not say."""
        told = self.device.facts.get("sdk", "")
        return int(told) if told.isdecimal() else 0
