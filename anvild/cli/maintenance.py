"""``anvil backup`` and ``anvil restore``: everything that must be kept, in one file. They work on this machine."""

from __future__ import annotations

from pathlib import Path

import msgspec
import trio

from anvild.core import backup as archives

from .context import Ctx
from .machine import ConfigFile, DataDir, own_data_dir, settings_of
from .output import size

__all__ = ["backup", "restore"]


async def backup(file: Path, /, *, data_dir: DataDir = None, config: ConfigFile = None, context: Ctx) -> None:
    """Write everything that must be kept to a new file, also while the daemon runs.

    The file holds keys: keep it as you keep them.
    """
    settings = settings_of(config, data_dir)
    own_data_dir(settings.data_dir)
    manifest = await trio.to_thread.run_sync(archives.backup, settings.data_dir, settings.store_url, file)
    count = (await trio.Path(file).stat()).st_size
    if context.output.json:
        context.output.document({"file": str(file), "size": count, **msgspec.to_builtins(manifest)})
    else:
        context.output.say(f"{file}  {size(count)}, complete")


async def restore(file: Path, /, *, data_dir: DataDir = None, config: ConfigFile = None, context: Ctx) -> None:
    """Bring a backup back into a data directory that is not there or empty, while no daemon runs on it.

    A backup of PostgreSQL goes into the empty database that the setting store.url names.
    """
    settings = settings_of(config, data_dir)
    url = settings.store.url or None
    manifest = await trio.to_thread.run_sync(archives.restore, file, settings.data_dir, url)
    if context.output.json:
        context.output.document({"data_dir": str(settings.data_dir), **msgspec.to_builtins(manifest)})
    else:
        made = manifest.made_at.isoformat(timespec="seconds")
        context.output.say(f"{settings.data_dir} is as it was at {made}; start the daemon")
