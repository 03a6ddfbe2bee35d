"""The real client against one real daemon with the sandbox driver, and its own home."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import pytest
import structlog

from anvild.cli import client
from tests.daemon import BIN, Daemon

CONFIG = """
[drivers.microvm]
enabled = false
"""


@pytest.fixture(scope="session")
def lab(daemon_factory: Callable[..., Daemon]) -> Daemon:
    """A daemon with a first user, whose sandbox driver is ready."""
    made = daemon_factory(CONFIG)
    made.bootstrap()
    made.start()
    made.wait_for_driver("sandbox")
    return made


@pytest.fixture
def environ(lab: Daemon, tmp_path: Path) -> dict[str, str]:
    """The environment of a person who uses the lab."""
    own = {"HOME": str(tmp_path), "ANVIL_URL": lab.url, "ANVIL_API_KEY": lab.keys["live_key"]}
    return {**os.environ, **own, "ANVIL_DATA_DIR": str(tmp_path / "none")}


@pytest.fixture
def anvil(environ: Mapping[str, str]) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Run the client to its end, in this process: its imports take longer than its work. What it configures is put
    back. The program itself is started by the tests that are about signals, terminals and streams."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run(*arguments: object, stdin: str = "", **changed: str) -> subprocess.CompletedProcess[str]:
        out, err = (io.TextIOWrapper(io.BytesIO(), write_through=True) for _ in range(2))
        words = [str(each) for each in arguments]
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            for name, value in {**environ, **changed}.items():
                patch.setenv(name, value)
            patch.setattr(sys, "stdin", io.StringIO(stdin))
            code = client.run(words)
        texts = [stream.buffer.getvalue().decode() for stream in (out, err)]
        return subprocess.CompletedProcess(words, code, *texts)

    yield run
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def told(anvil: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., Any]:
    """Run the client with ``--json`` and return its document; it must have worked."""

    def run(*arguments: object) -> Any:
        done = anvil("--json", *arguments)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return json.loads(done.stdout)

    return run


@pytest.fixture
def in_terminal(environ: Mapping[str, str]) -> Callable[..., tuple[int, bytes]]:
    """Start the client in a terminal of its own, type lines each when the one before has been answered as is said, and
    return its exit code and all that was on the screen."""

    def run(words: Sequence[str], talk: Sequence[tuple[bytes, bytes]]) -> tuple[int, bytes]:
        process, screen = pty.fork()
        if process == 0:
            os.execve(BIN / "anvil", ["anvil", *words], dict(environ))
        shown = b""
        with os.fdopen(screen, "r+b", buffering=0) as terminal:
            for awaited, line in talk:
                while awaited not in shown:
                    shown += terminal.read(4096)
                terminal.write(line + b"\r")
            with suppress(OSError):  # how a terminal says that its other end has closed
                while more := terminal.read(4096):
                    shown += more
        _, status = os.waitpid(process, 0)
        return os.waitstatus_to_exitcode(status), shown

    return run
