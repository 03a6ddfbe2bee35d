"""AppTests: instrumentation, by ``am instrument``."""

from __future__ import annotations

import codecs
from collections.abc import Awaitable, Callable, Sequence

import trio

from anvild.sdk import AppTests, DeviceLost, InvalidArgument, NotFound, Stream, TestProgress, TestRequest, TestSummary

from ..adb.shell import Shell
from ..instrumentation import InstrumentationParser
from ..scripts import FOLDER
from .base import AndroidBase
from .packages import Instrumentation, parse_instrumentations

__all__ = ["RUNNING", "AndroidAppTests", "instrument_options"]

RUNNING = f"{FOLDER}/running"
"""The packages of the tests that run, so that cleaning can end them."""

RUN = f"""
mkdir -p {FOLDER} && printf '%s\\n' "$1" "$2" >{RUNNING} || exit 1
shift 2
am instrument -w -r "$@"; code=$?
rm -f {RUNNING}
exit "$code"
"""
STOP = f'am force-stop "$1"; am force-stop "$2"; rm -f {RUNNING}'
STOP_SECONDS = 0.9
LINE_LIMIT = 2**20
ERROR_LIMIT = 4096

Report = Callable[[TestProgress], Awaitable[None]]


class AndroidAppTests(AndroidBase, AppTests):
    """The target of a request is ``PACKAGE/RUNNER``, or ``PACKAGE`` alone where it has one runner."""

    async def run_tests(self, request: TestRequest, report: Report) -> TestSummary:
        options = instrument_options(request)
        runner = await self._find(request.target)
        shell = await self.link.start(RUN, runner.package, runner.target, *options, runner.component)
        done = False
        try:
            await shell.close_stdin()
            summary = await _follow(shell, report)
            done = True
        finally:
            with trio.move_on_after(STOP_SECONDS, shield=True):
                await shell.aclose()
                if not done:
                    await self._stop(runner)
        return summary

    async def _find(self, target: str) -> Instrumentation:
        package, _, name = target.partition("/")
        if name.startswith("."):
            name = package + name
        listed = await self.link.succeed("the test runners cannot be listed", "pm list instrumentation")
        found = [each for each in parse_instrumentations(listed) if each.package == package]
        fitting = [each for each in found if not name or name in (each.runner, each.package + each.runner)]
        if not fitting:
            there = ", ".join(each.component for each in found) or "none of that package"
            raise NotFound(f"the test runner {target!r} is not installed; there is {there}")
        if len(fitting) > 1:
            there = ", ".join(each.component for each in fitting)
            raise InvalidArgument(f"the package {package} has several test runners; name one: {there}")
        return fitting[0]

    async def _stop(self, runner: Instrumentation) -> None:
        try:
            await self.link.shell(STOP, runner.package, runner.target)
        except DeviceLost:
            return


def instrument_options(request: TestRequest) -> list[str]:
    """Return the options of ``am instrument`` for a request. Raises InvalidArgument for what it cannot pass."""
    if request.env:
        raise InvalidArgument("an android app cannot be given variables of the environment: use arguments")
    arguments = dict(request.arguments)
    for name, chosen in (("class", request.only), ("notClass", request.skip)):
        if chosen and name in arguments:
            raise InvalidArgument(f"the argument {name!r} and a choice of tests exclude one another")
        if chosen:
            arguments[name] = ",".join(_names(chosen))
    options = []
    for name, value in arguments.items():
        options += ["-e", name, value]
    return options


def _names(chosen: Sequence[str]) -> list[str]:
    for name in chosen:
        if not name or "," in name or name.strip() != name:
            raise InvalidArgument(f"{name!r} is no name of a test: it is CLASS or CLASS#TEST")
    return list(chosen)


async def _follow(shell: Shell, report: Report) -> TestSummary:
    parser = InstrumentationParser(trio.current_time)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    rest, errors = "", b""
    while (received := await shell.receive()) is not None:
        stream, data = received
        if stream is Stream.STDERR:
            errors = (errors + data)[:ERROR_LIMIT]
        text = decoder.decode(data) if stream is Stream.STDOUT else data.decode("utf-8", "replace")
        if text:
            await report(TestProgress(output=text))
        if stream is Stream.STDOUT:
            *lines, rest = (rest + text).split("\n")
            rest = rest[:LINE_LIMIT]
            for line in lines:
                for told in parser.feed(line):
                    await report(told)
    for told in parser.feed(rest) if rest else ():
        await report(told)
    why = errors.decode("utf-8", "replace").strip() or "am instrument failed" if shell.code else None
    left, summary = parser.finish(why)
    for told in left:
        await report(told)
    return summary
