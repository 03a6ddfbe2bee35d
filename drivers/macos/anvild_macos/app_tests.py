"""Tests by Xcode: the runner's output as it comes, and its result bundle as the truth."""

from __future__ import annotations

import codecs
import posixpath
import secrets
from collections.abc import Awaitable, Callable

from anvild.sdk import (
    AppTests,
    InvalidArgument,
    NotFound,
    TestCase,
    TestProgress,
    TestRequest,
    TestStatus,
    TestSummary,
    Unavailable,
)

from .base import HostedSession
from .place import refused
from .shell import script
from .xcodebuild import OutputReader, command_line
from .xcresult import Exported, exported, media_type, summary, test_cases

PRODUCTS = "products"
JOINED = 'exec 2>&1; exec "$@"'
EXISTS = '[ -e "$1" ]'
EXPORT = 'out=$1; shift; "$@" >/dev/null && cat -- "$out/manifest.json"'
TESTS_FAILED = 65
ATTACHMENT_LIMIT = 500

Report = Callable[[TestProgress], Awaitable[None]]


class XcodeTests(HostedSession, AppTests):
    """Tests of an ``.xctestrun`` file, or of a scheme of a project.

    The target is a path on the Mac, or the name of an ``.xctestrun`` file among the test products that were installed
    on this device. Suites are called ``BUNDLE/CLASS``.
    """

    async def run_tests(self, request: TestRequest, report: Report) -> TestSummary:
        """Run tests. A case whose result differs in the result bundle from what the output said is told once more: the
        last word counts. The result bundle is handed over as a zip."""
        if self.machine.no_tests:
            raise Unavailable(self.machine.no_tests)
        target = await self._target(request.target)
        bundle = f"{await self.make_scratch()}/{secrets.token_hex(4)}.xcresult"
        words = command_line(request, target, self.udid, bundle)
        env = {f"TEST_RUNNER_{name}": value for name, value in request.env.items()}
        live: dict[str, TestStatus | None] = {}
        reader = OutputReader()
        child = await self.place.start(script(JOINED, *words), env=env)
        try:
            decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
            while chunk := await child.stdout.receive_some():
                text = decoder.decode(chunk)
                await report(TestProgress(output=text))
                for told in reader.feed(text):
                    if told.begun is not None:
                        live[told.begun] = None
                    if told.ended is not None:
                        live[f"{told.ended.suite}#{told.ended.name}"] = told.ended.status
                    await report(TestProgress(begun=told.begun, ended=told.ended))
            code = await child.wait()
        finally:
            await child.aclose()
        return await self._judge(bundle, code, reader.error, live, report)

    async def _target(self, target: str) -> str:
        path, mark, scheme = target.partition("#")
        if not path.startswith("/"):
            plain = posixpath.normpath(path)
            if plain.startswith(".."):
                raise InvalidArgument(f"the target {target!r} leaves the folder of the test products")
            path = f"{self.folder}/{PRODUCTS}/{plain}"
        done = await self.place.run(script(EXISTS, path))
        if done.code:
            raise NotFound(
                f"there is no {target!r} on the Mac: install the zip of the test products on this device first, or "
                "name an absolute path"
            )
        return path + mark + scheme

    async def _judge(
        self, bundle: str, code: int, error: str | None, live: dict[str, TestStatus | None], report: Report
    ) -> TestSummary:
        """Read the result bundle: tell what the output did not, hand over what is in it, and sum up."""
        tests = await self.place.run(["xcrun", "xcresulttool", "get", "test-results", "tests", "--path", bundle])
        if tests.code:
            return TestSummary(
                complete=False,
                reason=f"xcodebuild ended with {code} and left no results: {error or tests.said}",
                cases=len(live),
            )
        cases = test_cases(tests.out)
        for case in cases:
            name = f"{case.suite}#{case.name}"
            if name not in live:
                await report(TestProgress(begun=name))
            if live.get(name) is not case.status:
                await report(TestProgress(ended=case))
        await self._hand_over(bundle, report)
        totals = await self.demand(
            ["xcrun", "xcresulttool", "get", "test-results", "summary", "--path", bundle], "the results have no summary"
        )
        return judge(code, error, cases, summary(totals.out).result)

    async def _hand_over(self, bundle: str, report: Report) -> None:
        """Report the attachments of tests, and the result bundle itself."""
        folder = f"{bundle}.attachments"
        command = ["xcrun", "xcresulttool", "export", "attachments", "--path", bundle, "--output-path", folder]
        done = await self.place.run(script(EXPORT, folder, *command))
        files: list[Exported] = []
        if done.code == 0:
            files = exported(done.out)
        for each in files[:ATTACHMENT_LIMIT]:
            path = f"{folder}/{posixpath.basename(each.exported_file_name)}"
            await report(TestProgress(attachment=self.offer(path, each.name, each.media_type)))
        packed = await self.place.run(["ditto", "-c", "-k", "--keepParent", bundle, f"{bundle}.zip"])
        if packed.code:
            raise refused("the result bundle cannot be packed", packed)
        name = "results.xcresult.zip"
        await report(TestProgress(attachment=self.offer(f"{bundle}.zip", name, media_type(name))))


def judge(code: int, error: str | None, cases: list[TestCase], result: str) -> TestSummary:
    """Say how a runner ended that has left results."""
    count = {status: sum(case.status is status for case in cases) for status in TestStatus}
    failed = count[TestStatus.FAILED] + count[TestStatus.ERROR]
    told = f"{len(cases)} tests, {failed} failed, {count[TestStatus.SKIPPED]} skipped"
    if not cases:
        reason = f"no test ran, and xcodebuild ended with {code}: {error or result}"
    elif code == TESTS_FAILED and not failed:
        reason = f"{told}, yet xcodebuild failed: {error or result}"
    elif code not in (0, TESTS_FAILED):
        reason = f"{told}, and xcodebuild ended with {code}: {error or result}"
    else:
        return TestSummary(complete=True, reason=told, cases=len(cases))
    return TestSummary(complete=False, reason=reason, cases=len(cases))
