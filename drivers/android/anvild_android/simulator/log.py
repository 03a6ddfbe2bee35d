"""The device's log and its reader, ``logcat``."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec
import trio

from .calls import Call

__all__ = ["LEVELS", "Log", "LogEntry"]

KEPT = 10_000
LEVELS = "VDIWEFS"
BUFFERS = ("main", "system", "crash", "events", "radio", "kernel")
FORMATS = ("brief", "long", "process", "raw", "tag", "thread", "threadtime", "time")
TIMES = ("%Y-%m-%d %H:%M:%S.%f", "%Y-%m-%d %H:%M:%S", "%m-%d %H:%M:%S.%f", "%m-%d %H:%M:%S")


class LogEntry(msgspec.Struct, frozen=True):
    """One message of the log, which may have several lines."""

    time: datetime
    pid: int
    level: str
    tag: str
    message: str
    buffer: str = "main"


class Log:
    """A ring of messages. It does not outlive a reboot."""

    def __init__(self) -> None:
        self._entries: deque[LogEntry] = deque(maxlen=KEPT)
        self._written = 0
        self._grown = trio.lowlevel.ParkingLot()

    def write(self, tag: str, message: str, *, level: str = "I", pid: int = 1000, buffer: str = "main") -> None:
        """Write a message with the present time."""
        self._entries.append(LogEntry(datetime.now(UTC), pid, level, tag, message, buffer))
        self._written += 1
        self._grown.unpark_all()

    def clear(self) -> None:
        """Forget all messages."""
        self._entries.clear()

    def entries(self) -> list[LogEntry]:
        """What is kept, oldest first."""
        return list(self._entries)

    async def _after(self, seen: int) -> list[LogEntry]:
        """Wait for messages after the first ``seen`` of all; a reader that is too slow misses what the ring loses."""
        while seen == self._written:
            await self._grown.park()
        fresh = min(self._written - seen, len(self._entries))
        return list(self._entries)[len(self._entries) - fresh :]

    async def logcat(self, call: Call) -> int:
        """Print the log as the options say. A live reading goes on until its reader has gone."""
        if call.flag("-g", "--buffer-size"):
            await call.say("main: ring buffer is 256 KiB (8 KiB consumed, 9 KiB readable), max entry is 5120 B")
            return 0
        try:
            reading = _Reading(call)
        except ValueError as error:
            await call.complain(f"logcat: {error}")
            return 1
        if reading.clears:
            self.clear()
            return 0
        if call.flag("-L", "--last"):
            return 0
        seen, entries = self._written, reading.select(self.entries())
        while True:
            if entries:
                await call.say("".join(reading.show(entry) for entry in entries).encode())
            if reading.ends:
                return 0
            entries = [entry for entry in await self._after(seen) if reading.wants(entry)]
            seen = self._written


class _Reading:
    """What one call of ``logcat`` asks for. Raises ValueError for what it cannot mean."""

    def __init__(self, call: Call) -> None:
        arguments = [part for each in call.arguments for part in (each.split("=", 1) if each[:2] == "--" else [each])]
        call.arguments = ["--pid" if each == "--pid" else each for each in arguments]
        self.clears = call.flag("-c", "--clear")
        self.ends = call.flag("-d", "--dump")
        self._wants: list[Callable[[LogEntry], bool]] = []
        self._shown: set[str] = set()
        self._form = "threadtime"
        self._modifiers: set[str] = set()
        while form := call.option("-v") or call.option("--format"):
            self._set_form(form)
        self._since = call.option("-t") or call.option("--tail")
        self.ends = self.ends or bool(self._since)
        self._since = self._since or call.option("-T")
        buffers = "".join(f"{each}," for each in iter(lambda: call.option("-b") or call.option("--buffer"), ""))
        wanted = {each for each in buffers.split(",") if each} or {"main", "system", "crash"}
        if unknown := wanted - {*BUFFERS, "all", "default"}:
            raise ValueError(f"Unknown buffer '{min(unknown)}'")
        self._buffers = set(BUFFERS) if "all" in wanted else wanted | ({"main", "system", "crash"} & wanted)
        if "default" in wanted:
            self._buffers |= {"main", "system", "crash"}
        pid = call.option("--pid")
        if pid:
            self._wants.append(lambda entry: str(entry.pid) == pid)
        pattern = call.option("-e") or call.option("--regex")
        if pattern:
            self._wants.append(lambda entry: re.search(pattern, entry.message) is not None)
        silent = call.flag("-s")
        filters = [each for each in call.arguments if not each.startswith("-")]
        if silent or filters:
            self._filter(filters, "S" if silent else "V")

    def _set_form(self, text: str) -> None:
        for each in text.replace(",", " ").split():
            if each in FORMATS:
                self._form = each
            elif each.lower() in ("year", "epoch", "utc", "zone", "usec", "color", "printable", "uid", "monotonic"):
                self._modifiers.add(each.lower())
            else:
                raise ValueError(f"Invalid parameter '{each}' to -v")

    def _filter(self, filters: list[str], default: str) -> None:
        """Take filters of the form TAG:LEVEL; ``*`` is all other tags."""
        least = {}
        for each in filters:
            tag, _, level = each.partition(":")
            least[tag] = level.upper().replace("*", "V") or "V"
            if least[tag] not in LEVELS:
                raise ValueError(f"Invalid filter expression '{each}'")
        default = least.pop("*", default)
        self._wants.append(lambda entry: LEVELS.index(entry.level) >= LEVELS.index(least.get(entry.tag, default)))

    def wants(self, entry: LogEntry) -> bool:
        return entry.buffer in self._buffers and all(wants(entry) for wants in self._wants)

    def select(self, entries: list[LogEntry]) -> list[LogEntry]:
        """What of the past is asked for: all, the last so many, or from a time on."""
        wanted = [entry for entry in entries if self.wants(entry)]
        if not self._since:
            return wanted
        if self._since.isdecimal():
            return wanted[-int(self._since) :]
        since = _parse_time(self._since)
        return [entry for entry in wanted if entry.time >= since]

    def show(self, entry: LogEntry) -> str:
        """Return a message's lines; the first of a buffer comes after a line that names it."""
        head = "" if entry.buffer in self._shown else f"--------- beginning of {entry.buffer}\n"
        self._shown.add(entry.buffer)
        prefix = self._prefix(entry)
        return head + "".join(f"{prefix}{line}\n" for line in entry.message.split("\n"))

    def _prefix(self, entry: LogEntry) -> str:
        tag = f"{entry.tag:<8}"
        match self._form:
            case "raw":
                return ""
            case "brief":
                return f"{entry.level}/{tag}({entry.pid:>5}): "
            case "tag":
                return f"{entry.level}/{tag}: "
            case "process":
                return f"{entry.level}({entry.pid:>5}) "
            case "thread":
                return f"{entry.level}({entry.pid:>5}:{entry.pid:>5}) "
            case "time":
                return f"{self._time(entry)} {entry.level}/{tag}({entry.pid:>5}): "
            case "long":
                return f"[ {self._time(entry)} {entry.pid:>5}:{entry.pid:>5} {entry.level}/{tag} ]\n"
        return f"{self._time(entry)} {entry.pid:>5} {entry.pid:>5} {entry.level} {tag}: "

    def _time(self, entry: LogEntry) -> str:
        digits = entry.time.strftime("%f")[: 6 if "usec" in self._modifiers else 3]
        if "epoch" in self._modifiers:
            return f"{int(entry.time.timestamp()):>19}.{digits}"
        form = "%Y-%m-%d %H:%M:%S" if "year" in self._modifiers else "%m-%d %H:%M:%S"
        zone = " +0000" if self._modifiers & {"zone", "utc"} else ""
        return f"{entry.time.strftime(form)}.{digits}{zone}"


def _parse_time(text: str) -> datetime:
    """Read a time as ``logcat -T`` takes it. Raises ValueError."""
    if re.fullmatch(r"\d+\.\d+", text):
        return datetime.fromtimestamp(float(text), UTC)
    now = datetime.now(UTC)
    for form in TIMES:
        try:
            found = datetime.strptime(text, form).replace(tzinfo=UTC)
        except ValueError:
            continue
        return found if form.startswith("%Y") else found.replace(year=now.year)
    raise ValueError(f"invalid argument '{text}' to -T or -t")
