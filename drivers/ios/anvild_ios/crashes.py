"""Crash reports, and the fetching of what other verbs have left."""

from __future__ import annotations

import posixpath
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import trio

from anvild.sdk import Attachment, Attachments, CrashReports, NotFound

from . import services
from .afc import Afc, AfcInfo
from .files import AfcFile
from .link import Link
from .wire.afc import AfcMode

__all__ = ["CRASH", "LOCAL", "LinkedCrashReports"]

CRASH = "crash:"
LOCAL = "local:"
"""The beginning of a reference to a crash report on the device, and to a file that a verb left on the host."""

MAX_NAME = 200
PIECE = 65536


class LinkedCrashReports(CrashReports, Attachments):
    """The verbs of crash reports and of attachments over a session's link. ``left`` holds files by reference."""

    link: Link
    left: dict[str, Path]

    async def crash_reports(self, *, since: datetime | None = None) -> Sequence[Attachment]:
        async with self.link.verb():
            async with self.link.service(services.CRASH_MOVER) as wire:
                await services.move_crash_reports(wire)
            async with self.link.lockdown() as lockdown:
                device_now = await lockdown.value(key="TimeIntervalSince1970")
            ahead = float(device_now) - time.time() if isinstance(device_now, int | float) else 0.0
            found: list[tuple[str, AfcInfo]] = []
            async with self.link.afc(services.CRASH_COPY) as afc:
                await _collect(afc, "/", found)
        wanted = [(path, info) for path, info in found if since is None or info.modified >= since.timestamp() + ahead]
        return [
            Attachment(
                reference=CRASH + path,
                name=path.strip("/").replace("/", "_")[-MAX_NAME:],
                media_type="text/plain",
                size=info.size,
            )
            for path, info in sorted(wanted, key=lambda each: (each[1].modified, each[0]))
        ]

    async def fetch(self, reference: str) -> trio.abc.ReceiveStream:
        if reference.startswith(CRASH):
            return await self._fetch_crash(posixpath.normpath(reference.removeprefix(CRASH)))
        path = self.left.get(reference)
        if path is None:
            raise NotFound(f"this session has no attachment {reference!r}")
        return LocalFile(await trio.to_thread.run_sync(path.open, "rb"))

    async def _fetch_crash(self, path: str) -> trio.abc.ReceiveStream:
        async with self.link.verb():
            wire = await self.link.open(services.CRASH_COPY)
            try:
                afc = Afc(wire)
                return AfcFile(self.link, afc, await afc.open(path, AfcMode.READ), path)
            except BaseException:
                await wire.aclose()
                raise


class LocalFile(trio.abc.ReceiveStream):
    """A file of the host as a stream."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await trio.to_thread.run_sync(self._file.read, max_bytes or PIECE)

    async def aclose(self) -> None:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._file.close)


async def _collect(afc: Afc, folder: str, found: list[tuple[str, AfcInfo]]) -> None:
    for name in await afc.list(folder):
        path = f"{folder.rstrip('/')}/{name}"
        info = await afc.info(path)
        if info.is_directory:
            await _collect(afc, path, found)
        elif info.kind == "S_IFREG":
            found.append((path, info))
