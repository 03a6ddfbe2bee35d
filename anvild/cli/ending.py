"""How a command ends: whatever it raised becomes one sentence on standard error and an exit code."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence

import cyclopts
import msgspec

from anvild.core.settings import SettingsError
from anvild.sdk import AnvilError

from .exits import ExitCode, Failure, exit_for_status
from .output import warn

__all__ = ["cause", "explain", "report", "settle", "wants_json"]


def settle(call: Callable[[], object], arguments: Sequence[str]) -> int:
    """Call a command, say on standard error why it failed, and return its exit code.

    ``arguments`` tell in which form to say it, because a command line that cannot be read must be answered too.
    """
    as_json = wants_json(arguments)
    try:
        result = call()
    except cyclopts.CycloptsError as error:
        return report(Failure(ExitCode.USAGE, "usage", f"{error} See --help."), as_json)
    except BaseException as error:
        found = cause(error)
        if isinstance(found, KeyboardInterrupt):
            return int(ExitCode.INTERRUPTED)
        if not isinstance(found, Exception):
            raise
        return report(explain(found), as_json)
    return int(result) if isinstance(result, int) else int(ExitCode.OK)


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether ``--json`` is among the options of a command line; what follows ``--`` is not ours."""
    return "--json" in (arguments[: arguments.index("--")] if "--" in arguments else arguments)


def cause(error: BaseException) -> BaseException:
    """Find what a group of exceptions is about: an interrupt before a failure, a failure before anything else."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    causes = [cause(each) for each in error.exceptions]
    return min(causes, key=lambda each: (not isinstance(each, KeyboardInterrupt), not isinstance(each, Failure)))


def explain(error: BaseException) -> Failure:
    """Turn whatever ended a command into the one failure that is shown."""
    match error:
        case Failure():
            return error
        case AnvilError(code="store_error"):
            return Failure(ExitCode.CONFLICT, error.code, error.message)
        case AnvilError():
            return Failure(exit_for_status(error.http), error.code, error.message)
        case SettingsError():
            return Failure(ExitCode.USAGE, "settings", str(error))
        case OSError():
            what = f"{error.filename}: " if error.filename else ""
            return Failure(ExitCode.USAGE, "os_error", f"{what}{error.strerror or error}")
        case _:
            logging.getLogger("anvil").error("defect", exc_info=error)
            return Failure(ExitCode.FAULT, "defect", f"{type(error).__name__}: {error}; this is a defect of anvil")


def report(failure: Failure, as_json: bool) -> int:
    """Say on standard error why the command failed, and return its exit code."""
    if as_json:
        body = {"error": {"code": failure.code, "message": failure.message}}
        print(msgspec.json.encode(body).decode(), file=sys.stderr)
    else:
        warn(f"anvil: {failure.message}")
    return int(failure.exit_code)
