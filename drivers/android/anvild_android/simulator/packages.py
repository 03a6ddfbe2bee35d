"""The apps of a device and what installs them: ``pm``, which is also ``cmd package``."""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
from collections.abc import Awaitable, Callable

import msgspec
import trio

from .apk import Manifest, Refused, read_apk
from .calls import Call
from .files import Files
from .log import Log
from .root import Root
from .spec import DeviceSpec

__all__ = ["Installed", "Packages"]

APPS = "/data/app"
SYSTEM_APPS = ("android", "com.android.settings", "com.android.shell", "com.android.systemui")
REPLACES_BY_DEFAULT = 28  # the platform's version since when an app is replaced without being told so
FIRST_USER_ID = 10_100
CHUNK = 1 << 20
FULL = (errno.ENOSPC, errno.EDQUOT)


class Installed(msgspec.Struct, frozen=True):
    """An app on the device."""

    manifest: Manifest
    folder: str
    user_id: int

    @property
    def path(self) -> str:
        """Where its base package lies."""
        return f"{self.folder}/base.apk"

    @property
    def data(self) -> str:
        """Where its data lies."""
        return f"/data/data/{self.manifest.package}"


class _Session(msgspec.Struct):
    """An installation that is being put together."""

    flags: frozenset[str]
    folder: str
    parts: list[str] = []


class Packages:
    """The apps of one device. ``stop``, set by what runs them, ends one before it is replaced or removed."""

    def __init__(self, spec: DeviceSpec, root: Root, log: Log) -> None:
        self._spec = spec
        self._root = root
        self._log = log
        self.stop: Callable[[str], None] = _nothing_runs
        self._sessions: dict[str, _Session] = {}
        self._next = 1
        self._users = FIRST_USER_ID
        self.installed: dict[str, Installed] = {}
        self._verbs: dict[str, Callable[[Call], Awaitable[int]]] = {
            "install": self._install,
            "install-create": self._install_create,
            "install-write": self._install_write,
            "install-commit": self._install_commit,
            "install-abandon": self._install_abandon,
            "uninstall": self._uninstall,
            "list": self._list,
            "path": self._path,
            "clear": self._clear,
            "resolve-activity": self._resolve_activity,
            "grant": self._accept_known,
            "revoke": self._accept_known,
        }

    @property
    def _files(self) -> Files:
        return self._root.files

    async def load(self) -> None:
        """Find the apps that lie on the device already, and remove what an interrupted installation has left."""
        for name, _found in await trio.to_thread.run_sync(self._files.list, APPS):
            folder = f"{APPS}/{name}"
            try:
                manifest = await self._read(f"{folder}/base.apk")
            except (Refused, OSError):
                await trio.to_thread.run_sync(self._files.remove_tree, folder)
            else:
                self._add(manifest, folder)

    def _add(self, manifest: Manifest, folder: str) -> Installed:
        before = self.installed.get(manifest.package)
        self._users += before is None
        made = Installed(manifest, folder, before.user_id if before else self._users)
        self.installed[manifest.package] = made
        return made

    async def pm(self, call: Call) -> int:
        """Do what the first argument says."""
        verb = call.arguments.pop(0) if call.arguments else ""
        if verb not in self._verbs:
            await call.say(f"Unknown command: {verb}")
            return 255
        try:
            return await self._verbs[verb](call)
        except Refused as refusal:
            await call.say(f"Failure [{refusal}]")
            return 1

    # installation

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
                    await self._fitting(lambda content=content: _write(descriptor, content))  # type: ignore[misc]
        finally:
            os.close(descriptor)
        session.parts.append(posixpath.basename(name))

    async def _commit(self, session: _Session) -> None:
        """Make an app of what has arrived. Raises Refused."""
        manifests = [await self._read(f"{session.folder}/{part}") for part in session.parts]
        bases = [(part, each) for part, each in zip(session.parts, manifests, strict=True) if not each.split]
        if len(bases) != 1 or len({each.package for each in manifests}) != 1:
            raise Refused("INSTALL_FAILED_INVALID_APK", "Full install must include a base package")
        part, manifest = bases[0]
        self._check(manifest, session.flags)
        before = self.installed.get(manifest.package)
        folder = f"{APPS}/{manifest.package}-{os.urandom(4).hex()}"
        await trio.to_thread.run_sync(self._put, session.folder, part, folder, f"/data/data/{manifest.package}")
        self.stop(manifest.package)
        self._add(manifest, folder)
        if before is not None:
            await trio.to_thread.run_sync(self._files.remove_tree, before.folder)
        self._log.write("PackageManager", f"Package {manifest.package} codePath changed to {folder}", buffer="system")

    def _put(self, session: str, base: str, folder: str, data: str) -> None:
        self._files.move(f"{session}/{base}", f"{session}/base.apk")
        self._files.move(session, folder)
        self._files.make_folders(data)

    def _check(self, manifest: Manifest, flags: frozenset[str]) -> None:
        name, before = manifest.package, self.installed.get(manifest.package)
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

    async def _read(self, path: str) -> Manifest:
        return await trio.to_thread.run_sync(self._read_now, path)

    def _read_now(self, path: str) -> Manifest:
        with os.fdopen(self._files.open(path, os.O_RDONLY), "rb") as file:
            return read_apk(file)

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

    # what is installed

    async def _uninstall(self, call: Call) -> int:
        user = call.option("--user")
        keep = call.flag("-k")
        name = call.arguments[0] if call.arguments else ""
        found = self.installed.get(name)
        if found is None:
            raise Refused(f"not installed for {user}" if user else "DELETE_FAILED_INTERNAL_ERROR")
        self.stop(name)
        del self.installed[name]
        await trio.to_thread.run_sync(self._files.remove_tree, found.folder)
        if not keep:
            await trio.to_thread.run_sync(self._files.remove_tree, found.data)
        await call.say("Success")
        return 0

    async def _clear(self, call: Call) -> int:
        call.option("--user")
        found = self.installed.get(call.arguments[0] if call.arguments else "")
        if found is None:
            await call.say("Failed")
            return 1
        self.stop(found.manifest.package)
        await trio.to_thread.run_sync(self._files.remove_tree, found.data)
        await trio.to_thread.run_sync(self._files.make_folders, found.data)
        await call.say("Success")
        return 0

    async def _list(self, call: Call) -> int:
        what = call.arguments.pop(0) if call.arguments else ""
        call.option("--user")
        if what in ("package", "packages"):
            lines = self._listed(call)
        elif what == "instrumentation":
            wanted = [each for each in call.arguments if not each.startswith("-")]
            lines = [
                f"instrumentation:{name}/{each.runner} (target={each.target})"
                for name, app in sorted(self.installed.items())
                for each in app.manifest.instrumentation
                if not wanted or each.target in wanted
            ]
        elif what == "users":
            lines = ["Users:", "\tUserInfo{0:Owner:4c13} running"]
        elif what == "features":
            lines = ["feature:android.hardware.touchscreen", "feature:android.hardware.wifi"]
        else:
            await call.complain(f"Error: unknown list type '{what}'")
            return 1
        await call.say("".join(f"{line}\n" for line in lines).encode())
        return 0

    def _listed(self, call: Call) -> list[str]:
        third, system = call.flag("-3"), call.flag("-s")
        paths, codes, users = call.flag("-f"), call.flag("--show-versioncode"), call.flag("-U")
        wanted = [each for each in call.arguments if not each.startswith("-")]
        lines = []
        for name in sorted({*SYSTEM_APPS, *self.installed}):
            app = self.installed.get(name)
            if (third and app is None) or (system and app is not None) or not all(each in name for each in wanted):
                continue
            line = f"package:{app.path if app else f'/system/app/{name}.apk'}={name}" if paths else f"package:{name}"
            line += f" versionCode:{app.manifest.version_code if app else self._spec.sdk}" if codes else ""
            lines.append(line + (f" uid:{app.user_id if app else 1000}" if users else ""))
        return lines

    async def _path(self, call: Call) -> int:
        call.option("--user")
        found = self.installed.get(call.arguments[0] if call.arguments else "")
        if found is None:
            return 1
        await call.say(f"package:{found.path}")
        return 0

    async def _resolve_activity(self, call: Call) -> int:
        call.flag("--brief")
        for option in ("-a", "-c", "--user"):
            call.option(option)
        found = self.installed.get(call.arguments[-1] if call.arguments else "")
        if found is None or found.manifest.launcher is None:
            await call.say("No activity found")
            return 0
        name = found.manifest.launcher.removeprefix(found.manifest.package)
        await call.say(f"priority=0 preferredOrder=0 match=0x108000\n{found.manifest.package}/{name}")
        return 0

    async def _accept_known(self, call: Call) -> int:
        if not call.arguments or call.arguments[0] not in self.installed:
            await call.complain(f"java.lang.IllegalArgumentException: Unknown package: {' '.join(call.arguments[:1])}")
            return 255
        return 0

    async def dump(self, call: Call) -> int:
        """``dumpsys package NAME``."""
        with contextlib.suppress(KeyError, IndexError):
            app = self.installed[call.arguments[0]]
            about = app.manifest
            await call.say(
                f"Packages:\n  Package [{about.package}] (4c13a5d):\n    userId={app.user_id}\n"
                f"    codePath={app.folder}\n    versionCode={about.version_code} minSdk={about.min_sdk} targetSdk=34\n"
                f"    versionName={about.version}\n"
            )
            return 0
        await call.say("Unable to find package: " + " ".join(call.arguments))
        return 0


def _nothing_runs(_package: str) -> None:
    """Apps are ended by this where nothing can run them."""


def _write(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
