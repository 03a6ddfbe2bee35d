"""The ``exec`` step: a tagged program whose output is judged, shown and kept while it runs.

The tag lets the step go on when the daemon was away: its process is taken up again and not started a second time.
"""

from __future__ import annotations

import codecs
import signal
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, suppress

import trio

from anvild.sdk import AlreadyExists, AnvilError, Command, Exec, NotFound, Output, Process, RunFailed, Stream

from .judge import Judge
from .pipelines import ExecStep
from .progress import Begun
from .work import StepFailed, Work

__all__ = ["run_exec"]

PIECE = 4096
SHOWN = 64 * 1024
SHOWN_PIECES = 256
LOGGED = 64 * 2**20
SAVE_SECONDS = 2.0
END_SECONDS = 5.0
KEPT_FACT = "exec_kept_output"


async def run_exec(work: Work, step: ExecStep, begun: Begun, holding: AsyncExitStack, *, resumed: bool) -> str:
    """Run the step and return how its program ended. Raises StepFailed, RunFailed, and what the device raises.

    The program is let go by ``holding``, after the caller has saved the result: a device forgets a program that has
    ended and was let go. Cancelled, the step saves what it has judged and leaves the program, which carries a tag, to
    the next try or to the cleaning of the device.
    """
    judge = Judge(step.expect, work.values, begun.judgement, capture=step.capture is not None)
    process, attached = await _process(work, _command(work, step, begun.tag), resumed=resumed)
    await holding.enter_async_context(process)
    output = _StepOutput(work, step, begun, judge, attached=attached)
    try:
        with trio.move_on_after(step.timeout) as limit:
            await output.consume(process)
            ended = await process.wait()
    except trio.Cancelled:
        with suppress(AnvilError), trio.move_on_after(SAVE_SECONDS, shield=True):
            await work.save()
        raise
    if limit.cancelled_caught:
        await _end(process)
        raise StepFailed(f"it did not end within {step.timeout:g} s and has been ended", judge.tails())
    failures = judge.failures(ended)
    if failures and judge.unmet() and output.incomplete:
        raise RunFailed(
            "interrupted",
            f"the daemon was away while step {step.name!r} ran, and what it missed may hold what was expected: "
            f"{judge.unmet()[0]}",
            retry=True,
        )
    if failures:
        raise StepFailed("; ".join(failures[:3]), judge.tails())
    if step.capture is not None:
        work.progress.values[step.capture] = judge.captured()
    return f"exit code {ended.code}" if ended.code is not None else f"ended by signal {ended.signal}"


def _command(work: Work, step: ExecStep, tag: str) -> Command:
    argv = ("sh", "-c", step.shell) if step.shell is not None else tuple(map(work.fill, step.command or ()))
    return Command(
        argv=argv,
        env=work.environment(step.env),
        cwd=None if step.cwd is None else work.fill(step.cwd),
        user=step.user,
        tag=tag,
    )


async def _process(work: Work, command: Command, *, resumed: bool) -> tuple[Process, bool]:
    """Return the step's process, and whether it was there already."""
    session = work.session.require(Exec)
    tag = command.tag or ""
    if resumed:
        try:
            return await session.attach(tag, replay=True), True
        except NotFound:
            pass  # it had not been started when the daemon went away
    try:
        return await session.start(command), False
    except AlreadyExists:
        return await session.attach(tag, replay=True), True


async def _end(process: Process) -> None:
    with trio.move_on_after(END_SECONDS):
        await process.signal(signal.SIGKILL)
        await process.wait()


class _StepOutput:
    """Takes the output of one program: every byte goes to the judge and to the log, its beginning into events."""

    def __init__(self, work: Work, step: ExecStep, begun: Begun, judge: Judge, *, attached: bool) -> None:
        self._work = work
        self._step = step
        self._begun = begun
        self._judge = judge
        self._decoders = {stream: codecs.getincrementaldecoder("utf-8")("replace") for stream in Stream}
        self._attached = attached
        self._again = begun.shown if attached else 0
        self._size = 0
        if attached:
            judge.begin_again()

    @property
    def incomplete(self) -> bool:
        """Whether output may be missing: a program taken up again has written about as much as its device keeps,
        which counts its own bookkeeping too."""
        kept = self._work.session.device.facts.get(KEPT_FACT, "0")
        return self._attached and self._size >= (int(kept) // 4 if kept.isdigit() else 0)

    async def consume(self, process: Process) -> None:
        """Return when the output has ended and is stored. A program without output leaves no log."""
        outputs = aiter(process)
        try:
            first = await anext(outputs, None)
            if first is None:
                return
            name = f"step-{self._begun.index + 1:02}.log"
            async with aclosing(self._log(first, outputs)) as log:
                await self._work.context.artifact(name, log, media_type="text/plain; charset=utf-8")
        finally:
            if isinstance(outputs, AsyncGenerator):
                await outputs.aclose()

    async def _log(self, first: Output, rest: AsyncIterator[Output]) -> AsyncGenerator[bytes, None]:
        yield await self._take(first)
        async for output in rest:
            before = self._size
            data = await self._take(output)
            if before < LOGGED <= self._size:
                yield data[: LOGGED - before] + b"\n[the log ends here: it has reached its largest size]\n"
            elif before < LOGGED:
                yield data

    async def _take(self, output: Output) -> bytes:
        """Judge a piece of output and show it; the events of one step hold a bounded part of it."""
        self._judge.feed(output)
        self._size += len(output.data)
        fresh = output.data[self._again :]
        self._again = max(self._again - len(output.data), 0)
        if fresh and self._begun.shown < SHOWN and self._begun.pieces < SHOWN_PIECES:
            await self._show(output.stream, fresh[: SHOWN - self._begun.shown])
        return output.data

    async def _show(self, stream: Stream, data: bytes) -> None:
        text = self._decoders[stream].decode(data)
        *pieces, last = [text[at : at + PIECE] for at in range(0, len(text), PIECE)] or [""]
        for piece in pieces:
            await self._work.context.emit("output", self._event(stream, piece))
        self._begun.shown += len(data)
        self._begun.pieces += len(pieces) + 1
        await self._work.save("output", self._event(stream, last))
        if self._begun.shown >= SHOWN or self._begun.pieces >= SHOWN_PIECES:
            await self._work.context.log(f"the rest of the output of step {self._step.name!r} is in its log alone")

    def _event(self, stream: Stream, text: str) -> dict[str, str]:
        return {"step": self._step.name, "stream": stream.value, "text": text}
