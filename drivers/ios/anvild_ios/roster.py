"""The devices on the cable, as usbmuxd tells of them: each is looked at, reported, and looked at again."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from typing import NoReturn

import msgspec
import trio

from anvild.sdk import DeviceFact, DeviceLost, DeviceStatus, Report, Sighting, Unavailable, WrongState

from .inspection import Inspector
from .link import Plugging
from .usbmux import MuxDevice, MuxEvent, Usbmux
from .wire.streams import WireBroken

__all__ = ["Roster"]

RETRY_SECONDS = 1.0
"""usbmuxd cannot call out before it runs: look for it this often."""

REFRESH_SECONDS = 60.0
WAITING_SECONDS = 5.0
"""How often a device is looked at again: one that works, and one that waits for its person."""

HEAR_SECONDS = 5.0
"""How long the watch may be behind what usbmuxd lists."""


class _Tended(Plugging):
    """A device on the cable that a task looks after. ``look`` is set when there is a reason to look at once."""

    def __init__(self, device: MuxDevice) -> None:
        super().__init__(device)
        self.look = trio.Event()


class Roster:
    """Who is there. ``trouble`` says why usbmuxd cannot be heard; None when it can, or has not been asked yet."""

    def __init__(self, mux: Usbmux, inspector: Inspector) -> None:
        self.trouble: str | None = None
        self.facts: dict[str, DeviceFact] = {}
        self._mux = mux
        self._inspector = inspector
        self._tended: dict[int, _Tended] = {}
        self._locks: defaultdict[str, trio.Lock] = defaultdict(trio.Lock)
        self._expected: dict[str, trio.Event] = {}
        self._hearing = False
        self._changed = trio.Event()
        self._look_now = trio.Event()

    async def watch(self, report: Report) -> NoReturn:
        """Report devices until cancelled, through restarts of usbmuxd."""
        while True:
            try:
                async with self._mux.listen() as events:
                    self.trouble = None
                    await self._hear(events, report)
            except WireBroken as error:
                self.trouble = str(error)
            with trio.move_on_after(RETRY_SECONDS):
                await self._look_now.wait()

    async def _hear(self, events: AsyncIterator[MuxEvent], report: Report) -> None:
        """Follow one connection to usbmuxd to its end; all devices go with it. Raises WireBroken."""
        broken: WireBroken | None = None
        self._hearing = True
        async with trio.open_nursery() as nursery:
            try:
                async for event in events:
                    self._take(event, nursery, report)
            except WireBroken as error:
                broken = error
            finally:
                self._hearing = False
                for each in self._tended.values():
                    each.end()
                self._tended.clear()
        if broken is not None:
            raise broken

    def _take(self, event: MuxEvent, nursery: trio.Nursery, report: Report) -> None:
        if event.device is not None:
            # A device on the network shows itself a second time; the cable is the one that counts.
            if event.device.connection == "USB":
                self._tended[event.number] = tended = _Tended(event.device)
                nursery.start_soon(self._tend, tended, nursery, report)
                changed, self._changed = self._changed, trio.Event()
                changed.set()
        elif (known := self._tended.get(event.number)) is not None:
            if event.kind == "paired":
                known.look.set()
            else:
                del self._tended[event.number]
                known.end()

    async def _tend(self, tended: _Tended, nursery: trio.Nursery, report: Report) -> None:
        """Look after one stay of a device. The next stay begins when this one has been reported as ended."""
        udid = tended.device.udid
        async with self._locks[udid]:
            with tended.scope():
                while not tended.gone.is_set():
                    fact = await self._look(tended)
                    if udid not in self._expected or fact.status is DeviceStatus.READY:
                        self.facts[udid] = fact
                        await report(Sighting(kind="seen", device=fact))
                    wait = REFRESH_SECONDS if fact.status is DeviceStatus.READY else WAITING_SECONDS
                    with trio.move_on_after(wait):
                        await tended.look.wait()
                    tended.look = trio.Event()
            if udid in self._expected:
                nursery.start_soon(self._settle, udid, report)
            else:
                await self._lose(udid, report)

    async def _settle(self, udid: str, report: Report) -> None:
        """A device went on purpose. Report it as lost when nobody expects it back any more, and it is not back."""
        if (over := self._expected.get(udid)) is not None:
            await over.wait()
        async with self._locks[udid]:
            if not any(each.device.udid == udid for each in self._tended.values()):
                await self._lose(udid, report)

    async def _lose(self, udid: str, report: Report) -> None:
        fact = self.facts.pop(udid, None)
        if fact is not None:
            away = msgspec.structs.replace(
                fact, status=DeviceStatus.OFFLINE, reason="it is not on the cable any more", capabilities=()
            )
            await report(Sighting(kind="lost", device=away))

    async def _look(self, tended: _Tended) -> DeviceFact:
        try:
            return await self._inspector.look(tended)
        except WireBroken as error:
            known = self.facts.get(tended.device.udid)
            if known is None:
                known = DeviceFact(
                    identity=tended.device.udid, platform="ios", name=tended.device.udid, status=DeviceStatus.OFFLINE
                )
            return msgspec.structs.replace(known, status=DeviceStatus.OFFLINE, reason=f"it does not answer: {error}")

    async def find(self, udid: str) -> Plugging:
        """Return a device's present stay on the cable. Raises DeviceLost, Unavailable."""
        try:
            devices = await self._mux.devices()
        except WireBroken as error:
            raise Unavailable(str(error)) from error
        device = next((each for each in devices if each.udid == udid and each.connection == "USB"), None)
        if device is None:
            raise DeviceLost(f"the device {udid} is not on the cable")
        if self._hearing:  # and may not have heard of this stay yet
            with trio.move_on_after(HEAR_SECONDS):
                while device.number not in self._tended:
                    await self._changed.wait()
                return self._tended[device.number]
        return Plugging(device)

    def look_again(self, udid: str | None = None) -> None:
        """Have a device looked at now, or all of them; and usbmuxd too, where it is away."""
        look_now, self._look_now = self._look_now, trio.Event()
        look_now.set()
        for tended in self._tended.values():
            if udid in (None, tended.device.udid):
                tended.look.set()

    @contextlib.contextmanager
    def expecting(self, udid: str) -> Iterator[None]:
        """Inside the block a device may go and come back without being reported as lost."""
        if udid in self._expected:
            raise WrongState(f"the device {udid} is being restarted already")
        over = self._expected[udid] = trio.Event()
        try:
            yield
        finally:
            del self._expected[udid]
            over.set()
            self.look_again(udid)
