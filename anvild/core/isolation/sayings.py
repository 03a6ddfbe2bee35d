"""What a driver's process says, on its way into the daemon's log: with the driver's name, and within bounds."""

from __future__ import annotations

import msgspec
import trio

from anvild.core.allowance import Allowance
from anvild.core.logging import get_logger
from anvild.sdk.protocol import LogLine

__all__ = ["LINE_LIMIT", "Sayings"]

LINE_LIMIT = 8192
"""Bytes of a line that are kept; the rest of it is dropped."""

LINES_PER_SECOND = 10
LINES_AT_ONCE = 200
"""How many lines may come at once, and a second after that. More are dropped, and counted."""

BYTES_PER_SECOND = 32 * 2**20
"""How fast a process is read. One that writes faster waits, so that it takes no time from the rest of the lab."""

TOLD_EVERY = 10.0
"""Seconds between two lines that tell how many were dropped."""

CHUNK = 65536
WORDS_LIMIT = 300
RESERVED = frozenset({"at", "event", "level", "part"})
LEVELS = frozenset({"debug", "info", "warning", "error"})


class Sayings:
    """Hears one driver. ``dropped`` counts the lines that did not get into the log."""

    def __init__(self, driver: str) -> None:
        self.dropped = 0
        self._log = get_logger(f"driver.{driver}")
        self._lines = Allowance(LINES_PER_SECOND, LINES_AT_ONCE)
        self._untold = 0
        self._telling = Allowance(1 / TOLD_EVERY, 1)
        self._line = bytearray()
        self._cut = 0
        self._last = b""

    @property
    def last_words(self) -> str:
        """The last line that was said on standard error; empty when there was none."""
        text = self._last.decode(errors="replace").strip()
        return text if len(text) <= WORDS_LIMIT else text[:WORDS_LIMIT] + "…"

    def begin(self) -> None:
        """Another process speaks from here on."""
        self._line.clear()
        self._cut = 0
        self._last = b""

    async def read(self, stream: trio.abc.ReceiveStream) -> None:
        """Log standard error line by line, to its end."""
        pace = Allowance(BYTES_PER_SECOND, BYTES_PER_SECOND / 10)
        try:
            while data := await stream.receive_some(CHUNK):
                await self._take(bytes(data))
                await pace.wait(len(data))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        finally:
            if self._line:
                self._end_line()

    async def hear(self, line: LogLine) -> None:
        """Log a line of the driver's own log. It returns when there may be another one; what the driver drops until
        then is counted by it, and comes with the next line."""
        self._drop(line.lost)
        told = {name: value for name, value in line.values.items() if name not in RESERVED}
        if len(msgspec.json.encode(told)) > LINE_LIMIT:
            told = {"cut": True}
        self._tell_dropped()
        getattr(self._log, line.level if line.level in LEVELS else "info")(line.event[:WORDS_LIMIT], **told)
        await self._lines.wait()

    async def _take(self, data: bytes) -> None:
        start = 0
        while (end := data.find(b"\n", start)) >= 0 and self._lines.take():
            self._add(data[start:end])
            self._end_line()
            start = end + 1
            await trio.lowlevel.checkpoint()
        if end >= 0:
            last = data.rfind(b"\n")
            begin = max(start, data.rfind(b"\n", start, last) + 1)
            self._last = data[begin:last][:LINE_LIMIT].strip() or self._last
            self._drop(data.count(b"\n", start))
            self._line.clear()
            self._cut = 0
            start = last + 1
        self._add(data[start:])

    def _add(self, piece: bytes) -> None:
        room = LINE_LIMIT - len(self._line)
        self._line += piece[:room]
        self._cut += max(0, len(piece) - room)

    def _end_line(self) -> None:
        line = bytes(self._line)
        cut = {"cut": self._cut} if self._cut else {}
        self._line.clear()
        self._cut = 0
        if line.strip():
            self._last = line
            self._tell_dropped()
            self._log.info("said", line=line.decode(errors="replace"), **cut)

    def _drop(self, lines: int) -> None:
        self.dropped += lines
        self._untold += lines

    def _tell_dropped(self) -> None:
        if self._untold and self._telling.take():
            self._log.warning("lines_dropped", lines=self._untold, reason=f"more than {LINES_PER_SECOND} a second")
            self._untold = 0
