"""The kit sees what is wrong with a driver: each defect breaks the rule that is about it."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
import trio

from anvild.sdk import (
    AlreadyExists,
    DeviceStatus,
    Driver,
    Exec,
    Health,
    HealthState,
    NotFound,
    Recovery,
    RecoveryState,
    Sighting,
    Unavailable,
)
from anvild.sdk.testing import (
    RULES,
    ChildProcess,
    InProcess,
    Level,
    Profile,
    Report,
    Result,
    Rule,
    Verdict,
    examine,
)

QUICK = Profile(appear_seconds=0.2, change_seconds=0.2)


async def tried(kind: type[Driver], *rules: str, **more: Any) -> dict[str, Result]:
    """Try a driver by some rules alone."""
    chosen = [msgspec.structs.replace(rule, seconds=20) for rule in RULES if rule.name in rules]
    assert len(chosen) == len(rules)
    report = await examine(InProcess(kind), QUICK, rules=chosen, **more)
    return {each.rule: each for each in report.results}


async def test_the_driver_that_is_written_keeps_all_rules(lamp: ModuleType) -> None:
    heard: list[Result] = []
    report: Report = await examine(InProcess(lamp.LampDriver), on_result=heard.append)
    assert report.failures == ()
    assert report.grade is Level.PLATINUM
    assert (report.driver, report.version, report.place) == ("lamp", "0.1.0", "inprocess")
    assert tuple(heard) == report.results
    assert [each.rule for each in report.results] == [rule.name for rule in RULES]
    assert all(each.reason for each in report.results if each.verdict is Verdict.NOT_APPLICABLE)


Defect = Callable[[ModuleType], type[Driver]]
DEFECTS: dict[str, tuple[str, Defect]] = {}


def breaks(rule: str, told: str) -> Callable[[Defect], Defect]:
    """Mark a function that makes a driver with one defect: the rule that sees it, and a word of the reason."""

    def mark(defect: Defect) -> Defect:
        DEFECTS[defect.__name__] = (f"{rule}|{told}", defect)
        return defect

    return mark


def changed(lamp: ModuleType, **members: Any) -> type[Driver]:
    return type("LampDriver", (lamp.LampDriver,), members)


def with_session(lamp: ModuleType, **members: Any) -> type[Driver]:
    """The driver with another session class."""
    session = type("LampSession", (lamp.LampSession,), members)

    @asynccontextmanager
    async def opened(self: Any, device: Any, lease: Any) -> AsyncIterator[Any]:
        async with lamp.LampDriver.open(self, device, lease):
            yield session(self._device)

    return changed(lamp, open=opened)


def described(lamp: ModuleType, **fields: Any) -> type[Driver]:
    async def describe(self: Any) -> Any:
        return msgspec.structs.replace(await lamp.LampDriver.describe(self), **fields)

    return changed(lamp, describe=describe)


def reported(lamp: ModuleType, **fields: Any) -> type[Driver]:
    """The driver that reports its device with other facts."""

    async def watch(self: Any, report: Any) -> Any:
        device = msgspec.structs.replace(self._device.fact(), **fields)
        await report(Sighting(kind="seen", device=device))
        await trio.sleep_forever()

    return changed(lamp, watch=watch)


@breaks("describe.before-start", "no_such_field")
def a_description_that_raises(lamp: ModuleType) -> type[Driver]:
    async def describe(self: Any) -> Any:
        return self.context.no_such_field

    return changed(lamp, describe=describe)


@breaks("describe.before-start", "version")
def a_description_with_wrong_types(lamp: ModuleType) -> type[Driver]:
    return described(lamp, version=7)


@breaks("describe.types", "no-such-thing")
def a_capability_that_there_is_not(lamp: ModuleType) -> type[Driver]:
    return described(lamp, capabilities=("files", "rehearsal", "no-such-thing"))


@breaks("describe.name", "'other'")
def another_name(lamp: ModuleType) -> type[Driver]:
    return described(lamp, name="other")


@breaks("describe.health", "no sentence")
def a_health_without_words(lamp: ModuleType) -> type[Driver]:
    return described(lamp, health=Health(state=HealthState.HEALTHY, reason="ok"))


@breaks("describe.health", "unhealthy")
def a_start_that_hides_what_is_wrong(lamp: ModuleType) -> type[Driver]:
    return described(lamp, health=Health(state=HealthState.UNHEALTHY, reason="it is broken"))


@breaks("describe.what-is-declared", "'rehearsal' is implemented and not declared")
def more_than_it_declares(lamp: ModuleType) -> type[Driver]:
    return described(lamp, capabilities=("files",))


@breaks("describe.what-is-declared", "'provision' is declared and not implemented")
def less_than_it_declares(lamp: ModuleType) -> type[Driver]:
    return described(lamp, capabilities=("files", "rehearsal", "provision"))


@breaks("life.stop-without-start", "AttributeError")
def a_stop_that_needs_a_start(lamp: ModuleType) -> type[Driver]:
    async def stop(self: Any) -> None:
        self.started_at.isoformat()

    return changed(lamp, stop=stop)


@breaks("life.stop-after-failed-start", "within 1 s of being cancelled")
def a_start_that_cannot_be_cancelled(lamp: ModuleType) -> type[Driver]:
    async def start(self: Any) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(2.5)

    return changed(lamp, start=start)


@breaks("life.nothing-stays", "descriptors of process")
def a_life_that_leaks(lamp: ModuleType) -> type[Driver]:
    async def start(self: Any) -> None:
        LEAKED.append(os.open("/dev/null", os.O_RDONLY))

    return changed(lamp, start=start)


@breaks("open.hundred-times", "100 descriptors of process")
def a_session_that_leaks(lamp: ModuleType) -> type[Driver]:
    @asynccontextmanager
    async def opened(self: Any, device: Any, lease: Any) -> AsyncIterator[Any]:
        LEAKED.append(os.open("/dev/null", os.O_RDONLY))
        async with lamp.LampDriver.open(self, device, lease) as session:
            yield session

    return changed(lamp, open=opened)


@breaks("watch.appears", "did not report a ready device")
def no_device(lamp: ModuleType) -> type[Driver]:
    return reported(lamp, status=DeviceStatus.OFFLINE)


@breaks("watch.endless", "watch returned")
def a_watch_that_returns(lamp: ModuleType) -> type[Driver]:
    async def watch(self: Any, report: Any) -> Any:
        await report(Sighting(kind="seen", device=self._device.fact()))

    return changed(lamp, watch=watch)


@breaks("watch.endless", "ZeroDivisionError")
def a_watch_that_raises(lamp: ModuleType) -> type[Driver]:
    async def watch(self: Any, report: Any) -> Any:
        await report(Sighting(kind="seen", device=self._device.fact()))
        return 1 / 0

    return changed(lamp, watch=watch)


@breaks("watch.facts", "'tree'")
def a_device_of_another_platform(lamp: ModuleType) -> type[Driver]:
    return reported(lamp, platform="tree")


@breaks("watch.facts", "exec")
def a_device_that_can_more(lamp: ModuleType) -> type[Driver]:
    return reported(lamp, capabilities=("files", "exec"))


@breaks("watch.identity", "an address")
def an_address_as_identity(lamp: ModuleType) -> type[Driver]:
    return reported(lamp, identity="127.0.0.1:5555")


@breaks("watch.same-after-restart", "was not reported again")
def an_identity_that_changes(lamp: ModuleType) -> type[Driver]:
    numbers = iter(range(1000))

    def make(self: Any, context: Any) -> None:
        lamp.LampDriver.__init__(self, context)
        self._device.serial = f"lamp-{next(numbers)}"

    return changed(lamp, __init__=make)


@breaks("watch.lets-go", "within 1 s of being cancelled")
def a_watch_that_cannot_be_cancelled(lamp: ModuleType) -> type[Driver]:
    async def watch(self: Any, report: Any) -> Any:
        try:
            await lamp.LampDriver.watch(self, report)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(2.5)

    return changed(lamp, watch=watch)


@breaks("rehearsal.goes-and-comes", "was not reported so")
def a_watch_that_does_not_look(lamp: ModuleType) -> type[Driver]:
    return reported(lamp)


@breaks("rehearsal.away", "must raise DeviceLost")
def a_session_on_nothing(lamp: ModuleType) -> type[Driver]:
    @asynccontextmanager
    async def opened(self: Any, device: Any, lease: Any) -> AsyncIterator[Any]:
        yield lamp.LampSession(self._device)

    return changed(lamp, open=opened)


@breaks("rehearsal.in-use", "an answer")
def a_session_that_does_not_notice(lamp: ModuleType) -> type[Driver]:
    return with_session(lamp, _files=lambda self: self._simulated.files)


@breaks("open.what-is-declared", "does not offer it")
def a_session_without_files(lamp: ModuleType) -> type[Driver]:
    @asynccontextmanager
    async def opened(self: Any, device: Any, lease: Any) -> AsyncIterator[Any]:
        session = lamp.Session.__new__(type("Bare", (lamp.Session,), {}))
        session.device = self._device.fact()
        yield session

    return changed(lamp, open=opened)


@breaks("open.what-is-not-declared", "'exec'")
def a_session_with_more(lamp: ModuleType) -> type[Driver]:
    async def verb(self: Any, *words: Any, **more: Any) -> None: ...

    class More(lamp.LampSession, Exec):  # type: ignore[misc, name-defined]
        start = attach = processes = kill = verb

    @asynccontextmanager
    async def opened(self: Any, device: Any, lease: Any) -> AsyncIterator[Any]:
        yield More(self._device)

    return changed(lamp, open=opened)


@breaks("open.own-errors-pass", "came out")
def a_session_that_changes_errors(lamp: ModuleType) -> type[Driver]:
    @asynccontextmanager
    async def opened(self: Any, device: Any, lease: Any) -> AsyncIterator[Any]:
        try:
            async with lamp.LampDriver.open(self, device, lease) as session:
                yield session
        except Exception as error:
            raise Unavailable("something happened") from error

    return changed(lamp, open=opened)


@breaks("open.cancelled", "within 1 s of being cancelled")
def a_session_that_closes_slowly(lamp: ModuleType) -> type[Driver]:
    @asynccontextmanager
    async def opened(self: Any, device: Any, lease: Any) -> AsyncIterator[Any]:
        try:
            yield lamp.LampSession(self._device)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(2.5)

    return changed(lamp, open=opened)


@breaks("recover.strange-handle", "that a device runs")
def a_recovery_of_anything(lamp: ModuleType) -> type[Driver]:
    async def recover(self: Any, handle: str) -> Recovery:
        return Recovery(state=RecoveryState.RUNNING, reason="surely", device=self._device.fact())

    return changed(lamp, recover=recover)


@breaks("recover.handle", "lost after a restart")
def a_recovery_of_nothing(lamp: ModuleType) -> type[Driver]:
    async def recover(self: Any, handle: str) -> Recovery:
        return Recovery(state=RecoveryState.LOST, reason="who knows")

    return changed(lamp, recover=recover)


@breaks("files.roundtrip", "or changed")
def files_that_change(lamp: ModuleType) -> type[Driver]:
    async def read(self: Any, path: str) -> Any:
        return lamp.Bytes(self._file(path).data[:-1] + b"x")

    return with_session(lamp, read=read)


@breaks("files.list", "depth 1 listed")
def a_list_that_is_not_sorted(lamp: ModuleType) -> type[Driver]:
    async def listed(self: Any, path: str, *, depth: int = 1) -> Any:
        return list(reversed(await lamp.LampSession.list(self, path, depth=depth)))

    return with_session(lamp, list=listed)


@breaks("files.mkdir", "must raise AlreadyExists")
def a_directory_over_another(lamp: ModuleType) -> type[Driver]:
    async def mkdir(self: Any, path: str, *, mode: int = 0o755, user: str | None = None) -> Any:
        try:
            return await lamp.LampSession.mkdir(self, path)
        except AlreadyExists:
            return await self.stat(path)

    return with_session(lamp, mkdir=mkdir)


@breaks("files.remove", "must raise NotFound")
def a_removal_of_nothing(lamp: ModuleType) -> type[Driver]:
    async def remove(self: Any, path: str) -> None:
        try:
            await lamp.LampSession.remove(self, path)
        except NotFound:
            return

    return with_session(lamp, remove=remove)


@breaks("files.missing", "raised KeyError")
def an_error_that_is_not_of_the_table(lamp: ModuleType) -> type[Driver]:
    async def stat(self: Any, path: str) -> Any:
        return lamp._entry(path, self._files()[path])

    return with_session(lamp, stat=stat)


@breaks("files.wrong-input", "must raise InvalidArgument")
def a_relative_path_that_is_taken(lamp: ModuleType) -> type[Driver]:
    async def stat(self: Any, path: str) -> Any:
        return await lamp.LampSession.stat(self, path if path.startswith("/") else "/tmp")

    return with_session(lamp, stat=stat)


async def _write_in_place(self: Any, path: str, source: Any, *, mode: int = 0o644, user: str | None = None) -> int:
    data = b""
    async for chunk in source:
        data += chunk
        module = __import__("sys").modules[type(self).__mro__[1].__module__]
        self._files()[path] = module.File(data, mode)
    return len(data)


@breaks("files.whole-or-not", "while it was written over")
def a_file_that_grows(lamp: ModuleType) -> type[Driver]:
    return with_session(lamp, write=_write_in_place)


@breaks("files.write-cancelled", "left behind")
def half_a_file(lamp: ModuleType) -> type[Driver]:
    return with_session(lamp, write=_write_in_place)


@breaks("files.broken-source", "left behind")
def half_a_file_of_a_broken_source(lamp: ModuleType) -> type[Driver]:
    return with_session(lamp, write=_write_in_place)


@breaks("files.slow-source", "within")
def a_write_that_holds_a_lock(lamp: ModuleType) -> type[Driver]:
    async def write(self: Any, path: str, source: Any, **more: Any) -> Any:
        if not hasattr(self, "lock"):
            self.lock = trio.Lock()
        async with self.lock:
            return await lamp.LampSession.write(self, path, source)

    return with_session(lamp, write=write)


@breaks("open.clean", "no way")
def a_device_that_cannot_be_cleaned(lamp: ModuleType) -> type[Driver]:
    async def clean(self: Any, device: Any) -> None:
        raise Unavailable("no way")

    return changed(lamp, clean=clean)


LEAKED: list[int] = []


@pytest.fixture(autouse=True)
def _close_what_leaked() -> Iterator[None]:
    yield
    while LEAKED:
        os.close(LEAKED.pop())


@pytest.mark.parametrize("name", DEFECTS)
async def test_a_defect_breaks_its_rule(
    name: str, lamp: ModuleType, monkeypatch: pytest.MonkeyPatch, mock_clock: Any
) -> None:
    rule, told = DEFECTS[name][0].split("|")
    mock_clock.rate = 20  # threads make directories, so the clock must not jump
    monkeypatch.setattr("anvild.sdk.testing.leaks.SETTLE_SECONDS", 0.2)
    found = await tried(DEFECTS[name][1](lamp), rule)
    assert found[rule].verdict is Verdict.FAILED, found[rule]
    assert told in (found[rule].reason or ""), found[rule]


async def test_a_driver_that_does_not_start_is_tried_no_further(lamp: ModuleType) -> None:
    starts = []

    async def start(self: Any) -> None:
        starts.append(self)
        raise Unavailable("the tool is missing: apt install tool")

    report = await examine(InProcess(changed(lamp, start=start)), QUICK)
    assert report.grade is None
    assert report.results[-1].rule == "life.start"
    assert "apt install tool" in (report.results[-1].reason or "")
    assert len(report.results) < 10


async def test_a_driver_that_blocks_the_loop_is_noticed(lamp: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    hung = threading.Event()
    heard: list[str] = []

    def on_hang(rule: Rule) -> None:
        heard.append(rule.name)
        hung.set()

    for name in ("HANG_SECONDS", "LOOK_SECONDS"):
        monkeypatch.setattr(f"anvild.sdk.testing.examination.{name}", 0.01)

    async def blocked(bench: Any) -> None:
        assert hung.wait(30)

    rule = msgspec.structs.replace(RULES[0], check=blocked, seconds=0.01)
    report = await examine(InProcess(lamp.LampDriver), rules=[rule], on_hang=on_hang)
    assert heard == [rule.name]
    assert len(report.results) == 1


async def test_what_the_settings_of_the_profile_say_reaches_the_driver(lamp: ModuleType) -> None:
    found = await tried(lamp.LampDriver, "describe.types", settings={"serial": "x"})
    assert found["describe.types"].verdict is Verdict.PASSED
    found = await tried(lamp.LampDriver, "describe.types", settings={"colour": "red"})
    assert "colour" in (found["describe.types"].reason or "")


MUTE = """
import json, struct, sys
for word in ("hello", "world"):
    head = sys.stdin.buffer.read(5)
    if not head:
        break
    request = json.loads(sys.stdin.buffer.read(struct.unpack(">I", head[:4])[0]))
    if "id" in request:
        answer = json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": {}}).encode()
        sys.stdout.buffer.write(struct.pack(">IB", len(answer), 0) + answer)
        sys.stdout.flush()
"""


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ("wire.handshake", "initialize was refused"),
        ("wire.newer-major", "another major version was answered"),
        ("wire.unknown", "an unknown method was answered with {}"),
        ("wire.wrong-parameters", "session.open with {} was answered with {}"),
    ],
)
async def test_a_program_that_answers_anything_breaks_the_rules_of_the_wire(rule: str, told: str) -> None:
    chosen = [each for each in RULES if each.name == rule]
    report = await examine(ChildProcess((sys.executable, "-c", MUTE)), rules=chosen)
    assert [each.verdict for each in report.results] == [Verdict.FAILED]
    assert told in (report.results[0].reason or "")


async def test_a_program_that_is_not_there_is_told(tmp_path: Path) -> None:
    report = await examine(ChildProcess((str(tmp_path / "none"),)), rules=RULES[:1])
    assert "cannot be started" in (report.results[0].reason or "")
