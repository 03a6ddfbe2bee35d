"""Attachments: what other verbs have left, by references that are good for one session."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from anvild.sdk import Attachment, Attachments, DeviceFact, NotFound

from ..adb.sync import SyncFile
from ..fleet import Fleet
from ..link import Link
from .base import AndroidBase

__all__ = ["AndroidAttachments", "Opener"]

Opener = Callable[[], Awaitable[trio.abc.ReceiveStream]]


class AndroidAttachments(AndroidBase, Attachments):
    """Each reference stands for a way to open what it names."""

    def __init__(self, device: DeviceFact, link: Link, fleet: Fleet) -> None:
        super().__init__(device, link, fleet)
        self._offered: dict[str, Opener] = {}

    async def fetch(self, reference: str) -> trio.abc.ReceiveStream:
        opener = self._offered.get(reference)
        if opener is None:
            raise NotFound(f"this session has nothing under the reference {reference!r}")
        return await opener()

    def offer(self, name: str, media_type: str, opener: Opener, *, size: int | None = None) -> Attachment:
        """Offer something to be fetched, and return what names it."""
        reference = f"{len(self._offered) + 1}/{name}"
        self._offered[reference] = opener
        return Attachment(reference=reference, name=name, media_type=media_type, size=size)

    def offer_file(self, path: str, name: str, media_type: str, size: int) -> Attachment:
        """Offer a file of the device."""
        return self.offer(name, media_type, lambda: self._open_file(path), size=size)

    async def _open_file(self, path: str) -> SyncFile:
        sync = await self.link.open_sync()
        try:
            return await sync.read(path)
        except BaseException:
            with trio.CancelScope(shield=True):
                await sync.aclose()
            raise
