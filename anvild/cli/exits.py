"""The exit codes of ``anvil`` and ``anvild``, and the one exception that ends a command."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["EXIT_TABLE", "ExitCode", "Failure", "exit_for_status"]


class ExitCode(IntEnum):
    """What a script can tell from ``$?``. The numbers are stable."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    NOT_AUTHORISED = 4
    UNREACHABLE = 5
    CONFLICT = 6
    TIMED_OUT = 7
    CANCELLED = 8
    FAULT = 9
    INTERRUPTED = 130


EXIT_TABLE: dict[ExitCode, str] = {
    ExitCode.OK: "It worked; a run that was waited for has passed.",
    ExitCode.FAILED: "The run that was waited for has failed.",
    ExitCode.USAGE: "The command line, the configuration or the request is wrong.",
    ExitCode.NOT_FOUND: "What was named does not exist, or is not yours to see.",
    ExitCode.NOT_AUTHORISED: "No valid key, or one that may not do this.",
    ExitCode.UNREACHABLE: "No daemon answers, or it is not ready or too busy: try again later.",
    ExitCode.CONFLICT: "The state of things does not allow it: it exists already, is in use, or a limit is reached.",
    ExitCode.TIMED_OUT: "It did not end in the time given; it may still be going on.",
    ExitCode.CANCELLED: "The run that was waited for was cancelled.",
    ExitCode.FAULT: "A defect, of the daemon or of this program.",
    ExitCode.INTERRUPTED: "Ended by Ctrl-C.",
}
"""Every code with its meaning; the documentation's table is checked against this one."""

_BY_STATUS = {
    401: ExitCode.NOT_AUTHORISED,
    402: ExitCode.CONFLICT,
    403: ExitCode.NOT_AUTHORISED,
    404: ExitCode.NOT_FOUND,
    408: ExitCode.UNREACHABLE,
    409: ExitCode.CONFLICT,
    412: ExitCode.CONFLICT,
    429: ExitCode.UNREACHABLE,
    501: ExitCode.CONFLICT,
    502: ExitCode.CONFLICT,
    503: ExitCode.UNREACHABLE,
    504: ExitCode.TIMED_OUT,
    507: ExitCode.CONFLICT,
}


def exit_for_status(status: int) -> ExitCode:
    """Return the exit code for an HTTP status that is not a success."""
    return _BY_STATUS.get(status, ExitCode.USAGE if 400 <= status < 500 else ExitCode.FAULT)


class Failure(Exception):
    """Ends a command: ``code`` is a short word for programs, ``message`` one sentence that says what to do."""

    def __init__(self, exit_code: ExitCode, code: str, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.code = code
        self.message = message
