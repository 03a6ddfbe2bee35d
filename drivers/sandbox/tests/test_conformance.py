"""The driver keeps the rules of the conformance kit in each place; the kit sees where one that is changed does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
import trio

from anvild.sdk import Command, Driver, Lease, NotFound
from anvild.sdk.agent import AgentProcess
from anvild.sdk.testing import (
    RULES,
    ChildProcess,
    InProcess,
    Level,
    OverWebSocket,
    Place,
    Verdict,
    examine,
    profile_of,
)
from anvild_sandbox.driver import SandboxDriver
from anvild_sandbox.session import SandboxSession

PLACES = [InProcess(SandboxDriver), ChildProcess.of(SandboxDriver), OverWebSocket(SandboxDriver)]
ON_THE_WIRE = ("life.start", "open.", "exec.", "files.", "ports.", "wire.")
"""What is tried over a WebSocket: the rest is the same as behind a pipe."""


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.name)
async def test_conformance(place: Place) -> None:
    socket = isinstance(place, OverWebSocket)
    rules = [rule for rule in RULES if not socket or rule.name.startswith(ON_THE_WIRE)]
    report = await examine(place, profile_of(SandboxDriver), rules=rules, settings={"slots": 3})
    assert report.failures == ()
    assert report.grade is Level.PLATINUM


@contextmanager
def broken(**members: Any) -> Iterator[type[Driver]]:
    """The driver with a session that does something else."""
    session = type("BrokenSession", (SandboxSession,), members)
    yield type("BrokenDriver", (SandboxDriver,), {"_session_type": lambda self: session})


def changing(**fields: Any) -> Callable[..., Any]:
    """Start another command than the one that was asked for."""

    async def start(self: Any, command: Command) -> AgentProcess:
        return await SandboxSession.start(self, msgspec.structs.replace(command, **fields))

    return start


async def merged(self: Any, command: Command) -> AgentProcess:
    argv = ("sh", "-c", 'exec 2>&1; exec "$@"', "sh", *command.argv)
    return await SandboxSession.start(self, msgspec.structs.replace(command, argv=argv))


async def reluctant(self: Any, command: Command) -> AgentProcess:
    process = await SandboxSession.start(self, command)
    wait = process.wait

    async def slowly() -> Any:
        try:
            return await wait()
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await trio.sleep(2.1)
            raise

    process.wait = slowly  # type: ignore[method-assign]
    return process


async def nothing(self: Any, *words: Any, **more: Any) -> None:
    return None


async def forgetful(self: Any, tag: str, *, replay: bool = False) -> AgentProcess:
    raise NotFound(f"there is no {tag!r}")


@pytest.mark.parametrize(
    ("rule", "member", "defect"),
    [
        ("exec.streams-apart", "start", merged),
        ("exec.env", "start", changing(env={})),
        ("exec.cwd", "start", changing(cwd="/")),
        ("exec.stdin", "start", changing(stdin=False)),
        ("exec.missing-program", "start", changing(argv=("true",))),
        ("exec.tags", "start", changing(tag=None)),
        ("exec.terminal", "start", changing(terminal=None)),
        ("exec.wait-cancelled", "start", reluctant),
        ("exec.attach", "attach", forgetful),
        ("exec.session-end", "attach", forgetful),
        ("exec.kill", "kill", nothing),
        ("pause.stands-still", "freeze", nothing),
    ],
)
async def test_a_defect_breaks_its_rule(rule: str, member: str, defect: Any) -> None:
    chosen = [msgspec.structs.replace(each, seconds=1.5) for each in RULES if each.name == rule]
    with broken(**{member: defect}) as kind:
        report = await examine(InProcess(kind), rules=chosen)
    assert [each.verdict for each in report.results] == [Verdict.FAILED], report.results


async def not_twice(self: Any, request: Any) -> Any:
    if request.identity in self._sandboxes:
        await self.destroy(request.identity)
    return await SandboxDriver.create(self, request)


async def only_once(self: Any, identity: str) -> None:
    if identity not in self._sandboxes:
        raise NotFound(f"there is no sandbox {identity!r}")
    await SandboxDriver.destroy(self, identity)


async def without_files(self: Any, identity: str, template: str) -> Any:
    device = self._fact(self._sandboxes[identity])
    async with self.open(device, Lease(lease_id="lease", fence=1, holder="test")) as session:
        await session.remove("/tmp/conformance")
    return await SandboxDriver.snapshot(self, identity, template)


@pytest.mark.parametrize(
    ("rule", "verb", "defect"),
    [
        ("provision.create-twice", "create", not_twice),
        ("provision.destroy-twice", "destroy", only_once),
        ("snapshot.snapshot", "snapshot", without_files),
    ],
)
async def test_a_defect_of_the_driver_breaks_its_rule(rule: str, verb: str, defect: Any) -> None:
    kind = type("BrokenDriver", (SandboxDriver,), {verb: defect})
    chosen = [each for each in RULES if each.name == rule]
    report = await examine(InProcess(kind), rules=chosen, settings={"slots": 3})
    assert [each.verdict for each in report.results] == [Verdict.FAILED], report.results
