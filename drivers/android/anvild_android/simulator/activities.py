"""The apps that run, and what starts and ends them: ``am``, which is also ``cmd activity``."""

from __future__ import annotations

import signal
import subprocess
from datetime import UTC, datetime

import msgspec
import trio

from .calls import Call, Handler
from .instrumentation import Instrument, run_instrumentation
from .log import Log
from .packages import Installed, Packages
from .root import CALLS, Root

__all__ = ["Activities"]

PROGRAM = f"#!/system/bin/sh\necho $$\nexec >/dev/null\nread never <{CALLS}/idle\n"
EXTRAS = ("--es", "--ei", "--ez", "--el", "--ef", "--eu", "--esa", "--eia")
VALUED = ("-a", "-c", "-d", "-t", "-f", "-p", "--user", "--display", "--windowingMode")


class _Running(msgspec.Struct):
    """An app's process, and its number in the device."""

    process: trio.Process
    pid: int


class _Crash(msgspec.Struct, frozen=True):
    time: datetime
    text: str


class Activities:
    """What runs of the apps of one device: each app is one real process of the device, named as its package."""

    def __init__(self, packages: Packages, root: Root, log: Log) -> None:
        self._packages = packages
        self._root = root
        self._log = log
        packages.stop = self.stop
        self._running: dict[str, _Running] = {}
        self._instruments: dict[str, trio.CancelScope] = {}
        self._crashes: list[_Crash] = []
        self._nursery: trio.Nursery | None = None
        self.foreground = "com.android.launcher"
        self._verbs: dict[str, Handler] = {
            "start": self._start,
            "start-activity": self._start,
            "force-stop": self._force_stop,
            "kill": self._force_stop,
            "instrument": self._instrument,
            "get-current-user": self._current_user,
            "broadcast": self._broadcast,
        }

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold what runs on without its caller, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    def restarted(self) -> None:
        """Forget all that ran before a reboot."""
        for scope in self._instruments.values():
            scope.cancel()
        self._running.clear()
        self.foreground = "com.android.launcher"

    async def am(self, call: Call) -> int:
        """Do what the first argument says."""
        verb = call.arguments.pop(0) if call.arguments else ""
        if verb not in self._verbs:
            await call.complain(f"Unknown command: {verb}")
            return 255
        return await self._verbs[verb](call)

    async def monkey(self, call: Call) -> int:
        """Start an app as a tap on its icon does: ``monkey -p PACKAGE -c CATEGORY COUNT``."""
        app = self._packages.installed.get(call.option("-p"))
        if app is None or app.manifest.launcher is None:
            await call.say("** No activities found to run, monkey aborted.")
            return 252
        await self._launch(app, app.manifest.launcher, "")
        await call.say("Events injected: 1")
        return 0

    # processes

    async def _begin(self, app: Installed) -> _Running:
        """Let an app's process run, if it does not yet. Raises OSError when it cannot."""
        name = app.manifest.package
        running = self._running.get(name)
        if running is not None and running.process.returncode is None:
            return running
        path = f"{app.folder}/{name}"
        await trio.to_thread.run_sync(self._root.files.write, path, PROGRAM.encode(), 0o755)
        process = await self._root.start([path], stdout=subprocess.PIPE)
        assert process.stdout is not None
        async with process.stdout:
            told = await process.stdout.receive_some()
        if not told:
            raise OSError(f"the process of {name} ended at once")
        running = self._running[name] = _Running(process, int(told))
        self._log.write("ActivityManager", f"Start proc {running.pid}:{name}/u0a{app.user_id}", buffer="system")
        return running

    def stop(self, package: str) -> None:
        """End an app's process, and with it the tests that run in it. One that does not run is no error."""
        scope = self._instruments.get(package)
        if scope is not None:
            scope.cancel()
        running = self._running.pop(package, None)
        if running is not None:
            self._root.signal(running.process, signal.SIGKILL)
            self._log.write("ActivityManager", f"Force stopping {package} appid=1 user=0", buffer="system")
        if self.foreground == package:
            self.foreground = "com.android.launcher"

    def crash(self, package: str, stack: str) -> None:
        """Let an app's process die of an exception, which the log and the drop box tell."""
        running = self._running.get(package)
        pid = running.pid if running else 0
        text = f"FATAL EXCEPTION: main\nProcess: {package}, PID: {pid}\n{stack}"
        self._log.write("AndroidRuntime", text, level="E", pid=pid, buffer="crash")
        self._crashes.append(_Crash(datetime.now(UTC), f"Process: {package}\nPID: {pid}\n\n{stack}\n"))
        self.stop(package)

    # the verbs

    async def _start(self, call: Call) -> int:
        wait, fresh = call.flag("-W"), call.flag("-S")
        component, package = call.option("-n"), call.option("-p")
        action = call.option("-a", "android.intent.action.MAIN")
        extras = self._take_extras(call)
        for option in VALUED:
            call.option(option)
        wanted = component or (call.arguments[-1] if call.arguments else package)
        package, _, activity = wanted.partition("/")
        app = self._packages.installed.get(package)
        activity = package + activity if activity.startswith(".") else activity
        if app is not None and not component:
            activity = activity or app.manifest.launcher or ""
        shown = f"{package}/{activity.removeprefix(package) if activity.startswith(package + '.') else activity}"
        await call.say(f"Starting: Intent {{ act={action} cmp={shown}{' (has extras)' if extras else ''} }}")
        if app is None or activity not in app.manifest.activities:
            await call.complain(
                f"Error type 3\nError: Activity class {{{package}/{activity}}} does not exist."
                if activity
                else "Error: Activity not started, unable to resolve Intent"
            )
            return 1
        if fresh:
            self.stop(package)
        await self._launch(app, activity, extras)
        if wait:
            await call.say(f"Status: ok\nLaunchState: COLD\nActivity: {shown}\nTotalTime: 120\nWaitTime: 125\nComplete")
        return 0

    def _take_extras(self, call: Call) -> str:
        found = []
        for option in EXTRAS:
            while option in call.arguments[:-2]:
                at = call.arguments.index(option)
                found.append("=".join(call.arguments[at + 1 : at + 3]))
                del call.arguments[at : at + 3]
        return ", ".join(found)

    async def _launch(self, app: Installed, activity: str, extras: str) -> None:
        name = app.manifest.package
        shown = f"{name}/{activity.removeprefix(name)}"
        words = f" (has extras) extras=[{extras}]" if extras else ""
        self._log.write("ActivityTaskManager", f"START u0 {{cmp={shown}{words}}} from uid 2000", buffer="system")
        running = await self._begin(app)
        self.foreground = name
        self._log.write("ActivityTaskManager", f"Displayed {shown} for user 0: +120ms", buffer="system")
        self._log.write(app.manifest.label or name, f"started {activity}", pid=running.pid, level="D")

    async def _force_stop(self, call: Call) -> int:
        call.option("--user")
        for package in call.arguments:
            self.stop(package)
        return 0

    async def _current_user(self, call: Call) -> int:
        await call.say("0")
        return 0

    async def _broadcast(self, call: Call) -> int:
        action = call.option("-a")
        await call.say(f"Broadcasting: Intent {{ act={action} flg=0x400000 }}\nBroadcast completed: result=0")
        return 0

    async def _instrument(self, call: Call) -> int:
        """Run tests. They run on when their caller goes: only the app's end ends them, as on a phone."""
        request = Instrument.read(call)
        refusal = request.refusal(self._packages.installed)
        if refusal:
            if request.raw:
                status = f"INSTRUMENTATION_STATUS: id=ActivityManagerService\nINSTRUMENTATION_STATUS: Error={refusal}"
                await call.say(f"{status}\nINSTRUMENTATION_STATUS_CODE: -1")
            await call.complain(f"android.util.AndroidException: INSTRUMENTATION_FAILED: {request.component}")
            return 1
        send, receive = trio.open_memory_channel[str](float("inf"))
        assert self._nursery is not None
        self._nursery.start_soon(self._run_tests, request, send)
        if request.wait:
            async with receive:
                async for text in receive:
                    await call.say(text.encode())
        return 0

    async def _run_tests(self, request: Instrument, send: trio.MemorySendChannel[str]) -> None:
        """Run tests in the process of the app under test; what they print goes to whoever still listens."""
        tester = self._packages.installed[request.package]
        target = self._packages.installed[request.target(tester.manifest)]
        name = target.manifest.package

        def tell(text: str) -> None:
            if not _closed(send):
                send.send_nowait(text)

        with send:
            self.stop(name)
            running = await self._begin(target)
            stack = None
            async with trio.open_nursery() as nursery:
                self._instruments[name] = nursery.cancel_scope
                nursery.start_soon(_cancel_after, running.process, nursery.cancel_scope)
                stack = await run_instrumentation(request, tester.manifest, self._log, running.pid, tell)
                nursery.cancel_scope.cancel()
            if self._instruments.get(name) is nursery.cancel_scope:
                del self._instruments[name]
            if stack != "":
                tell("INSTRUMENTATION_RESULT: shortMsg=Process crashed.\nINSTRUMENTATION_CODE: 0\n")
            if stack:
                self.crash(name, stack)
            elif self._running.get(name) is running:
                self.stop(name)

    async def drop_box(self, call: Call) -> int:
        """``dumpsys dropbox [--print] [TAG]``: what is known of crashes."""
        full = call.flag("--print", "-p")
        wanted = [each for each in call.arguments if not each.startswith("-")]
        found = [] if wanted and "data_app_crash".find(wanted[0]) < 0 else self._crashes
        lines = [f"Drop box contents: {len(self._crashes)} entries", "Max entries: 1000", ""]
        for crash in found:
            lines += ["=" * 40] if full else []
            lines.append(f"{crash.time:%Y-%m-%d %H:%M:%S} data_app_crash (text, {len(crash.text)} bytes)")
            lines.append(crash.text if full else f"    {crash.text.splitlines()[0]}")
        await call.say("\n".join(lines))
        return 0


async def _cancel_after(process: trio.Process, scope: trio.CancelScope) -> None:
    await process.wait()
    scope.cancel()


def _closed(channel: trio.MemorySendChannel[str]) -> bool:
    """Whether nobody listens at the other end."""
    return channel.statistics().open_receive_channels == 0
