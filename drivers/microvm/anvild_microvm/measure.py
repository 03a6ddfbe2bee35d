"""What a guest uses of its host."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import trio

from anvild.sdk import Sample

from .files import allocated
from .guest import Guest

__all__ = ["Meter"]

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")
USER_TIME, SYSTEM_TIME = 11, 12


class Cpu(msgspec.Struct, frozen=True):
    """One entry of QEMU's answer to query-cpus-fast."""

    thread: int = msgspec.field(name="thread-id")


class BlockCounters(msgspec.Struct, frozen=True):
    """Bytes that a guest has read from and written to its disk."""

    rd_bytes: int
    wr_bytes: int


class BlockStats(msgspec.Struct, frozen=True):
    """One entry of QEMU's answer to query-blockstats."""

    stats: BlockCounters


def processor_seconds(pid: int, threads: Sequence[int], proc: Path = PROC) -> float:
    """Return the processor time that threads of a process have used."""
    ticks = 0
    for thread in threads:
        text = (proc / str(pid) / "task" / str(thread) / "stat").read_text()
        fields = text[text.rindex(")") + 2 :].split()
        ticks += int(fields[USER_TIME]) + int(fields[SYSTEM_TIME])
    return ticks / TICKS


def private_memory(pid: int, proc: Path = PROC) -> int:
    """Return the bytes of memory that the process shares with no other.

    A guest's memory is a private mapping of its template's: what it has written is anonymous. The kernel counts that;
    what ``smaps_rollup`` says is the same, found by a walk through all pages.
    """
    status = (proc / str(pid) / "status").read_text()
    _, found, rest = status.partition("RssAnon:")
    return int(rest.split(maxsplit=1)[0]) * 1024 if found else 0


class Meter:
    """Takes samples of one guest. The processor's load is the mean since the sample before."""

    def __init__(self) -> None:
        self._guest: Guest | None = None
        self._threads: tuple[int, ...] = ()
        self._used = 0.0
        self._since = 0.0

    async def sample(self, guest: Guest, disk: Path) -> Sample:
        """Take one. Raises DeviceLost."""
        pid = guest.hypervisor.pid
        if guest is not self._guest:
            cpus = await guest.qmp.query(list[Cpu], "query-cpus-fast")
            self._guest, self._threads = guest, tuple(cpu.thread for cpu in cpus)
            self._used, self._since = 0.0, 0.0
        used, memory, size = await trio.to_thread.run_sync(self._read, pid, disk)
        now = trio.current_time()
        elapsed = now - self._since
        cpu = 100 * (used - self._used) / elapsed if self._since and elapsed > 0 else 0.0
        self._used, self._since = used, now
        blocks = await guest.qmp.query(list[BlockStats], "query-blockstats")
        return Sample(
            at=datetime.now(UTC),
            cpu=round(cpu, 2),
            memory=memory,
            disk=size,
            read=sum(block.stats.rd_bytes for block in blocks),
            written=sum(block.stats.wr_bytes for block in blocks),
        )

    def _read(self, pid: int, disk: Path) -> tuple[float, int, int]:
        return processor_seconds(pid, self._threads), private_memory(pid), allocated(disk)
