"""Judging the output of a program against expectations while it streams by.

Memory stays small whatever the length of the output: expectations look at one line at a time, and what must outlive a
restart of the daemon (which expectations have been met, the line that is not complete yet) fits into a checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import msgspec

from anvild.sdk import Exit, Output, Stream

from .pipelines import ExecExpectation
from .pipelines.text import fill

__all__ = ["Judge", "Judgement"]

LONGEST_LINE = 8192
TAIL = 1024
CAPTURED_BYTES = 4096
CAPTURED_CHARACTERS = 512


class StreamState(msgspec.Struct, kw_only=True):
    """What is remembered of one stream: its unfinished line, its last and (for a capture) first bytes."""

    line: bytes = b""
    tail: bytes = b""
    head: bytes = b""
    size: int = 0


class Judgement(msgspec.Struct, kw_only=True):
    """How far the judging has come. ``met`` holds the numbers of the expectations whose text has been seen."""

    met: set[int] = set()
    stdout: StreamState = msgspec.field(default_factory=StreamState)
    stderr: StreamState = msgspec.field(default_factory=StreamState)


class _Check(msgspec.Struct, frozen=True):
    stream: Stream
    wanted: bool
    sentence: str
    found: Callable[[str], bool]


class Judge:
    """Judges one program, going on from ``judgement``.

    ``values`` fill the ``{{ names }}`` of the expectations; raises MissingValue for one that is not there. ``capture``
    keeps the beginning of standard output.
    """

    def __init__(
        self, expect: ExecExpectation, values: Mapping[str, str], judgement: Judgement, *, capture: bool = False
    ) -> None:
        self._exit = expect.exit
        self._checks = _checks(expect, values)
        self._head = CAPTURED_BYTES if capture else 0
        self.judgement = judgement

    def begin_again(self) -> None:
        """The output comes again from its beginning, or from as far back as the device has kept it.

        What has been seen stays seen; what the output began with stays known where it may not come again.
        """
        for stream in Stream:
            state = self._state(stream)
            state.line = state.tail = b""
            state.size = 0
            if len(state.head) < self._head:
                state.head = b""

    def feed(self, output: Output) -> None:
        """Take the next piece of output."""
        state = self._state(output.stream)
        state.size += len(output.data)
        state.head += output.data[: max(self._head - len(state.head), 0)]
        state.tail = (state.tail + output.data)[-TAIL:]
        *lines, rest = (state.line + output.data).split(b"\n")
        while len(rest) > LONGEST_LINE:
            lines.append(rest[:LONGEST_LINE])
            rest = rest[LONGEST_LINE:]
        state.line = rest
        for line in lines:
            self._look(output.stream, line)

    def failures(self, ended: Exit) -> list[str]:
        """The output is complete and the program has ended: say which expectations do not hold."""
        for stream in Stream:
            self._look(stream, self._state(stream).line)
        failures = []
        if self._exit != "any" and ended.code != self._exit:
            how = f"exit code {ended.code}" if ended.code is not None else f"ended by signal {ended.signal}"
            failures.append(f"{how}, expected exit code {self._exit}")
        failures += self.unmet()
        failures += [
            check.sentence for number, check in enumerate(self._checks) if not check.wanted and self._met(number)
        ]
        return failures

    def unmet(self) -> list[str]:
        """Say which texts were expected in the output and have not been seen."""
        return [check.sentence for number, check in enumerate(self._checks) if check.wanted and not self._met(number)]

    def captured(self) -> str:
        """Return the beginning of standard output as a value: printable, trimmed."""
        text = self.judgement.stdout.head.decode(errors="replace").strip()
        return "".join(c for c in text if c.isprintable() or c == "\n")[:CAPTURED_CHARACTERS]

    def tails(self) -> str:
        """Return the last lines of both streams, for a person."""
        parts = []
        for stream in Stream:
            if text := self._state(stream).tail.decode(errors="replace").strip():
                parts.append(f"{stream.value}:\n{text}")
        return "\n".join(parts)

    def _state(self, stream: Stream) -> StreamState:
        return self.judgement.stdout if stream is Stream.STDOUT else self.judgement.stderr

    def _met(self, number: int) -> bool:
        return number in self.judgement.met

    def _look(self, stream: Stream, line: bytes) -> None:
        text: str | None = None
        for number, check in enumerate(self._checks):
            if check.stream is stream and not self._met(number):
                text = line.decode(errors="replace").rstrip("\r") if text is None else text
                if check.found(text):
                    self.judgement.met.add(number)


def _checks(expect: ExecExpectation, values: Mapping[str, str]) -> list[_Check]:
    checks = []
    for field in expect.__struct_fields__:
        if field == "exit":
            continue
        name = field.removeprefix("not_")
        wanted = name == field
        stream = Stream(name.partition("_")[0])
        lines: str | tuple[str, ...] = getattr(expect, field)
        for line in (lines,) if isinstance(lines, str) else lines:
            if name.endswith("_matches"):
                pattern = fill(line, values, pattern=True)
                relation, found = f"matches {pattern!r}", _matching(pattern)
            else:
                text = fill(line, values)
                relation, found = f"contains {text!r}", _containing(text)
            sentence = f"{'no' if wanted else 'a'} line of {stream.value} {relation}"
            checks.append(_Check(stream, wanted, sentence, found))
    return checks


def _matching(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern)
    return lambda line: compiled.search(line) is not None


def _containing(text: str) -> Callable[[str], bool]:
    return lambda line: text in line
