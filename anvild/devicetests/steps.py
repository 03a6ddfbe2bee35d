"""The executors of the steps: one function a verb."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from typing import Any

import trio

from anvild.sdk import EntryType, Files, NotFound, check_absolute

from .exec_step import run_exec
from .pipelines import Collect, ExecStep, FindingStep, ListStep, Push, Step, Wait
from .progress import Begun
from .work import StepFailed, Work

__all__ = ["execute"]

CHUNK = 64 * 1024
LONGEST_NAME = 180
FIRST_LOOK_SECONDS = 0.05
LONGEST_LOOK_SECONDS = 1.0


async def execute(work: Work, step: Step, begun: Begun, holding: AsyncExitStack, *, resumed: bool) -> str:
    """Do one step and return in a few words what it did. Raises StepFailed, RunFailed, MissingValue and the errors
    of the device.

    What must be kept until the result is saved is let go by ``holding``. Verbs other than ``exec`` are idempotent: a
    resumed step is done again.
    """
    if isinstance(step, ExecStep):
        return await run_exec(work, step, begun, holding, resumed=resumed)
    with trio.move_on_after(step.timeout):
        return await _EXECUTORS[type(step)](work, step)
    raise StepFailed(f"it did not end within {step.timeout:g} s")


async def _push(work: Work, step: Push) -> str:
    content = base64.b64decode(step.base64) if step.base64 is not None else work.fill(step.text or "").encode()
    files = work.session.require(Files)
    async with aclosing(_chunks(content)) as source:
        size = await files.write(_path(work, step.path), source, mode=step.mode, user=step.user)
    return f"{size} bytes"


async def _chunks(content: bytes) -> AsyncGenerator[bytes, None]:
    for at in range(0, len(content), CHUNK):
        yield content[at : at + CHUNK]


async def _collect(work: Work, step: Collect) -> str:
    files = work.session.require(Files)
    names: list[str] = []
    for item in step.path if isinstance(step.path, tuple) else (step.path,):
        path = _path(work, item)
        try:
            stream = await files.read(path)
        except NotFound:
            if step.missing == "ok":
                continue
            raise StepFailed(f"there is no file {path} to collect") from None
        own = "".join(c if c.isprintable() else "_" for c in path.rpartition("/")[2])[:LONGEST_NAME]
        name = f"{step.name}-{own}"
        if name in names:
            name = f"{step.name}-{len(names) + 1}-{own}"
        async with stream, aclosing(_received(stream)) as content:
            await work.context.artifact(name, content, media_type=step.media_type)
        names.append(name)
    return ", ".join(names) or "nothing"


async def _received(stream: trio.abc.ReceiveStream) -> AsyncGenerator[bytes, None]:
    while data := await stream.receive_some(CHUNK):
        yield bytes(data)


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
    files = work.session.require(Files)
    path = _path(work, step.path)
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


async def _finding(work: Work, step: FindingStep) -> str:
    detail = None if step.detail is None else work.fill(step.detail)
    title = work.fill(step.title or "")
    await work.context.finding(step.severity, title=title, category=step.category, detail=detail)
    return title


def _path(work: Work, text: str) -> str:
    return check_absolute(work.fill(text))


_EXECUTORS: dict[type[Step], Callable[[Work, Any], Awaitable[str]]] = {
    Push: _push,
    Collect: _collect,
    ListStep: _list,
    Wait: _wait,
    FindingStep: _finding,
}
