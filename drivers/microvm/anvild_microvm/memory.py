"""A guest's memory seen from the host: which pages differ from the file that it started from, out and in.

Guest memory is always a private mapping of an immutable file, so the pages that the guest has written are exactly the
mapping's anonymous pages, and the kernel's pagemap tells them. Saved, they form a *delta* against that file. A delta
is put back into the memory of a fresh QEMU that maps the same file, or merged into a copy of it.
"""

from __future__ import annotations

import array
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from anvild.sdk import WrongState

from .files import copy_sparse

__all__ = ["PAGE", "apply_delta", "dirty_ranges", "merge_delta", "ram_address", "save_delta"]

PAGE = os.sysconf("SC_PAGE_SIZE")
PROC = Path("/proc")
PRESENT_OR_SWAPPED = 1 << 63 | 1 << 62
FILE_BACKED = 1 << 61
BLOCK = 512
MAGIC = b"anvildlt"
HEADER = struct.Struct("<8sQ")
SPAN = struct.Struct("<QQ")
STEP = 4 * 2**20

Range = tuple[int, int]
"""The first byte and the byte behind the last, as offsets into the memory."""


def ram_address(pid: int, ram: Path, size: int, proc: Path = PROC) -> int:
    """Return where the process maps the whole file ``ram``. The file is known by its inode: it may have lost its
    name. Raises WrongState when there is no such mapping, PermissionError when the host forbids to look."""
    inode = ram.stat().st_ino
    for line in (proc / str(pid) / "maps").read_text().splitlines():
        span, mode, _offset, _device, number = line.split(maxsplit=5)[:5]
        start, end = (int(part, 16) for part in span.split("-"))
        if int(number) == inode and mode.endswith("p") and end - start == size:
            return start
    raise WrongState(f"QEMU with process id {pid} does not map its memory file")


def dirty_ranges(entries: bytes) -> list[Range]:
    """Turn pagemap entries (eight bytes a page) into the ranges of pages that are the process's own."""
    ranges: list[Range] = []
    width = BLOCK * 8
    empty = bytes(width)
    for base in range(0, len(entries), width):
        block = entries[base : base + width]
        if block == empty:
            continue
        first = base // 8
        for page, entry in enumerate(array.array("Q", block), start=first):
            if entry & PRESENT_OR_SWAPPED and not entry & FILE_BACKED:
                offset = page * PAGE
                if ranges and ranges[-1][1] == offset:
                    ranges[-1] = (ranges[-1][0], offset + PAGE)
                else:
                    ranges.append((offset, offset + PAGE))
    return ranges


def save_delta(pid: int, ram: Path, size: int, target: Path, proc: Path = PROC) -> int:
    """Write what the stopped process ``pid`` has changed of its memory file to ``target``; return the bytes of it.

    Raises PermissionError when the host forbids to look into the process, WrongState, OSError.
    """
    address = ram_address(pid, ram, size, proc)
    with (proc / str(pid) / "pagemap").open("rb", buffering=0) as pagemap:
        entries = os.pread(pagemap.fileno(), size // PAGE * 8, address // PAGE * 8)
    ranges = dirty_ranges(entries)
    with (proc / str(pid) / "mem").open("rb", buffering=0) as memory, target.open("xb", buffering=0) as file:
        file.write(HEADER.pack(MAGIC, len(ranges)) + b"".join(SPAN.pack(*span) for span in ranges))
        for start, end in pieces(ranges):
            file.write(os.pread(memory.fileno(), end - start, address + start))
    return sum(end - start for start, end in ranges)


def pieces(ranges: Sequence[Range]) -> Iterator[Range]:
    """Cut long ranges into steps that fit a buffer."""
    for start, end in ranges:
        for position in range(start, end, STEP):
            yield position, min(position + STEP, end)


def read_delta(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the (offset, bytes) of a delta."""
    with path.open("rb") as file:
        magic, count = HEADER.unpack(file.read(HEADER.size))
        if magic != MAGIC:
            raise WrongState(f"{path} is no saved memory")
        ranges = [SPAN.unpack(file.read(SPAN.size)) for _ in range(count)]
        for start, end in pieces(ranges):
            content = file.read(end - start)
            if len(content) != end - start:
                raise WrongState(f"{path} is cut short")
            yield start, content


def apply_delta(pid: int, ram: Path, size: int, delta: Path, proc: Path = PROC) -> None:
    """Write a delta into the memory of a QEMU that has not run yet and maps the same file. Raises as
    :func:`save_delta`."""
    address = ram_address(pid, ram, size, proc)
    with (proc / str(pid) / "mem").open("r+b", buffering=0) as memory:
        for offset, content in read_delta(delta):
            os.pwrite(memory.fileno(), content, address + offset)


def merge_delta(ram: Path, delta: Path, target: Path) -> None:
    """Write to ``target`` what the memory was: the file ``ram`` with the delta over it."""
    copy_sparse(ram, target)
    with target.open("r+b", buffering=0) as file:
        for offset, content in read_delta(delta):
            os.pwrite(file.fileno(), content, offset)
