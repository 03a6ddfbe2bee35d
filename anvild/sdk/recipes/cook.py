"""Following recipes on a device, step by step, each with its report."""

from __future__ import annotations

import itertools
import posixpath
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, suppress
from functools import partial
from string import Template as Text
from typing import Literal, Protocol

import msgspec
import trio

from ..capabilities import Exec, Files, run
from ..driver import Session
from ..errors import (
    AlreadyExists,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    WrongState,
)
from ..values import Command, Completed
from .words import Copy, Env, HealthCheck, Instruction, Run, Start, User, Workdir

__all__ = ["Cook", "Step", "StepFailed", "Tree", "TreeEntry"]

SHELL = "/bin/sh"
OUTPUT_LIMIT = 8 * 2**20
ENVIRONMENT_LIMIT = 2**13
QUICK_SECONDS = 30.0

Phase = Literal["pre-build", "recipe", "post-build"]

JUDGED = (
    AlreadyExists,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    WrongState,
)
"""Errors of a device that speak of what a step has asked for, and not of the device."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one step, counted from 1. ``exit`` is the exit code, -1 for a command that had to be ended or was
    ended by a signal, and None where none was run."""

    step: int
    phase: Phase
    cmd: str
    stdout: str = ""
    stderr: str = ""
    exit: int | None = None
    ok: bool
    elapsed_ms: int


class StepFailed(Exception):
    """A step has failed; the message is one sentence that names it. It has been reported."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class TreeEntry(msgspec.Struct, frozen=True):
    """A file or directory that came with a recipe. ``path`` is relative to what was asked for, empty for that itself;
    ``place`` is the tree's own name for it."""

    path: str
    place: str
    directory: bool
    mode: int


class Tree(Protocol):
    """The files that came with a recipe."""

    async def entries(self, path: str) -> Sequence[TreeEntry]:
        """Return a file, or a directory with all in it, directories before what they hold. Raises NotFound."""

    def content(self, entry: TreeEntry) -> AsyncGenerator[bytes, None]:
        """Iterate over the content of a file."""


class _Told(msgspec.Struct, frozen=True):
    """What a step has to say."""

    stdout: str = ""
    stderr: str = ""
    exit: int | None = None
    failed: str | None = None


class Cook:
    """Follows recipes on one device. ``environment``, ``user`` and ``folder`` are what the next step finds; None leaves
    them to the device.

    ``report`` is told of each step that has ended. ``tree`` holds what COPY takes from. Processes that START has left
    carry tags that begin with ``name``. ``numbers`` counts the steps, of several cooks one after the other if need be.
    """

    def __init__(
        self,
        session: Session,
        report: Callable[[Step], Awaitable[None]],
        *,
        tree: Tree | None = None,
        name: str = "start",
        numbers: Iterator[int] | None = None,
    ) -> None:
        self.environment: dict[str, str] = {}
        self.user: str | None = None
        self.folder: str | None = None
        self._exec = session.require(Exec)
        self._files = session.require(Files)
        self._report = report
        self._tree = tree
        self._name = name
        self._numbers = numbers or itertools.count(1)
        self._started = 0

    async def follow(self, recipe: Sequence[Instruction], *, phase: Phase = "recipe") -> None:
        """Do all that a recipe says. Raises StepFailed, and what the device raises when it fails itself.

        Cancelling it ends the command of the present step; what was started runs on.
        """
        for instruction in recipe:
            await self._step(phase, instruction.line, partial(self._do, instruction))

    async def check(self, health: HealthCheck, *, phase: Phase = "post-build") -> None:
        """Return when the device is ready. Raises StepFailed when that is given up."""
        await self._step(phase, f"HEALTHCHECK {health.command}", partial(self._until_healthy, health))

    async def _step(self, phase: Phase, line: str, do: Callable[[], Awaitable[_Told]]) -> None:
        number = next(self._numbers)
        since = trio.current_time()
        try:
            told = await do()
        except JUDGED as error:
            told = _Told(stderr=error.message, failed=error.message)
        step = Step(
            step=number,
            phase=phase,
            cmd=line,
            stdout=told.stdout,
            stderr=told.stderr,
            exit=told.exit,
            ok=told.failed is None,
            elapsed_ms=round(1000 * (trio.current_time() - since)),
        )
        await self._report(step)
        if told.failed is not None:
            raise StepFailed(f"step {step.step}, {_short(line)}: {told.failed}")

    async def _do(self, instruction: Instruction) -> _Told:
        match instruction:
            case Run(command=command, timeout=timeout):
                return await self._run(command, timeout)
            case Start(command=command):
                return await self._start(command)
            case Env(values=values):
                return await self._set(values)
            case Workdir(path=path):
                return await self._enter(path)
            case User(name=name):
                return await self._become(name)
            case Copy():
                return await self._copy(instruction)
        raise TypeError(f"{type(instruction).__name__} is no instruction of a recipe")

    def _command(self, *argv: str, tag: str | None = None) -> Command:
        return Command(argv=argv, env=self.environment, cwd=self.folder, user=self.user, tag=tag)

    async def _run(self, command: str, timeout: float) -> _Told:
        try:
            done = await run(self._exec, self._command(SHELL, "-c", command), limit=OUTPUT_LIMIT, deadline=timeout)
        except DeadlineExceeded:
            why = f"it did not end within {timeout:g} s"
            return _Told(stderr=why, exit=-1, failed=why)
        return _judged(done)

    async def _start(self, command: str) -> _Told:
        self._started += 1
        process = await self._exec.start(self._command(SHELL, "-c", command, tag=f"{self._name}-{self._started}"))
        await process.aclose()
        return _Told(stdout=f"process {process.pid}\n")

    async def _set(self, values: Sequence[tuple[str, str]]) -> _Told:
        there: dict[str, str] | None = None
        for name, value in values:
            wanted = Text(value).get_identifiers()
            if there is None and any(each not in self.environment for each in wanted):
                there = await self._environment()
            known = {each: self.environment.get(each, (there or {}).get(each, "")) for each in wanted}
            self.environment = {**self.environment, name: Text(value).substitute(known)}
        if sum(len(name) + len(value) for name, value in self.environment.items()) > ENVIRONMENT_LIMIT:
            raise ResourceExhausted(f"the variables have more than {ENVIRONMENT_LIMIT} letters together")
        return _Told(stdout="".join(f"{name}={self.environment[name]}\n" for name, _ in values))

    async def _environment(self) -> dict[str, str]:
        """What processes find on the device without a word of ours."""
        command = msgspec.structs.replace(self._command("/usr/bin/env", "-0"), env={}, cwd="/")
        done = await run(self._exec, command, deadline=QUICK_SECONDS)
        pairs = (line.partition("=") for line in done.stdout.decode(errors="replace").split("\0"))
        return {name: value for name, equals, value in pairs if equals}

    async def _enter(self, path: str) -> _Told:
        folder = await self._absolute(path)
        done = await self._quick("mkdir", "-p", "--", folder)
        if done.failed is None:
            self.folder = folder
        return done

    async def _become(self, name: str) -> _Told:
        command = Command(argv=("/usr/bin/env", "id"), cwd="/", user=name)
        done = _judged(await run(self._exec, command, deadline=QUICK_SECONDS))
        if done.failed is None:
            self.user = name
        return done

    async def _quick(self, *argv: str) -> _Told:
        return _judged(await run(self._exec, self._command(*argv), deadline=QUICK_SECONDS))

    async def _absolute(self, path: str) -> str:
        """Return a path as an absolute one; one that is not begins at the present directory."""
        if path.startswith("/"):
            return posixpath.normpath(path)
        folder = self.folder
        if folder is None:
            folder = (await self._quick("pwd")).stdout.strip() or "/"
        return posixpath.normpath(posixpath.join(folder, path))

    async def _copy(self, instruction: Copy) -> _Told:
        if self._tree is None:
            raise NotFound("no files came with this recipe")
        target, files = await self._absolute(instruction.target), 0
        for source in instruction.sources:
            entries = await self._tree.entries(source)
            into = target
            if instruction.into and not entries[0].directory:
                into = posixpath.join(target, posixpath.basename(source.rstrip("/")))
            for entry in entries:
                await self._put(entry, posixpath.join(into, entry.path) if entry.path else into)
                files += not entry.directory
        return _Told(stdout=f"{files} {'file' if files == 1 else 'files'}\n")

    async def _put(self, entry: TreeEntry, path: str) -> None:
        assert self._tree is not None, "there is a tree when something of it is put"
        if not entry.directory:
            async with aclosing(self._tree.content(entry)) as content:
                await self._files.write(path, content, mode=entry.mode, user=self.user)
            return
        with suppress(AlreadyExists):  # what is in it is joined by what is copied
            await self._files.mkdir(path, mode=entry.mode, user=self.user)

    async def _until_healthy(self, health: HealthCheck) -> _Told:
        since, failures, attempts = trio.current_time(), 0, 0
        while True:
            attempts += 1
            told = await self._run(health.command, health.timeout)
            if told.failed is None:
                return told
            failures += trio.current_time() - since >= health.start_period
            if health.retries and failures >= health.retries:
                times = "once" if attempts == 1 else f"{attempts} times"
                return msgspec.structs.replace(told, failed=f"it was tried {times}, at last: {told.failed}")
            await trio.sleep(health.interval)


def _judged(done: Completed) -> _Told:
    stdout, stderr = (each.decode(errors="replace") for each in (done.stdout, done.stderr))
    code = -1 if done.exit.code is None else done.exit.code
    failed = None
    if not done.exit.ok:
        how = f"signal {done.exit.signal}" if done.exit.code is None else f"exit code {code}"
        words = stderr.strip().splitlines()
        failed = f"it ended with {how}" + (f": {words[-1][:200]}" if words else "")
    return _Told(stdout=stdout, stderr=stderr, exit=code, failed=failed)


def _short(line: str) -> str:
    first = line.splitlines()[0]
    return first if len(first) <= 80 and first == line else f"{first[:77]}..."
