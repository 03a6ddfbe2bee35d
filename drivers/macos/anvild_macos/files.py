"""Files on a Mac, by its own small tools."""

from __future__ import annotations

import posixpath
import secrets
from collections.abc import AsyncIterable, Sequence

import trio

from anvild.sdk import (
    AlreadyExists,
    DriverFault,
    Entry,
    EntryType,
    Files,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    check_absolute,
)

from .base import HostedSession
from .place import Done, refused
from .shell import script
from .transfer import open_file, upload

# The scripts say by their exit codes what has no word of its own in the tools' complaints.
EXISTS, IS_FOLDER, NO_FOLDER, MISSING, TOO_SHORT = 41, 42, 43, 44, 45

# stat of macOS: type, size, mode in octal, time, owner, group, target of a link, path. A word that no path can know
# ends the last two, since a path may hold anything.
FORMAT = "%HT%t%z%t%p%t%Fm%t%Su%t%Sg%t%Y%t{mark}%t%N%t{mark}"

PREPARE = f"""\
[ ! -d "$1" ] || exit {IS_FOLDER}
mkdir -p -- "$(dirname -- "$1")"
"""
COMMIT = f"""\
[ "$(($(wc -c <"$2")))" = "$3" ] || exit {TOO_SHORT}
[ ! -d "$1" ] || exit {IS_FOLDER}
chmod "$4" "$2" && mv -f -- "$2" "$1"
"""
LIST = f"""\
[ -e "$1" ] || [ -L "$1" ] || exit {MISSING}
[ -d "$1" ] || exit {NO_FOLDER}
ls -- "$1" >/dev/null || exit 1
find -H "$1" -mindepth 1 -maxdepth "$2" -exec stat -f "$3" {{}} + || true
"""
STAT = f"""\
[ -e "$1" ] || [ -L "$1" ] || exit {MISSING}
stat -f "$2" "$1"
"""
MAKE = f"""\
[ ! -e "$1" ] && [ ! -L "$1" ] || exit {EXISTS}
mkdir -p -- "$1" && chmod "$2" "$1"
"""
REMOVE = f"""\
[ -e "$1" ] || [ -L "$1" ] || exit {MISSING}
rm -rf -- "$1"
"""
TYPES = {
    "Regular File": EntryType.FILE,
    "Directory": EntryType.DIRECTORY,
    "Symbolic Link": EntryType.SYMLINK,
}


class MacFiles(HostedSession, Files):
    """Files of the account that the Mac is reached by."""

    async def read(self, path: str) -> trio.abc.ReceiveStream:
        return await open_file(self.place, check_absolute(path), "the file cannot be read")

    async def write(
        self, path: str, source: AsyncIterable[bytes], *, mode: int = 0o644, user: str | None = None
    ) -> int:
        """Write a file; it appears whole when the last byte has been counted. A connection that is cut half-way leaves
        a part beside it, named ``.anvild-….part``."""
        self._own(user)
        if check_absolute(path).endswith("/"):
            raise InvalidArgument(f"cannot write {path!r}: it names a directory")
        part = f"{posixpath.dirname(path)}/.anvild-{secrets.token_hex(8)}.part"
        await self._do(script(PREPARE, path), path, "cannot write")
        try:
            size = await upload(self.place, part, source, f"cannot write {path!r}")
            words = script(COMMIT, path, part, str(size), f"{mode & 0o7777:o}")
            await self._do(words, path, "cannot write")
        except BaseException:
            await self.forget(part)
            raise
        return size

    async def list(self, path: str, *, depth: int = 1) -> Sequence[Entry]:
        if depth < 1:
            raise InvalidArgument(f"the depth of a listing is at least 1, not {depth}")
        found = await self._entries(LIST, path, str(depth))
        return sorted(found, key=lambda entry: entry.path)

    async def stat(self, path: str) -> Entry:
        found = await self._entries(STAT, path)
        if len(found) != 1:
            raise DriverFault(f"stat on the Mac described {len(found)} files in place of {path!r}")
        return found[0]

    async def mkdir(self, path: str, *, mode: int = 0o755, user: str | None = None) -> Entry:
        self._own(user)
        await self._do(script(MAKE, check_absolute(path), f"{mode & 0o7777:o}"), path, "cannot make")
        return await self.stat(path)

    async def remove(self, path: str) -> None:
        if posixpath.normpath(check_absolute(path)) == "/":
            raise PermissionDenied("the root directory of a Mac is not removed")
        await self._do(script(REMOVE, path), path, "cannot remove")

    async def _entries(self, text: str, path: str, *words: str) -> Sequence[Entry]:
        mark = f"end-{secrets.token_hex(8)}"
        plain = posixpath.normpath(check_absolute(path))
        done = await self._do(script(text, plain, *words, FORMAT.format(mark=mark)), path, "cannot list")
        records = done.out.decode(errors="surrogateescape").split(f"\t{mark}\n")
        return [entry(record, mark) for record in records[:-1]]

    async def _do(self, words: Sequence[str], path: str, what: str) -> Done:
        done = await self.place.run(words)
        if done.code == EXISTS:
            raise AlreadyExists(f"{what} {path!r}: it exists")
        if done.code == IS_FOLDER:
            raise InvalidArgument(f"{what} {path!r}: it is a directory")
        if done.code == NO_FOLDER:
            raise InvalidArgument(f"{what} {path!r}: it is no directory")
        if done.code == MISSING:
            raise NotFound(f"{what} {path!r}: it is not there")
        if done.code == TOO_SHORT:
            raise ResourceExhausted(f"{what} {path!r}: not all of it arrived on the Mac")
        if done.code and (b"Not a directory" in done.err or b"File exists" in done.err):
            raise InvalidArgument(f"{what} {path!r}: {done.said}")
        if done.code:
            raise refused(f"{what} {path!r}", done)
        return done

    def _own(self, user: str | None) -> None:
        check_user(user, self.device.facts.get("user"))


def check_user(user: str | None, own: str | None) -> None:
    """Raise PermissionDenied for any account but the one that the Mac is reached by."""
    if user is not None and user != own:
        raise PermissionDenied(
            f"this Mac is reached as {own!r}, and what is done there is done as {own!r}: "
            f"name the Mac once more with the account {user!r} in [[drivers.macos.hosts]]"
        )


def entry(record: str, mark: str) -> Entry:
    """Read one entry of :data:`FORMAT`. Raises DriverFault."""
    try:
        told, path = record.split(f"\t{mark}\t")
        kind, size, mode, modified, owner, group, target = told.split("\t", 6)
        return Entry(
            path=path,
            name=posixpath.basename(path) or "/",
            type=TYPES.get(kind, EntryType.OTHER),
            size=int(size),
            mode=int(mode, 8) & 0o7777,
            modified=float(modified),
            owner=owner,
            group=group,
            target=target or None,
        )
    except ValueError as error:
        raise DriverFault(f"stat on the Mac answered in another form than that of macOS: {error}") from None
