"""Files of the host: sparse copies, atomic writes, folders that vanish again."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

__all__ = [
    "allocated",
    "copy_sparse",
    "data_ranges",
    "hold",
    "link",
    "new_sparse",
    "remove_tree",
    "scratch",
    "write_atomic",
]

COPY_STEP = 64 * 2**20


@asynccontextmanager
async def scratch(parent: Path | None, *, prefix: str = ".scratch-") -> AsyncIterator[Path]:
    """A folder that is removed with all in it on leaving, cancelled or not. ``parent`` None is the host's own place
    for temporary files."""
    folder = Path(await trio.to_thread.run_sync(lambda: tempfile.mkdtemp(prefix=prefix, dir=parent)))
    try:
        yield folder
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(shutil.rmtree, folder, True)


def hold(path: Path) -> int | None:
    """Take the lock file ``path`` for this process; return the descriptor that holds it until it is closed, or None
    when another process has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def remove_tree(folder: Path) -> None:
    """Remove a folder so that it is gone under its name at once, even when removing what is in it takes time or is
    interrupted. A missing folder is no error."""
    trash = folder.with_name(f".trash-{secrets.token_hex(8)}")
    try:
        folder.rename(trash)
    except FileNotFoundError:
        return
    shutil.rmtree(trash, ignore_errors=True)


def write_atomic(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write a file so that a reader, or a restart, finds the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def new_sparse(path: Path, size: int) -> None:
    """Make a file of ``size`` zero bytes that takes no space."""
    with path.open("xb") as file:
        file.truncate(size)


def allocated(path: Path) -> int:
    """Return the bytes that a file takes on its disk."""
    return path.stat().st_blocks * 512


def link(source: Path, target: Path) -> None:
    """Give a file a second name. Across file systems it is copied; an existing target is replaced."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
            raise
        copy_sparse(source, target)


def data_ranges(descriptor: int) -> Iterator[tuple[int, int]]:
    """Yield the (start, end) ranges of a sparse file that hold data."""
    size = os.fstat(descriptor).st_size
    position = 0
    while position < size:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        position = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, position


def copy_sparse(source: Path, target: Path) -> None:
    """Copy a file with its holes, inside the kernel, sharing blocks where the file system can."""
    with source.open("rb") as reading, target.open("wb") as writing:
        os.fchmod(writing.fileno(), os.fstat(reading.fileno()).st_mode & 0o777)
        writing.truncate(os.fstat(reading.fileno()).st_size)
        for start, end in data_ranges(reading.fileno()):
            position = start
            while position < end:
                copied = copy_step(reading.fileno(), writing.fileno(), position, min(end - position, COPY_STEP))
                if copied == 0:
                    raise OSError(errno.EIO, f"{source} became shorter while it was copied")
                position += copied


def copy_step(reading: int, writing: int, position: int, length: int) -> int:
    """Copy one piece at the same offset; file systems that cannot do it among themselves take the long way."""
    try:
        return os.copy_file_range(reading, writing, length, position, position)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        return os.pwrite(writing, os.pread(reading, min(length, 2**20), position), position)
