"""``anvild serve``."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

from cyclopts import Parameter

from anvild.core.data_dir import DaemonError
from anvild.core.logging import configure, get_logger
from anvild.core.settings import Settings
from anvild.daemon import serve as run_daemon
from anvild.joining import join as run_joined
from anvild.web.server import BindError

from .ending import cause, explain
from .exits import ExitCode, Failure
from .machine import ConfigFile, DataDir, settings_of

__all__ = ["serve"]

log = get_logger("daemon")


async def serve(
    *,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    listen: Annotated[str | None, Parameter(help="HOST:PORT or unix:PATH; port 0 picks a free one.")] = None,
    join: Annotated[str | None, Parameter(help="Serve nothing, and lend this machine's drivers to this lab.")] = None,
    token: Annotated[str | None, Parameter(help="What --join registers with, at the first start.")] = None,
) -> int:
    """Serve until SIGTERM.

    When it can serve, it prints one line of JSON on standard output, writes the same to ready.json in the data
    directory, and tells systemd.

    With --join it is no daemon of its own: it needs no database, opens no port, and lends its drivers to the daemon at
    that address. The first start takes the registration token of the host that was made there.
    """
    if token is not None and join is None:
        raise Failure(ExitCode.USAGE, "usage", "--token is for --join")

    def load() -> Settings:
        return settings_of(config, data_dir, listen=listen)

    configure()
    try:
        settings = load()
        configure(level=logging.getLevelNamesMapping()[settings.log_level.upper()])
        if join is not None:
            await run_joined(settings, join, token)
        else:
            await run_daemon(settings, reload=load)
    except Exception as error:
        failure = _failure(cause(error))
        if sys.stderr.isatty():
            raise failure from None
        # What reads the log reads this too.
        log.error("cannot_serve", code=failure.code, reason=failure.message)  # noqa: TRY400
        return failure.exit_code
    return ExitCode.OK


def _failure(error: BaseException) -> Failure:
    if isinstance(error, DaemonError | BindError):
        return Failure(ExitCode.CONFLICT, "cannot_start", str(error))
    return explain(error)
