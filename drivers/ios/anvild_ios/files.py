"""Files: the media folder of the device, and the folders of apps.

``/`` is the media folder (``/var/mobile/Media``). ``/@BUNDLE/…`` is the folder of an app that was signed for
development.
"""

from __future__ import annotations

import contextlib
import posixpath
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Sequence

import trio

from anvild.sdk import AlreadyExists, AnvilError, Entry, EntryType, Files, InvalidArgument, NotFound, check_absolute

from . import services
from .afc import Afc, AfcError, AfcInfo
from .ledger import Ledger
from .link import Link
from .wire.afc import AfcMode, AfcStatus
from .wire.streams import Wire

__all__ = ["AfcFile", "LinkedFiles", "open_container", "remove_if_there"]

CLEAN_UP_SECONDS = 0.8
KINDS = {"S_IFREG": EntryType.FILE, "S_IFDIR": EntryType.DIRECTORY, "S_IFLNK": EntryType.SYMLINK}
MODES = {EntryType.FILE: 0o644, EntryType.DIRECTORY: 0o755}


class LinkedFiles(Files):
    """The verbs of files over a session's link."""

    link: Link
    ledger: Ledger
    udid: str

    async def read(self, path: str) -> trio.abc.ReceiveStream:
        async with self.link.verb():
            wire, inner = await self._open(path)
            try:
                afc = Afc(wire)
                await _refuse_directory(afc, inner, path)
                return AfcFile(self.link, afc, await afc.open(inner, AfcMode.READ), path)
            except BaseException:
                await wire.aclose()
                raise

    async def write(
        self, path: str, source: AsyncIterable[bytes], *, mode: int = 0o644, user: str | None = None
    ) -> int:
        _refuse_user(user)
        async with self._at(path) as (afc, inner):
            await _refuse_directory(afc, inner, path)
            folder, name = posixpath.split(inner)
            if not name:
                raise InvalidArgument(f"{path} names no file")
            await self._note(afc, path, inner)
            await afc.make_directory(folder)
            part = f"{folder.rstrip('/')}/.{name}.{secrets.token_hex(4)}"
            try:
                size = await _fill(afc, part, source)
                await afc.rename(part, inner)
            except BaseException:
                await self._forget_part(path, part)
                raise
        return size

    async def list(self, path: str, *, depth: int = 1) -> Sequence[Entry]:
        if depth < 1:
            raise InvalidArgument(f"the depth of a list is 1 or more, and not {depth}")
        async with self._at(path) as (afc, inner):
            if not (await afc.info(inner)).is_directory:
                raise InvalidArgument(f"{path} on the device is no directory")
            found: list[Entry] = []
            await _walk(afc, inner, path.rstrip("/"), depth, found)
        return sorted(found, key=lambda entry: entry.path)

    async def stat(self, path: str) -> Entry:
        async with self._at(path) as (afc, inner):
            return _entry(posixpath.normpath(path), await afc.info(inner))

    async def mkdir(self, path: str, *, mode: int = 0o755, user: str | None = None) -> Entry:
        _refuse_user(user)
        async with self._at(path) as (afc, inner):
            if await _info(afc, inner) is not None:
                raise AlreadyExists(f"{path} is on the device already")
            await self._note(afc, path, inner)
            await afc.make_directory(inner)
            return _entry(posixpath.normpath(path), await afc.info(inner))

    async def remove(self, path: str) -> None:
        async with self._at(path) as (afc, inner):
            await afc.info(inner)
            if inner == "/":
                raise InvalidArgument("the root of the device's files cannot be removed")
            await afc.remove_tree(inner)

    @contextlib.asynccontextmanager
    async def _at(self, path: str) -> AsyncIterator[tuple[Afc, str]]:
        """AFC on the folder that a path is in, and the path inside."""
        async with self.link.verb():
            wire, inner = await self._open(path)
            try:
                yield Afc(wire), inner
            finally:
                await wire.aclose()

    async def _open(self, path: str) -> tuple[Wire, str]:
        inner = posixpath.normpath(check_absolute(path))
        if inner.startswith("//"):
            inner = inner[1:]
        if inner.startswith("/@"):
            bundle, _, rest = inner[2:].partition("/")
            return await open_container(self.link, bundle), f"/{rest}"
        return await self.link.open(services.AFC), inner

    async def _note(self, afc: Afc, path: str, inner: str) -> None:
        """Note the topmost part of a path that is not there yet; an app's own files go with the app."""
        if path.lstrip("/").startswith("@"):
            return
        parts = inner.strip("/").split("/")
        for count in range(1, len(parts) + 1):
            place = "/" + "/".join(parts[:count])
            if await _info(afc, place) is None:
                await self.ledger.note_path(self.udid, place)
                return

    async def _forget_part(self, path: str, part: str) -> None:
        """Remove a half-written file, on a connection of its own: that of the writing may be half-way through an
        operation. What cannot be removed now is removed when the lease ends."""
        removed = False
        with trio.move_on_after(CLEAN_UP_SECONDS, shield=True):
            with contextlib.suppress(AnvilError):  # the device has gone, or is still busy with the file
                async with self._at(path) as (afc, _):
                    if await _info(afc, part) is not None:
                        await afc.remove(part)
                    removed = True
        if not removed and not path.lstrip("/").startswith("@"):
            with trio.CancelScope(shield=True):
                await self.ledger.note_path(self.udid, part)


class AfcFile(trio.abc.ReceiveStream):
    """A file on the device, read as a stream. It has a connection of its own."""

    def __init__(self, link: Link, afc: Afc, handle: int, path: str) -> None:
        self._link = link
        self._afc = afc
        self._handle = handle
        self._path = path
        self._kept = b""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if not self._kept:
            async with self._link.verb():
                self._kept = await self._afc.read(self._handle, self._path)
        data = self._kept if max_bytes is None else self._kept[:max_bytes]
        self._kept = self._kept[len(data) :]
        return data

    async def aclose(self) -> None:
        await self._afc.aclose()


async def open_container(link: Link, bundle: str) -> Wire:
    """Open the folder of an app. Raises NotFound for an app that is not there or not signed for development."""
    wire = await link.open(services.HOUSE_ARREST)
    try:
        await services.enter_container(wire, bundle)
    except services.AppRefused as error:
        await wire.aclose()
        raise NotFound(
            f"the folder of {bundle} cannot be opened: it is not installed, or not signed for development ({error})"
        ) from error
    except BaseException:
        await wire.aclose()
        raise
    return wire


async def remove_if_there(afc: Afc, path: str) -> None:
    """Remove a path with all in it; one that has gone is no error."""
    try:
        await afc.remove_tree(path)
    except AfcError as error:
        if error.status != AfcStatus.NOT_FOUND:
            raise


async def _refuse_directory(afc: Afc, inner: str, path: str) -> None:
    info = await _info(afc, inner)
    if info is not None and info.is_directory:
        raise InvalidArgument(f"{path} on the device is a directory")


def _refuse_user(user: str | None) -> None:
    if user is not None:
        raise InvalidArgument("files of this platform have no users to choose from: leave the user out")


async def _info(afc: Afc, path: str) -> AfcInfo | None:
    try:
        return await afc.info(path)
    except AfcError as error:
        if error.status == AfcStatus.NOT_FOUND:
            return None
        raise


async def _fill(afc: Afc, path: str, source: AsyncIterable[bytes]) -> int:
    handle = await afc.open(path, AfcMode.WRITE_NEW)
    size = 0
    async for chunk in source:
        await afc.write(handle, path, chunk)
        size += len(chunk)
    await afc.close(handle, path)
    return size


async def _walk(afc: Afc, inner: str, shown: str, depth: int, found: list[Entry]) -> None:
    for name in await afc.list(inner):
        below = f"{inner.rstrip('/')}/{name}"
        info = await _info(afc, below)
        if info is not None:  # removed since it was listed
            found.append(_entry(f"{shown}/{name}", info))
            if info.is_directory and depth > 1:
                await _walk(afc, below, f"{shown}/{name}", depth - 1, found)


def _entry(path: str, info: AfcInfo) -> Entry:
    kind = KINDS.get(info.kind, EntryType.OTHER)
    return Entry(
        path=path,
        name=posixpath.basename(path) or "/",
        type=kind,
        size=info.size,
        mode=MODES.get(kind, 0o777),
        modified=info.modified,
        target=info.target,
    )
