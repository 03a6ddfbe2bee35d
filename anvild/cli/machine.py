"""What the commands that work on this machine itself share: its settings, and the right to its data directory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from anvild.core.settings import Settings, load_settings

from .exits import ExitCode, Failure

__all__ = ["ConfigFile", "DataDir", "own_data_dir", "settings_of"]

ConfigFile = Annotated[Path | None, Parameter(help="Configuration file instead of those in /etc/anvild.")]
DataDir = Annotated[Path | None, Parameter(help="The daemon's data directory.")]


def settings_of(config: Path | None, data_dir: Path | None = None, **flags: object) -> Settings:
    """Load the settings with flags in force. Raises SettingsError."""
    return load_settings(config, {"data_dir": str(data_dir) if data_dir else None, **flags}, os.environ)


def own_data_dir(data_dir: Path) -> None:
    """Make the data directory where there is none, and refuse one of another user: its daemon could not go on."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        owner = data_dir.stat().st_uid
    except PermissionError:
        raise Failure(
            ExitCode.NOT_AUTHORISED,
            "permission_denied",
            f"{data_dir} cannot be used by this user; name another with --data-dir, or become its owner "
            "(sudo -u anvild ...)",
        ) from None
    if owner != os.geteuid():
        raise Failure(
            ExitCode.NOT_AUTHORISED,
            "foreign_data_dir",
            f"{data_dir} belongs to user {owner}; run this as that user, or the daemon could not use what it makes "
            "(sudo -u anvild ...)",
        )
