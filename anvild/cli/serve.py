"""``anvild serve``."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from anvild.core.logging import configure
from anvild.core.settings import load_settings
from anvild.daemon import serve as run_daemon

__all__ = ["serve"]


async def serve(
    *,
    config: Annotated[Path | None, Parameter(help="Configuration file instead of /etc/anvild.")] = None,
    data_dir: Annotated[Path | None, Parameter(help="Where everything that must be kept lies.")] = None,
    listen: Annotated[str | None, Parameter(help="HOST:PORT or unix:PATH; port 0 picks a free one.")] = None,
) -> None:
    """Serve until SIGTERM.

    When it can serve, it prints one line of JSON on standard output, writes the same to ready.json in the data
    directory, and tells systemd.
    """
    settings = load_settings(config, {"data_dir": data_dir, "listen": listen}, os.environ)
    configure(level=logging.getLevelNamesMapping()[settings.log_level.upper()])
    await run_daemon(settings)
