"""Files: the sync service, and the shell for what it cannot do."""

from __future__ import annotations

import builtins
import contextlib
import posixpath
import secrets
import stat
from collections.abc import AsyncGenerator, AsyncIterable, Sequence

import trio

from anvild.sdk import (
    DeviceLost,
    Entry,
    EntryType,
    Files,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unavailable,
    check_absolute,
)

from ..adb.errors import from_device
from ..adb.sync import Status, SyncFile, SyncStream
from .base import AndroidBase

__all__ = ["AndroidFiles"]

LIST_LIMIT = 200_000
CLEAN_UP_SECONDS = 0.8

FIND_PLACE = """
if [ -d "$1" ]; then echo "it is a directory: Is a directory" >&2; exit 1; fi
place=${1%/*}
while [ -n "$place" ] && [ ! -e "$place" ] && [ ! -L "$place" ]; do place=${place%/*}; done
echo "${place:-/}/."
"""
"""Prints the deepest folder above $1 that exists."""

PUT = 'mkdir -p -- "${2%/*}/" && { chmod "$3" "$1" 2>/dev/null; mv -f -- "$1" "$2"; }'
"""Puts the file $1 to its place $2, whose folders may be missing, with the mode $3: adbd gives all users what the
owner has. Some file systems have no modes, which is no failure; what became of it is told by stat."""

TARGETS = 'for each in "$@"; do readlink -- "$each" || echo; done'
READABLE = '[ -r "$1" ] || { echo "Permission denied" >&2; exit 1; }'
MAKE = """
if [ -e "$1" ] || [ -L "$1" ]; then echo "File exists" >&2; exit 1; fi
mkdir -p -- "$1" && chmod "$2" "$1"
"""
REMOVE = """
if [ ! -e "$1" ] && [ ! -L "$1" ]; then echo "No such file or directory" >&2; exit 1; fi
rm -rf -- "$1"
"""

USERS = {0: "root", 1000: "system", 1001: "radio", 1004: "input", 1007: "log", 1013: "media", 1015: "sdcard_rw"} | {
    1023: "media_rw",
    1028: "sdcard_r",
    1078: "ext_data_rw",
    2000: "shell",
    9997: "everybody",
}
"""The fixed accounts of the platform that own what a shell can see; those of apps are u0_aN."""
FIRST_APP = 10000
LAST_APP = 19999
ONE_USER = 100000


def account(number: int | None) -> str | None:
    """Return the name of an account by its number, as the device's own tools give it."""
    if number is None:
        return None
    user, app = divmod(number, ONE_USER)
    if FIRST_APP <= app <= LAST_APP:
        return f"u{user}_a{app - FIRST_APP}"
    return USERS.get(number, str(number))


Found = builtins.list[tuple[str, Status]]


class AndroidFiles(AndroidBase, Files):
    """Files as the user of adb's shell may touch them."""

    async def read(self, path: str) -> SyncFile:
        sync = await self.link.open_sync()
        try:
            return await sync.read(check_absolute(path))
        except BaseException:
            with trio.CancelScope(shield=True):
                await sync.aclose()
            raise

    async def write(
        self, path: str, source: AsyncIterable[bytes], *, mode: int = 0o644, user: str | None = None
    ) -> int:
        """Write a file beside its place, or above it where folders are missing, and rename it."""
        async with contextlib.AsyncExitStack() as stack:
            if isinstance(source, AsyncGenerator):
                await stack.enter_async_context(contextlib.aclosing(source))
            self._check_owner(user)
            place = await self._succeed(path, FIND_PLACE, check_absolute(path).rstrip("/") or "/")
            partial = f"{place}anvil-{secrets.token_hex(8)}"
            try:
                async with self.link.sync() as sync:
                    size = await sync.write(partial, source, mode=mode & 0o7777)
                await self._succeed(path, PUT, partial, path, f"{mode & 0o7777:o}")
            except BaseException:
                with trio.move_on_after(CLEAN_UP_SECONDS, shield=True), contextlib.suppress(DeviceLost, Unavailable):
                    await self.link.shell('rm -f -- "$1"', partial)
                raise
            return size

    def _check_owner(self, user: str | None) -> None:
        if user not in (None, "shell"):
            raise PermissionDenied(f"files belong to the user shell on an android device, and cannot be {user!r}'s")

    async def _succeed(self, path: str, text: str, *arguments: str) -> str:
        result = await self.link.shell(text, *arguments)
        if result.code != 0:
            raise from_device(result.said, path)
        return result.text

    async def list(self, path: str, *, depth: int = 1) -> Sequence[Entry]:
        if depth < 1:
            raise InvalidArgument(f"the depth of a listing is at least 1, not {depth}")
        top = check_absolute(path).rstrip("/")
        found: Found = []
        async with self.link.sync() as sync:
            try:
                status = await sync.stat(top or "/", follow=True)
            except NotFound:
                await sync.stat(top or "/")  # it is there after all, and is no directory
                raise InvalidArgument(f"{path} is no directory") from None
            if not status.is_directory:
                raise InvalidArgument(f"{path} is no directory")
            await self._walk(sync, top, depth, found, top=True)
        return await self._entries(sorted(found))

    async def _walk(self, sync: SyncStream, folder: str, depth: int, found: Found, *, top: bool = False) -> None:
        listed = await sync.list(f"{folder}/")
        if top and not listed:
            await self._succeed(folder or "/", READABLE, f"{folder}/")
        folders = []
        for name, status in listed:
            if name in (".", ".."):
                continue
            path = f"{folder}/{name}"
            found.append((path, status))
            if depth > 1 and status.is_directory:
                folders.append(path)
        if len(found) > LIST_LIMIT:
            raise InvalidArgument(f"{folder} holds more than {LIST_LIMIT} entries: list its parts")
        for path in folders:
            await self._walk(sync, path, depth - 1, found)

    async def stat(self, path: str) -> Entry:
        place = check_absolute(path).rstrip("/") or "/"
        async with self.link.sync() as sync:
            status = await sync.stat(place)
        (entry,) = await self._entries([(place, status)])
        return entry

    async def _entries(self, found: Sequence[tuple[str, Status]]) -> Sequence[Entry]:
        links = [path for path, status in found if stat.S_ISLNK(status.mode)]
        targets: dict[str, str] = {}
        for at in range(0, len(links), 100):
            some = links[at : at + 100]
            told = (await self.link.shell(TARGETS, *some)).stdout.decode("utf-8", "surrogateescape").split("\n")
            targets.update(zip(some, told, strict=False))
        return [_entry(path, status, targets.get(path)) for path, status in found]

    async def mkdir(self, path: str, *, mode: int = 0o755, user: str | None = None) -> Entry:
        self._check_owner(user)
        await self._succeed(path, MAKE, check_absolute(path), f"{mode & 0o7777:o}")
        return await self.stat(path)

    async def remove(self, path: str) -> None:
        if posixpath.normpath(check_absolute(path)) == "/":
            raise InvalidArgument("the whole file system of a device is not removed")
        await self._succeed(path, REMOVE, path.rstrip("/"))


def _entry(path: str, status: Status, target: str | None) -> Entry:
    kinds = {stat.S_IFREG: EntryType.FILE, stat.S_IFDIR: EntryType.DIRECTORY, stat.S_IFLNK: EntryType.SYMLINK}
    return Entry(
        path=path,
        name=posixpath.basename(path) or "/",
        type=kinds.get(stat.S_IFMT(status.mode), EntryType.OTHER),
        size=status.size,
        mode=stat.S_IMODE(status.mode),
        modified=float(status.modified),
        owner=account(status.user),
        group=account(status.group),
        target=target or None,
    )
