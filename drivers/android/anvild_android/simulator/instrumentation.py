"""``am instrument``: the declared tests of a package, told as the platform's runner tells them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
import trio

from .apk import Manifest
from .calls import Call
from .log import Log
from .packages import Installed
from .spec import TestSpec

__all__ = ["Instrument", "run_instrumentation"]

CODES = {"passed": 0, "error": -1, "failed": -2, "skipped": -3, "assumption": -4}
EXCEPTIONS = {
    "error": "java.lang.IllegalStateException",
    "failed": "java.lang.AssertionError",
    "assumption": "org.junit.AssumptionViolatedException",
    "crash": "java.lang.RuntimeException",
}


class Instrument(msgspec.Struct, frozen=True):
    """What a call asks for."""

    component: str
    raw: bool
    wait: bool
    arguments: dict[str, str]

    @classmethod
    def read(cls, call: Call) -> Instrument:
        """Read the arguments of ``am instrument``."""
        raw, wait = call.flag("-r"), call.flag("-w")
        arguments = {}
        while "-e" in call.arguments[:-2]:
            at = call.arguments.index("-e")
            arguments[call.arguments[at + 1]] = call.arguments[at + 2]
            del call.arguments[at : at + 3]
        for option in ("--user", "--abi", "-p"):
            call.option(option)
        return cls(call.arguments[-1] if call.arguments else "", raw, wait, arguments)

    @property
    def package(self) -> str:
        """The package that holds the tests."""
        return self.component.partition("/")[0]

    def target(self, manifest: Manifest) -> str:
        """The package that the tests run in."""
        runner = self.component.partition("/")[2]
        runner = self.package + runner if runner.startswith(".") else runner
        return next((each.target for each in manifest.instrumentation if each.runner == runner), "")

    def refusal(self, installed: Mapping[str, Installed]) -> str:
        """Why the platform would not begin; nothing when it would."""
        app = installed.get(self.package)
        target = self.target(app.manifest) if app else ""
        if not target:
            return f"Unable to find instrumentation info for: ComponentInfo{{{self.component}}}"
        return "" if target in installed else f"Unable to find instrumentation target package: {target}"

    def select(self, tests: tuple[TestSpec, ...]) -> list[TestSpec]:
        """The tests that are asked for, by class, class and method, or package."""
        wanted = [each for each in self.arguments.get("class", "").split(",") if each]
        unwanted = [each for each in self.arguments.get("notClass", "").split(",") if each]
        packages = [each for each in self.arguments.get("package", "").split(",") if each]
        return [
            test
            for test in tests
            if (not wanted or any(test.name in (each, f"{each}#{_method(test)}") for each in wanted))
            and not any(test.name in (each, f"{each}#{_method(test)}") for each in unwanted)
            and (not packages or any(test.name.startswith(f"{each}.") for each in packages))
        ]


def _method(test: TestSpec) -> str:
    return test.name.partition("#")[2]


def _stack(test: TestSpec) -> str:
    name, _, method = test.name.partition("#")
    words = f": {test.message}" if test.message else ""
    file = name.rpartition(".")[2]
    return (
        f"{EXCEPTIONS[test.outcome]}{words}\n\tat {name}.{method}({file}.java:42)\n"
        "\tat java.lang.reflect.Method.invoke(Native Method)\n\tat androidx.test.runner.AndroidJUnitRunner.onStart("
        "AndroidJUnitRunner.java:463)"
    )


class _Teller:
    """Tells of the tests: for programs with all values, for people by the stream alone."""

    def __init__(self, tell: Callable[[str], None], *, raw: bool) -> None:
        self._tell = tell
        self._raw = raw

    def status(self, code: int, stream: str, **values: str | int) -> None:
        if not self._raw:
            self._tell(stream)
            return
        lines = [f"INSTRUMENTATION_STATUS: {name.rstrip('_')}={value}\n" for name, value in values.items()]
        lines.insert(2, f"INSTRUMENTATION_STATUS: stream={stream}\n")
        self._tell("".join(lines) + f"INSTRUMENTATION_STATUS_CODE: {code}\n")

    def result(self, text: str) -> None:
        head = "INSTRUMENTATION_RESULT: stream=" if self._raw else ""
        self._tell(f"{head}{text}\n" + ("INSTRUMENTATION_CODE: -1\n" if self._raw else "\n"))


async def run_instrumentation(
    request: Instrument, manifest: Manifest, log: Log, pid: int, tell: Callable[[str], None]
) -> str:
    """Run the tests that are asked for and tell of each as it begins and ends; return the stack of a crash, if any."""
    tests = request.select(manifest.tests)
    teller = _Teller(tell, raw=request.raw)
    start = trio.current_time()
    bad = 0
    last = ""
    for number, test in enumerate(tests, 1):
        name, _, method = test.name.partition("#")
        about: dict[str, str | int] = {
            "class_": name,
            "current": number,
            "id": "AndroidJUnitRunner",
            "numtests": len(tests),
            "test": method,
        }
        teller.status(1, "" if name == last else f"\n{name}:", **about)
        last = name
        if test.outcome == "skipped":
            teller.status(CODES["skipped"], "", **about)
            continue
        log.write("TestRunner", f"started: {method}({name})", pid=pid)
        for line in test.log:
            log.write("Test", line, pid=pid)
        await trio.sleep(test.seconds)
        if test.outcome == "hang":
            await trio.sleep_forever()
        if test.outcome == "crash":
            return _stack(test)
        if test.outcome == "passed":
            teller.status(0, ".", **about)
        else:
            bad += test.outcome != "assumption"
            stack = _stack(test)
            log.write("TestRunner", f"failed: {method}({name})\n{stack}", level="E", pid=pid)
            teller.status(CODES[test.outcome], f"\nError in {method}({name}):\n{stack}\n", **about, stack=stack)
        log.write("TestRunner", f"finished: {method}({name})", pid=pid)
    ran = sum(test.outcome != "skipped" for test in tests)
    end = f"FAILURES!!!\nTests run: {ran},  Failures: {bad}" if bad else f"OK ({ran} test{'s' * (ran != 1)})"
    teller.result(f"\n\nTime: {trio.current_time() - start:.3f}\n\n{end}\n\n")
    return ""
