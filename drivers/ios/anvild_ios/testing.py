"""Tests of apps, which a tool runs."""

from __future__ import annotations

import contextlib
import mimetypes
import secrets
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio

from anvild.sdk import (
    AnvilError,
    AppTests,
    Attachment,
    InvalidArgument,
    TestProgress,
    TestRequest,
    TestSummary,
)

from .apps import LinkedApps
from .children import Ended
from .crashes import LOCAL, LinkedCrashReports
from .xctest import ReportedAttachment, XcTestReader

__all__ = ["LinkedTests"]

ARGUMENTS = {"bundle", "kind"}
RUNNER = "-Runner"
MAX_NAME = 200
END_SECONDS = 0.7
TYPES = {"public.png": "image/png", "public.jpeg": "image/jpeg", "public.plain-text": "text/plain"}

Report = Callable[[TestProgress], Awaitable[None]]


class LinkedTests(LinkedApps, LinkedCrashReports, AppTests):
    """The verb of tests, which needs a tool. ``folder`` is the session's own on the host, and goes with it."""

    folder: Path

    async def run_tests(self, request: TestRequest, report: Report) -> TestSummary:
        tool = self.helper.require("runs tests")
        if unknown := sorted(set(request.arguments) - ARGUMENTS):
            raise InvalidArgument(f"unknown arguments {', '.join(unknown)}: there are {', '.join(sorted(ARGUMENTS))}")
        async with self.link.verb():
            runner = await self._known(request.target)
            words = tool.run_tests(request, request.arguments.get("bundle") or _bundle(runner))
            folder = Path(await trio.to_thread.run_sync(lambda: tempfile.mkdtemp(prefix="tests-", dir=self.folder)))
            reader = XcTestReader(report, lambda each: self._attach(each, folder, report))
            ended: Ended | None = None
            try:
                ended = await self.helper.ended(self.udid, words, env={"TMPDIR": str(folder)}, line=reader.line)
            finally:
                if ended is None and not self.link.plugging.gone.is_set():
                    await self._end_apps({request.target, request.app or request.target})
            await reader.end()
        return _summary(reader, ended)

    async def _end_apps(self, apps: set[str]) -> None:
        """The tool has been ended; what it had started on the device has not."""
        tool = self.helper.require("stops apps")
        with trio.move_on_after(END_SECONDS, shield=True), contextlib.suppress(AnvilError):
            async with trio.open_nursery() as nursery:
                for app in apps:
                    nursery.start_soon(self.helper.ended, self.udid, tool.stop(app))

    async def _attach(self, told: ReportedAttachment, folder: Path, report: Report) -> None:
        path = Path(told.path)
        there = await trio.to_thread.run_sync(
            lambda: path.resolve().is_relative_to(folder.resolve()) and path.is_file()
        )
        if not there:
            return  # a tool may name a file that it could not write
        kind = TYPES.get(told.uniform_type_identifier) or mimetypes.guess_type(told.name)[0]
        reference = f"{LOCAL}{secrets.token_hex(8)}"
        self.left[reference] = path
        size = (await trio.to_thread.run_sync(path.stat)).st_size
        name = (told.name or path.name).replace("/", "_")[:MAX_NAME]
        attachment = Attachment(
            reference=reference, name=name, media_type=kind or "application/octet-stream", size=size
        )
        await report(TestProgress(attachment=attachment))


def _bundle(runner: dict[str, Any]) -> str:
    """The test bundle inside a runner has the runner's name, as Xcode builds it."""
    name = str(runner.get("CFBundleExecutable") or "")
    if not name.endswith(RUNNER):
        raise InvalidArgument(
            f"{runner.get('CFBundleIdentifier')} does not look like a runner of tests (its program is {name!r}): "
            'name the test bundle inside it by the argument "bundle"'
        )
    return f"{name.removesuffix(RUNNER)}.xctest"


def _summary(reader: XcTestReader, ended: Ended) -> TestSummary:
    cases = len(reader.told)
    if ended.status == 0 and reader.concluded:
        return TestSummary(complete=True, reason=f"{cases} tests ran to their end", cases=cases)
    return TestSummary(complete=False, reason=f"the runner did not come to its end: {ended.reason}", cases=cases)
