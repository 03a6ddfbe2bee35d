"""How apps come onto a device: in one call, or in a session of several parts."""

from __future__ import annotations

import errno
import os
import posixpath
from collections.abc import Callable

import msgspec
import trio

from .apk import Manifest, Refused
from .calls import Call, Handler
from .files import Files, write_whole
from .log import Log
from .packages import APPS, Packages
from .spec import DeviceSpec

__all__ = ["Installer"]

REPLACES_BY_DEFAULT = 28  # the platform's version since when an app is replaced without being told so
CHUNK = 1 << 20
FULL = (errno.ENOSPC, errno.EDQUOT)


class _Session(msgspec.Struct):
    """An installation that is being put together."""

    flags: frozenset[str]
    folder: str
    parts: list[str] = []


class Installer:
    """The verbs of ``pm`` that install. Each raises Refused with the platform's code."""

    def __init__(self, spec: DeviceSpec, packages: Packages, log: Log) -> None:
        self._spec = spec
        self._packages = packages
        self._log = log
        self._sessions: dict[str, _Session] = {}
        self._next = 1
        self.verbs: dict[str, Handler] = {
            "install": self._install,
            "install-create": self._install_create,
            "install-write": self._install_write,
            "install-commit": self._install_commit,
            "install-abandon": self._install_abandon,
        }

    @property
    def _files(self) -> Files:
        return self._packages.files

    async def _install(self, call: Call) -> int:
        """``install [FLAGS] [-S SIZE] [PATH]``: from a file of the device, or SIZE bytes of the input."""
        size = call.option("-S")
        session = await self._new_session(call, int(size or 0))
        try:
            sources = [each for each in call.arguments if each != "-"]
            if sources:
                for source in sources:
                    path = posixpath.join(call.directory, source)
                    await trio.to_thread.run_sync(self._copy, path, session)
            elif size:
                await self._receive(call, session, int(size), "base.apk")
            else:
                raise Refused("INSTALL_FAILED_INVALID_URI", "must either specify a package size or an APK file")
            await self._commit(session)
        finally:
            await self._drop(session)
        await call.say("Success")
        return 0

    async def _new_session(self, call: Call, size: int) -> _Session:
        for option in ("-i", "--user", "--abi", "--install-location", "--install-reason", "--originating-uri", "-p"):
            call.option(option)
        flags = frozenset(each for each in call.arguments if each.startswith("-") and each != "-")
        call.arguments = [each for each in call.arguments if each not in flags]
        folder = f"{APPS}/vmdl{os.urandom(4).hex()}.tmp"
        session = _Session(flags, folder, [])
        await self._fitting(lambda: self._begin(folder, size))
        return session

    def _begin(self, folder: str, size: int) -> None:
        descriptor = self._files.open(APPS, os.O_RDONLY | os.O_DIRECTORY)
        try:
            room = os.fstatvfs(descriptor)
        finally:
            os.close(descriptor)
        if size > room.f_bavail * room.f_frsize:
            raise OSError(errno.ENOSPC, "Failed to allocate the session's size")
        self._files.make_folders(folder)

    async def _fitting(self, action: Callable[[], None]) -> None:
        """Do something that may fill the device."""
        try:
            await trio.to_thread.run_sync(action)
        except OSError as error:
            if error.errno in FULL:
                raise Refused("INSTALL_FAILED_INSUFFICIENT_STORAGE", "not enough space") from None
            raise Refused("INSTALL_FAILED_MEDIA_UNAVAILABLE", error.strerror or "") from None

    def _copy(self, path: str, session: _Session) -> None:
        try:
            content = self._files.read(path)
        except OSError as error:
            raise Refused("INSTALL_FAILED_INVALID_URI", f"Unable to open file: {path}: {error.strerror}") from None
        try:
            self._files.write(f"{session.folder}/{posixpath.basename(path)}", content)
        except OSError:
            raise Refused("INSTALL_FAILED_INSUFFICIENT_STORAGE", "not enough space") from None
        session.parts.append(posixpath.basename(path))

    async def _receive(self, call: Call, session: _Session, size: int, name: str) -> None:
        """Take a part of an app from the input."""
        path = f"{session.folder}/{posixpath.basename(name)}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        descriptor = await trio.to_thread.run_sync(self._files.open, path, flags, 0o644)
        try:
            waiting = bytearray()
            while size:
                chunk = await call.stdin.receive_some(min(size, CHUNK))
                if not chunk:
                    raise Refused("INSTALL_FAILED_INTERNAL_ERROR", "the package's end has not arrived")
                size -= len(chunk)
                waiting += chunk
                if len(waiting) >= CHUNK or not size:
                    content, waiting = bytes(waiting), bytearray()
                    await self._fitting(lambda content=content: write_whole(descriptor, content))  # type: ignore[misc]
        finally:
            os.close(descriptor)
        session.parts.append(posixpath.basename(name))

    async def _commit(self, session: _Session) -> None:
        """Make an app of what has arrived. Raises Refused."""
        manifests = [await self._packages.read(f"{session.folder}/{part}") for part in session.parts]
        bases = [(part, each) for part, each in zip(session.parts, manifests, strict=True) if not each.split]
        if len(bases) != 1 or len({each.package for each in manifests}) != 1:
            raise Refused("INSTALL_FAILED_INVALID_APK", "Full install must include a base package")
        part, manifest = bases[0]
        self._check(manifest, session.flags)
        folder = f"{APPS}/{manifest.package}-{os.urandom(4).hex()}"
        await trio.to_thread.run_sync(self._move, session.folder, part, folder)
        await self._packages.put(manifest, folder)
        self._log.write("PackageManager", f"Package {manifest.package} codePath changed to {folder}", buffer="system")

    def _move(self, session: str, base: str, folder: str) -> None:
        self._files.move(f"{session}/{base}", f"{session}/base.apk")
        self._files.move(session, folder)

    def _check(self, manifest: Manifest, flags: frozenset[str]) -> None:
        name, before = manifest.package, self._packages.installed.get(manifest.package)
        if manifest.min_sdk > self._spec.sdk:
            words = f"Requires newer sdk version #{manifest.min_sdk} (current version is #{self._spec.sdk})"
            raise Refused("INSTALL_FAILED_OLDER_SDK", words)
        if before is None:
            return
        replace = "-r" in flags or (self._spec.sdk >= REPLACES_BY_DEFAULT and "-R" not in flags)
        if not replace:
            words = f"Attempt to re-install {name} without first uninstalling."
            raise Refused("INSTALL_FAILED_ALREADY_EXISTS", words)
        if before.manifest.signer != manifest.signer:
            words = f"Existing package {name} signatures do not match newer version; ignoring!"
            raise Refused("INSTALL_FAILED_UPDATE_INCOMPATIBLE", words)
        if manifest.version_code < before.manifest.version_code and "-d" not in flags:
            words = f"Downgrade detected: Update version code {manifest.version_code} is older than current "
            raise Refused("INSTALL_FAILED_VERSION_DOWNGRADE", f"{words}{before.manifest.version_code}")

    async def _drop(self, session: _Session) -> None:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._files.remove_tree, session.folder)

    async def _install_create(self, call: Call) -> int:
        session = await self._new_session(call, int(call.option("-S") or 0))
        number, self._next = str(self._next), self._next + 1
        self._sessions[number] = session
        await call.say(f"Success: created install session [{number}]")
        return 0

    async def _install_write(self, call: Call) -> int:
        size = int(call.option("-S") or 0)
        session, name = self._session(call), call.arguments[1] if len(call.arguments) > 1 else "base.apk"
        sources = [each for each in call.arguments[2:] if each != "-"]
        if sources:
            await trio.to_thread.run_sync(self._copy, posixpath.join(call.directory, sources[0]), session)
        else:
            await self._receive(call, session, size, name)
        await call.say(f"Success: streamed {size} bytes")
        return 0

    def _session(self, call: Call) -> _Session:
        number = call.arguments[0] if call.arguments else ""
        if number not in self._sessions:
            raise Refused("INSTALL_FAILED_INTERNAL_ERROR", f"no install session {number}")
        return self._sessions[number]

    async def _install_commit(self, call: Call) -> int:
        session = self._session(call)
        del self._sessions[call.arguments[0]]
        try:
            await self._commit(session)
        finally:
            await self._drop(session)
        await call.say("Success")
        return 0

    async def _install_abandon(self, call: Call) -> int:
        session = self._session(call)
        del self._sessions[call.arguments[0]]
        await self._drop(session)
        await call.say("Success")
        return 0
