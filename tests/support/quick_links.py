"""Run as a script: a daemon (``lab LISTEN``), or a machine that joins one (``far URL [TOKEN]``), with a data directory
and a configuration, whose links are asked for signs of life more often than those of a lab."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path

import trio

from anvild.core.hosts import Pulse
from anvild.core.logging import configure
from anvild.core.settings import load_settings
from anvild.daemon import serve
from anvild.joining import join

PULSE = Pulse(ask=1.0, answer=5.0, pause=0.2, longest_pause=0.5)


def main(role: str, data_dir: str, config: str, *words: str) -> None:
    """Run until SIGTERM."""
    configure()
    listen = words[0] if role == "lab" else None
    settings = load_settings(Path(config), {"data_dir": data_dir, "listen": listen}, os.environ)
    if role == "lab":
        trio.run(partial(serve, settings, pulse=PULSE))
    else:
        trio.run(partial(join, settings, *words, pulse=PULSE, heartbeat=1.0))


if __name__ == "__main__":
    main(*sys.argv[1:])
