"""The log as a reader of the journal sees it."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from anvild.core.logging import configure, get_logger


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """A log in memory; what pytest and others had configured is put back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    target = io.StringIO()
    configure(target)
    yield target
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_our_own_events_are_json_lines(stream: io.StringIO) -> None:
    get_logger("engine").info("device_seen", device="d1", path=Path("/x"), count=3)
    [line] = lines(stream)
    assert str(line.pop("at")).endswith("Z")
    assert line == {
        "event": "device_seen",
        "level": "info",
        "part": "engine",
        "device": "d1",
        "path": "/x",
        "count": 3,
    }


def test_libraries_and_warnings_arrive_in_the_same_form(stream: io.StringIO) -> None:
    logging.getLogger("hypercorn.error").warning("slow %s", "client", extra={"peer": "127.0.0.1"})
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    first, second = lines(stream)
    assert first["event"] == "slow client"
    assert (first["level"], first["part"], first["peer"]) == ("warning", "hypercorn.error", "127.0.0.1")
    assert "DeprecationWarning" in str(second["event"])


def test_a_traceback_stays_on_one_line(stream: io.StringIO) -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        get_logger("engine").exception("driver_failed")
    [line] = lines(stream)
    assert "ValueError: broken" in str(line["exception"])


def test_debug_is_left_out(stream: io.StringIO) -> None:
    get_logger("engine").debug("detail")
    logging.getLogger("library").debug("detail")
    assert stream.getvalue() == ""


@pytest.mark.parametrize("secret", ["wrn_0123456789abcdef", "anvil_live_0123456789", "eyJhbGciOi.JSUzI1NiJ9.abc-_9"])
def test_secrets_do_not_pass(stream: io.StringIO, secret: str) -> None:
    get_logger("web").info("login", password="pa55", header=f"Bearer {secret}")
    logging.getLogger("library").error("refused %s", secret)
    text = stream.getvalue()
    assert "pa55" not in text
    assert secret not in text
    assert len(lines(stream)) == 2


def test_people_get_readable_lines(stream: io.StringIO) -> None:
    target = io.StringIO()
    configure(target, pretty=True)
    get_logger("engine").info("device_seen", key="hidden")
    assert "device_seen" in target.getvalue()
    assert not target.getvalue().startswith("{")
    assert "hidden" not in target.getvalue()


@pytest.mark.parametrize("pretty", [True, False])
def test_a_traceback_shows_no_local_variables(stream: io.StringIO, pretty: bool) -> None:
    target = io.StringIO()
    configure(target, pretty=pretty)
    local = "".join(["se", "cret"])
    try:
        raise ValueError(len(local))
    except ValueError:
        get_logger("engine").exception("driver_failed")
    assert "ValueError: 6" in target.getvalue()
    assert local not in target.getvalue()


def test_a_terminal_means_people(stream: io.StringIO) -> None:
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as terminal, os.fdopen(master, "rb", buffering=0) as screen:
        configure(terminal)
        get_logger("engine").info("device_seen")
        terminal.flush()
        assert b"\x1b[1mdevice_seen" in screen.read(4096)
