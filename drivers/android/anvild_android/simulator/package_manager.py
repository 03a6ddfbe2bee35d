"""``pm``, which is also ``cmd package``: what is installed, and what changes it."""

from __future__ import annotations

import contextlib

from .apk import Refused
from .calls import Call, Handler
from .packages import Packages
from .spec import DeviceSpec

__all__ = ["PackageManager"]

SYSTEM_APPS = ("android", "com.android.settings", "com.android.shell", "com.android.systemui")


class PackageManager:
    """The tool of one device; ``installer`` are the verbs that install."""

    def __init__(self, spec: DeviceSpec, packages: Packages, installer: dict[str, Handler]) -> None:
        self._spec = spec
        self._packages = packages
        self._verbs: dict[str, Handler] = {
            **installer,
            "uninstall": self._uninstall,
            "list": self._list,
            "path": self._path,
            "clear": self._clear,
            "resolve-activity": self._resolve_activity,
            "grant": self._accept_known,
            "revoke": self._accept_known,
        }

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

    async def _uninstall(self, call: Call) -> int:
        user = call.option("--user")
        keep = call.flag("-k")
        name = call.arguments[0] if call.arguments else ""
        if name not in self._packages.installed:
            raise Refused(f"not installed for {user}" if user else "DELETE_FAILED_INTERNAL_ERROR")
        await self._packages.remove(name, keep_data=keep)
        await call.say("Success")
        return 0

    async def _clear(self, call: Call) -> int:
        call.option("--user")
        name = call.arguments[0] if call.arguments else ""
        if name not in self._packages.installed:
            await call.say("Failed")
            return 1
        await self._packages.clear(name)
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
                for name, app in sorted(self._packages.installed.items())
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
        for name in sorted({*SYSTEM_APPS, *self._packages.installed}):
            app = self._packages.installed.get(name)
            if (third and app is None) or (system and app is not None) or not all(each in name for each in wanted):
                continue
            line = f"package:{app.path if app else f'/system/app/{name}.apk'}={name}" if paths else f"package:{name}"
            line += f" versionCode:{app.manifest.version_code if app else self._spec.sdk}" if codes else ""
            lines.append(line + (f" uid:{app.user_id if app else 1000}" if users else ""))
        return lines

    async def _path(self, call: Call) -> int:
        call.option("--user")
        found = self._packages.installed.get(call.arguments[0] if call.arguments else "")
        if found is None:
            return 1
        await call.say(f"package:{found.path}")
        return 0

    async def _resolve_activity(self, call: Call) -> int:
        call.flag("--brief")
        for option in ("-a", "-c", "--user"):
            call.option(option)
        found = self._packages.installed.get(call.arguments[-1] if call.arguments else "")
        if found is None or found.manifest.launcher is None:
            await call.say("No activity found")
            return 0
        name = found.manifest.launcher.removeprefix(found.manifest.package)
        await call.say(f"priority=0 preferredOrder=0 match=0x108000\n{found.manifest.package}/{name}")
        return 0

    async def _accept_known(self, call: Call) -> int:
        if not call.arguments or call.arguments[0] not in self._packages.installed:
            await call.complain(f"java.lang.IllegalArgumentException: Unknown package: {' '.join(call.arguments[:1])}")
            return 255
        return 0

    async def dump(self, call: Call) -> int:
        """``dumpsys package NAME``."""
        with contextlib.suppress(KeyError, IndexError):
            app = self._packages.installed[call.arguments[0]]
            about = app.manifest
            await call.say(
                f"Packages:\n  Package [{about.package}] (4c13a5d):\n    userId={app.user_id}\n"
                f"    codePath={app.folder}\n    versionCode={about.version_code} minSdk={about.min_sdk} targetSdk=34\n"
                f"    versionName={about.version}\n"
            )
            return 0
        await call.say("Unable to find package: " + " ".join(call.arguments))
        return 0
