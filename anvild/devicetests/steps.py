"""The executors of the steps: one function a verb."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from typing import Any

import trio

from anvild.sdk import EntryType, Files, NotFound, Power, check_absolute

from .app_steps import APP_EXECUTORS, stop_recording
from .app_tests import run_app_tests
from .exec_step import run_exec
from .pipelines import Assert, ExecStep, FindingStep, ListStep, Pull, Push, Reboot, Step, Test, Wait
from .pipelines.text import fill
from .progress import Begun
from .work import CHUNK, StepFailed, Work, file_name

__all__ = ["execute"]

SHOWN_VALUE = 200
FIRST_LOOK_SECONDS = 0.05
LONGEST_LOOK_SECONDS = 1.0


async def execute(work: Work, step: Step, begun: Begun, holding: AsyncExitStack, *, resumed: bool) -> str:
    """Do one step and return in a few words what it did. Raises StepFailed, RunFailed, MissingValue, MissingInput and
    the errors of the device.

    What must be kept until the result is saved is let go by ``holding``. A resumed step is done again, except that a
    program of ``exec`` is taken up where it is, and tests that had ended are not run again.
    """
    if isinstance(step, ExecStep):
        return await run_exec(work, step, begun, holding, resumed=resumed)
    if isinstance(step, Test):
        return await run_app_tests(work, step, begun, resumed=resumed)
    with trio.move_on_after(step.timeout):
        return await _EXECUTORS[type(step)](work, step)
    raise StepFailed(f"it did not end within {step.timeout:g} s")


async def _push(work: Work, step: Push) -> str:
    files, path = work.session.require(Files), _path(work, step.path)
    if step.input is not None:
        async with work.input(step.input) as (given, content):
            size = await files.write(path, content, mode=step.mode, user=step.user)
        return f"{given.name}, {size} bytes"
    data = base64.b64decode(step.base64) if step.base64 is not None else work.fill(step.text or "").encode()
    async with aclosing(_chunks(data)) as source:
        size = await files.write(path, source, mode=step.mode, user=step.user)
    return f"{size} bytes"


async def _chunks(content: bytes) -> AsyncGenerator[bytes, None]:
    for at in range(0, len(content), CHUNK):
        yield content[at : at + CHUNK]


async def _pull(work: Work, step: Pull) -> str:
    files = work.session.require(Files)
    names: list[str] = []
    for item in step.path if isinstance(step.path, tuple) else (step.path,):
        path = _path(work, item)
        try:
            stream = await files.read(path)
        except NotFound:
            if step.missing == "ok":
                continue
            raise StepFailed(f"there is no file {path} to pull") from None
        own = file_name(path)
        name = f"{step.name}-{own}"
        if name in names:
            name = f"{step.name}-{len(names) + 1}-{own}"
        await work.keep(name, stream, media_type=step.media_type)
        names.append(name)
    return ", ".join(names) or "nothing"


async def _list(work: Work, step: ListStep) -> str:
    path = _path(work, step.path).rstrip("/")
    entries = await work.session.require(Files).list(path or "/", depth=step.depth)
    names = {entry.path.removeprefix(path).lstrip("/") for entry in entries}
    contains, excluded = step.expect.contains, step.expect.not_contains
    for name in map(work.fill, (contains,) if isinstance(contains, str) else contains):
        if name not in names:
            raise StepFailed(f"{path or '/'} holds no {name!r}", "\n".join(sorted(names)[:100]))
    for name in map(work.fill, (excluded,) if isinstance(excluded, str) else excluded):
        if name in names:
            raise StepFailed(f"{path or '/'} holds {name!r}")
    return f"{len(names)} {'entry' if len(names) == 1 else 'entries'}"


async def _wait(work: Work, step: Wait) -> str:
    """Look again and again, with growing pauses: a device has no verb that calls out for a path."""
    if step.seconds is not None:
        await trio.sleep(step.seconds)
        return f"{step.seconds:g} s"
    files = work.session.require(Files)
    path = _path(work, step.path or "")
    pause = FIRST_LOOK_SECONDS
    while True:
        try:
            entry = await files.stat(path)
        except NotFound:
            if step.gone:
                return f"{path} is gone"
        else:
            if not step.gone:
                return f"{path} is there, a {entry.type.value}" + (
                    f" of {entry.size} bytes" if entry.type is EntryType.FILE else ""
                )
        await trio.sleep(pause)
        pause = min(pause * 2, LONGEST_LOOK_SECONDS)


async def _assert(work: Work, step: Assert) -> str:
    value = work.fill(step.value)
    shown = repr(value if len(value) <= SHOWN_VALUE else f"{value[:SHOWN_VALUE]}…")
    if step.equals is not None and value != (wanted := work.fill(step.equals)):
        raise StepFailed(f"{shown} is not {wanted!r}")
    for text in (step.contains,) if isinstance(step.contains, str) else step.contains:
        if (wanted := work.fill(text)) not in value:
            raise StepFailed(f"{shown} does not contain {wanted!r}")
    for text in (step.matches,) if isinstance(step.matches, str) else step.matches:
        if re.search(wanted := fill(text, work.values, pattern=True), value) is None:
            raise StepFailed(f"{shown} does not match {wanted!r}")
    return shown


async def _reboot(work: Work, step: Reboot) -> str:
    """A restart would lose what is recorded of the screen, so that is kept before."""
    await stop_recording(work)
    await work.session.require(Power).reboot()
    return "it takes verbs again"


async def _finding(work: Work, step: FindingStep) -> str:
    detail = None if step.detail is None else work.fill(step.detail)
    title = work.fill(step.title or "")
    await work.context.finding(step.severity, title=title, category=step.category, detail=detail)
    return title


def _path(work: Work, text: str) -> str:
    return check_absolute(work.fill(text))


_EXECUTORS: dict[type[Step], Callable[[Work, Any], Awaitable[str]]] = {
    Push: _push,
    Pull: _pull,
    ListStep: _list,
    Wait: _wait,
    Assert: _assert,
    FindingStep: _finding,
    Reboot: _reboot,
    **APP_EXECUTORS,
}
