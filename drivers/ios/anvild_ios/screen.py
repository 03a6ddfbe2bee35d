"""Pictures of the screen."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path

import trio

from anvild.sdk import Attachment, CapabilityMissing, Screen, Unavailable

from .helper import Helper
from .instruments import open_instruments
from .link import Link

__all__ = ["LinkedScreen"]

PNG = b"\x89PNG\r\n\x1a\n"
PIECE = 65536
NO_VIDEO = "this platform records no video over the cable; take pictures instead"


class LinkedScreen(Screen):
    """The verbs of the screen: over the cable where ``native``, else by the tool. ``folder`` is the session's own."""

    link: Link
    helper: Helper
    udid: str
    native: bool
    folder: Path

    async def screenshot(self) -> trio.abc.ReceiveStream:
        async with self.link.verb():
            if self.native:
                async with open_instruments(self.link) as instruments:
                    data = await instruments.screenshot()
            else:
                data = await self._by_tool()
        if not data.startswith(PNG):
            raise Unavailable(f"{self.link.name} sent a picture that is no PNG")
        return Picture(data)

    async def _by_tool(self) -> bytes:
        tool = self.helper.require("takes pictures")
        target = self.folder / f"screen-{secrets.token_hex(4)}.png"
        try:
            await self.helper.run(self.udid, tool.screenshot(target), "take a picture of the screen")
            return await trio.to_thread.run_sync(target.read_bytes)
        except FileNotFoundError:
            raise Unavailable(f"{tool} said that it took a picture, and left none") from None
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(lambda: target.unlink(missing_ok=True))

    async def start_recording(self) -> None:
        raise CapabilityMissing(NO_VIDEO)

    async def stop_recording(self) -> Sequence[Attachment]:
        raise CapabilityMissing(NO_VIDEO)


class Picture(trio.abc.ReceiveStream):
    """Bytes that are there already, as a stream."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        size = max_bytes or PIECE
        data, self._data = self._data[:size], self._data[size:]
        return data

    async def aclose(self) -> None:
        self._data = b""
        await trio.lowlevel.checkpoint()
