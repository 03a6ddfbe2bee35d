"""What a process of anvild does with its machine before all else: it takes its data directory for itself, and tells the
world when it serves."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["DaemonError", "announced", "claimed", "raise_file_limit"]


class DaemonError(Exception):
    """The daemon cannot start; the message says why and what would help."""


def raise_file_limit() -> None:
    """Use as many file descriptors as the system allows: each client, guest and program holds some."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def claimed(data_dir: Path) -> Iterator[None]:
    """Hold the data directory for this process alone. Raises DaemonError."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o750)
        descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DaemonError(f"the data directory {data_dir} cannot be used: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DaemonError(
                f"another anvild runs on the data directory {data_dir}: stop it, or name another with --data-dir"
            ) from None
        yield
    finally:
        os.close(descriptor)


@contextmanager
def announced(data_dir: Path, url: str) -> Iterator[None]:
    """Tell the world on standard output and in ``ready.json``; the file goes when the daemon does."""
    line = json.dumps({"event": "ready", "url": url, "pid": os.getpid()})
    path = data_dir / "ready.json"
    fresh = path.with_suffix(".new")
    fresh.write_text(line + "\n")
    fresh.replace(path)
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
