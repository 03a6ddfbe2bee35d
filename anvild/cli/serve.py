"""``anvild serve``."""

from __future__ import annotations

import logging
from typing import Annotated

from cyclopts import Parameter

from anvild.core.logging import configure
from anvild.core.settings import Settings
from anvild.daemon import DaemonError
from anvild.daemon import serve as run_daemon
from anvild.web.server import BindError

from .exits import ExitCode, Failure
from .machine import ConfigFile, DataDir, settings_of

__all__ = ["serve"]


async def serve(
    *,
    config: ConfigFile = None,
    data_dir: DataDir = None,
    listen: Annotated[str | None, Parameter(help="HOST:PORT or unix:PATH; port 0 picks a free one.")] = None,
) -> None:
    """Serve until SIGTERM.

    When it can serve, it prints one line of JSON on standard output, writes the same to ready.json in the data
    directory, and tells systemd.
    """

    def load() -> Settings:
        return settings_of(config, data_dir, listen=listen)

    settings = load()
    configure(level=logging.getLevelNamesMapping()[settings.log_level.upper()])
    try:
        await run_daemon(settings, reload=load)
    except* (DaemonError, BindError) as group:
        raise Failure(ExitCode.CONFLICT, "cannot_start", str(_first(group))) from None


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
