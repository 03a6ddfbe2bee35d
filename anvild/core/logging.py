"""The daemon's log: one JSON object a line on standard error, or coloured lines where that is a terminal.

Everything goes through here: our own events (``log.info("device_seen", device=...)``), what libraries say through
:mod:`logging`, and warnings. Writing to standard error may wait for its reader, as it does for any program; nothing
else of it blocks.

A secret must not reach the log in the first place. As a second line, values under names that only secrets have are
masked, and so is every API key, wherever in a line it stands.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import TextIO

import msgspec
import structlog
from structlog.dev import plain_traceback
from structlog.typing import EventDict, Processor, WrappedLogger

__all__ = ["configure", "get_logger"]

SECRET_NAMES = frozenset(
    {"password", "secret", "token", "key", "api_key", "live_key", "authorization", "cookie", "credential", "bearer"}
)
SECRET_TEXT = re.compile(r"\b(wrn_|anvil_live_|eyJ)[A-Za-z0-9_\-.]{8,}")
MASK = "***"


def get_logger(name: str) -> structlog.typing.FilteringBoundLogger:
    """Return the logger of a part of the daemon; ``name`` appears in its lines as ``part``."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(part=name)
    return logger


def configure(stream: TextIO | None = None, *, level: int = logging.INFO, pretty: bool | None = None) -> None:
    """Send the log of this process to ``stream`` (standard error by default).

    ``pretty`` None means: for people when the stream is a terminal, JSON lines otherwise. Calling it again replaces
    what was configured before.
    """
    target = stream if stream is not None else sys.stderr
    people = target.isatty() if pretty is None else pretty
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        _mask_names,
    ]
    render: list[Processor] = [structlog.processors.format_exc_info, _render_json]
    if people:
        render = [_Lines(colors=target.isatty(), timestamp_key="at", exception_formatter=plain_traceback)]
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(target),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared, _add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # At the usual level, what libraries have to tell begins at warnings.
    root.setLevel(logging.WARNING if level == logging.INFO else level)
    logging.captureWarnings(True)


def _add_logger_name(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Name the library that a line of :mod:`logging` came from."""
    record: logging.LogRecord = event["_record"]
    event["part"] = record.name
    return event


def _mask_names(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    for name in event.keys() & SECRET_NAMES:
        event[name] = MASK
    return event


def _render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """Render one line; what JSON does not know is written as its text."""
    return _mask_text(msgspec.json.encode(event, enc_hook=str).decode())


class _Lines(structlog.dev.ConsoleRenderer):
    """Coloured lines for people. Tracebacks are plain: local variables hold secrets."""

    def __call__(self, logger: WrappedLogger, name: str, event_dict: EventDict) -> str:
        return _mask_text(str(super().__call__(logger, name, event_dict)))


def _mask_text(line: str) -> str:
    return SECRET_TEXT.sub(rf"\1{MASK}", line)
