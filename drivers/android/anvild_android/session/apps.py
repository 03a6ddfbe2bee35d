"""Apps: installed as a stream, driven by the package and activity managers."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterable, Mapping, Sequence

import trio

from anvild.sdk import App, Apps, DeviceFact, DeviceLost, InvalidArgument, NotFound, Unavailable, WrongState

from ..adb.errors import from_device
from ..fleet import Fleet
from ..link import Link
from ..scripts import FOLDER
from .base import AndroidBase
from .packages import check_package, install_error, parse_packages, parse_paths, uninstall_error

__all__ = ["APPS", "BEFORE", "INSTALLED", "AndroidApps"]

APPS = f"{FOLDER}/apps"
"""A file for each app that a lease has installed."""
BEFORE = f"{FOLDER}/before"
"""What was installed before an installation that may not have ended yet."""
INSTALLED = "pm list packages -3 -f"

MISSING = 44
NOTE = f"""
mkdir -p {APPS} || exit 1
[ -e {BEFORE} ] || {{ {INSTALLED} >{BEFORE}.new && mv {BEFORE}.new {BEFORE}; }} || exit 1
cat {BEFORE}
"""
CONFIRM = f'for each in "$@"; do : >{APPS}/"$each" || exit 1; done; rm -f {BEFORE}'
FORGET = f'rm -f {APPS}/"$1"'
GUARD = f'pm path "$1" >/dev/null 2>&1 || exit {MISSING}\n'
ANSWER_LIMIT = 65536
CHUNK = 65536
NO_REPLACE_SDK = 28
"""The API level from which the package manager replaces apps unless told otherwise."""
VERSIONS_SDK = 26
CLEAN_UP_SECONDS = 0.8


class AndroidApps(AndroidBase, Apps):
    """What a session installs is noted on the device, so that cleaning removes it whatever happens in between."""

    def __init__(self, device: DeviceFact, link: Link, fleet: Fleet) -> None:
        super().__init__(device, link, fleet)
        self._installing = trio.Lock()

    async def install_app(self, source: AsyncIterable[bytes], *, size: int, replace: bool = True) -> App | None:
        if size < 1:
            raise InvalidArgument(f"a package of {size} bytes is no app")
        async with contextlib.AsyncExitStack() as stack:
            if isinstance(source, AsyncGenerator):
                await stack.enter_async_context(contextlib.aclosing(source))
            await stack.enter_async_context(self._installing)
            before = parse_paths(await self.link.succeed("apps cannot be listed", NOTE))
            options = ["-t", *self._replacing(replace)]
            content = await stack.enter_async_context(contextlib.aclosing(_sized(source, size)))
            if "cmd" in self.link.features:
                said = await self._stream(content, size, options)
            else:
                said = await self._push(content, options)
            error = install_error(said)
            after = parse_paths(await self.link.succeed("apps cannot be listed", INSTALLED))
            await self.link.succeed("an app cannot be noted", CONFIRM, *sorted(after.keys() - before.keys()))
            if error is not None:
                raise error
            changed = [name for name, path in after.items() if before.get(name) != path]
            return await self._app(changed[0]) if len(changed) == 1 else None

    def _replacing(self, replace: bool) -> list[str]:
        if replace:
            return ["-r"]
        return ["-R"] if self.sdk >= NO_REPLACE_SDK else []

    async def _stream(self, source: AsyncIterable[bytes], size: int, options: Sequence[str]) -> str:
        """Install while the package arrives; nothing of it is kept on the device."""
        stream = await self.link.open(f"exec:cmd package install {' '.join(options)} -S {size}")
        try:
            try:
                async for chunk in source:
                    await stream.send_all(chunk)
                    if stream.has_news:  # a device says at once why it takes no more
                        break
            except DeviceLost:
                if not stream.has_news:
                    raise
            said = await stream.receive_all(ANSWER_LIMIT)
            if not said.strip():
                raise stream.lost()
        finally:
            with trio.CancelScope(shield=True):
                await stream.aclose()
        return said.decode("utf-8", "replace")

    async def _push(self, source: AsyncIterable[bytes], options: Sequence[str]) -> str:
        """Install from a file, on devices before Android 7."""
        path = f"{FOLDER}/{secrets.token_hex(8)}.apk"
        try:
            async with self.link.sync() as sync:
                await sync.write(path, source, mode=0o644)
            result = await self.link.shell('pm install "$@"', *options, path)
        finally:
            with trio.move_on_after(CLEAN_UP_SECONDS, shield=True), contextlib.suppress(DeviceLost, Unavailable):
                await self.link.shell('rm -f -- "$1"', path)
        return f"{result.text}\n{result.stderr.decode('utf-8', 'replace')}"

    async def _app(self, name: str) -> App:
        listed = await self._packages("-3", name)
        return next((app for app in listed if app.identifier == name), App(identifier=name))

    async def _packages(self, which: str, name: str = "") -> list[App]:
        words = ["pm", "list", "packages", which]
        if self.sdk >= VERSIONS_SDK:
            words.append("--show-versioncode")
        text = await self.link.succeed("apps cannot be listed", '"$@"', *words, *filter(None, [name]))
        return parse_packages(text, system=which == "-s")

    async def _do(self, app: str, what: str, text: str, *arguments: str) -> str:
        """Run a script on an app that must be installed."""
        result = await self.link.shell(GUARD + text, check_package(app), *arguments)
        if result.code == MISSING:
            raise NotFound(f"the app {app} is not installed")
        if result.code != 0 and not result.text:
            raise from_device(result.said, what, Unavailable)
        return f"{result.text}\n{result.stderr.decode('utf-8', 'replace')}"

    async def uninstall_app(self, app: str) -> None:
        error = uninstall_error(app, await self._do(app, f"{app} cannot be removed", 'pm uninstall "$1"'))
        if error is not None:
            raise error
        await self.link.shell(FORGET, app)

    async def launch_app(
        self, app: str, *, arguments: Sequence[str] = (), env: Mapping[str, str] | None = None
    ) -> None:
        """Start an app's main activity. ``arguments`` are ``NAME=TEXT`` and become extras of the intent."""
        if env:
            raise InvalidArgument("an android app cannot be given variables of the environment")
        extras: list[str] = []
        for each in arguments:
            name, equals, value = each.partition("=")
            if not equals or not name:
                raise InvalidArgument(f"an argument for an android app is NAME=TEXT, not {each!r}")
            extras += ["--es", name, value]
        said = await self._do(app, f"{app} cannot be started", 'app=$1; shift; am start -W "$@" "$app"', *extras)
        for line in said.splitlines():
            if line.startswith("Error"):
                raise WrongState(f"{app} cannot be started: {line.strip()}")

    async def stop_app(self, app: str) -> None:
        await self._do(app, f"{app} cannot be stopped", 'am force-stop "$1"')

    async def list_apps(self, *, system: bool = False) -> Sequence[App]:
        found = await self._packages("-3")
        if system:
            found += await self._packages("-s")
        return sorted(found, key=lambda app: app.identifier)

    async def clear_app(self, app: str) -> None:
        said = await self._do(app, f"{app} cannot be cleared", 'pm clear "$1"')
        if "Success" not in said:
            raise Unavailable(f"the device did not clear {app}: {' '.join(said.split())}")


async def _sized(source: AsyncIterable[bytes], size: int) -> AsyncGenerator[bytes, None]:
    """Pass a package on. Raises InvalidArgument when it is not as long as was said."""
    total = 0
    async for chunk in source:
        total += len(chunk)
        if total > size:
            raise InvalidArgument(f"the package is longer than the {size} bytes that were announced")
        for at in range(0, len(chunk), CHUNK):
            yield chunk[at : at + CHUNK]
    if total < size:
        raise InvalidArgument(f"the package has {total} bytes, and {size} were announced")
