"""The client of the developer services before iOS 17: apps are started and stopped, pictures are taken."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import trio

from .link import Link
from .wire.dtx import DtxKind, DtxMessage, Int32, encode_dtx, receive_dtx
from .wire.streams import Wire, WireBroken, WireClosed

__all__ = ["INSTRUMENTS", "DtxRefused", "Instruments", "open_instruments"]

INSTRUMENTS = "com.apple.instruments.remoteserver.DVTSecureSocketProxy"
CONTROL = "com.apple.instruments.server.services.processcontrol"
SCREENSHOT = "com.apple.instruments.server.services.screenshot"
ANSWER_SECONDS = 40.0


class DtxRefused(WireBroken):
    """The device refused a call, in its own words."""


class Instruments:
    """A connection. One task uses it at a time."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._identifier = 0
        self._channels: dict[str, int] = {}

    async def launch(self, app: str, arguments: Sequence[str], env: Mapping[str, str]) -> int:
        """Start an app, anew when it runs, and return its process. Raises DtxRefused, WireBroken."""
        method = "launchSuspendedProcessWithDevicePath:bundleIdentifier:environment:arguments:options:"
        options = {"StartSuspendedKey": 0, "KillExisting": 1}
        pid = await self._call(CONTROL, method, "/private/", app, dict(env), list(arguments), options)
        if not isinstance(pid, int) or pid <= 0:
            raise DtxRefused(f"the device started {app} and named no process")
        return pid

    async def stop(self, app: str) -> None:
        """End an app; one that does not run is no error."""
        pid = await self._call(CONTROL, "processIdentifierForBundleIdentifier:", app)
        if isinstance(pid, int) and pid > 0:
            await self._call(CONTROL, "killPid:", pid)

    async def screenshot(self) -> bytes:
        """Take a picture of the screen: a PNG."""
        data = await self._call(SCREENSHOT, "takeScreenshot")
        if not isinstance(data, bytes):
            raise DtxRefused("the device took no picture")
        return data

    async def _call(self, service: str, method: str, *arguments: Any) -> Any:
        try:
            with trio.fail_after(ANSWER_SECONDS):
                if service not in self._channels:
                    code = len(self._channels) + 1
                    await self._ask(0, "_requestChannelWithCode:identifier:", (Int32(code), service))
                    self._channels[service] = code
                return await self._ask(self._channels[service], method, arguments)
        except trio.TooSlowError:
            raise WireClosed(f"the device has not answered {method} for {ANSWER_SECONDS:g} s") from None

    async def _ask(self, channel: int, method: str, arguments: tuple[Any, ...]) -> Any:
        self._identifier += 1
        call = DtxMessage(self._identifier, 0, channel, DtxKind.CALL, method, arguments, wanted=True)
        await self._wire.send(encode_dtx(call))
        while True:  # the device tells of other things in between
            message = await receive_dtx(self._wire)
            if message.identifier == self._identifier and message.turn == 1:
                break
        if message.kind == DtxKind.ERROR:
            raise DtxRefused(_words(message.value))
        return message.value


@contextlib.asynccontextmanager
async def open_instruments(link: Link) -> AsyncIterator[Instruments]:
    """A connection to the developer services of a device before iOS 17. Raises WireBroken."""
    async with link.service(INSTRUMENTS) as wire:
        yield Instruments(wire)


def _words(error: Any) -> str:
    if isinstance(error, dict):
        more = error.get("NSUserInfo")
        known = {**error, **(more if isinstance(more, dict) else {})}
        return str(known.get("NSLocalizedDescription") or known)
    return str(error)
