"""Completing a template from what a snapshot has handed over: the memory in one file, a disk that is not too deep."""

from __future__ import annotations

from pathlib import Path

import msgspec
import trio

from .disks import DEPTH_LIMIT, EMPTY, create_overlay, flatten, new_layer_name
from .files import link, new_sparse
from .memory import merge_delta
from .process import Account
from .template import RAM, Manifest, write_manifest

__all__ = ["BASE", "DELTA", "complete"]

BASE = "base"
"""The memory file that the guest started from."""

DELTA = "delta"
"""What the guest has changed of it."""


async def complete(folder: Path, manifest: Manifest, account: Account) -> Manifest:
    """Turn the files of a snapshot into a template and return its manifest. The source runs on meanwhile.

    Of a template that is not warm there is no memory to complete.
    """
    if len(manifest.layers) > DEPTH_LIMIT:
        base, *upper = manifest.layers
        flat = new_layer_name()
        await flatten(folder, upper[-1], base, flat)
        manifest = msgspec.structs.replace(manifest, layers=(base, flat))
        await trio.to_thread.run_sync(_remove, folder, upper)
        account.share(folder / flat)
    await create_overlay(folder / EMPTY, manifest.layers[-1], manifest.disk)
    if manifest.warm:
        await trio.to_thread.run_sync(_finish_memory, folder, manifest, account)
    await trio.to_thread.run_sync(write_manifest, folder, manifest)
    return manifest


def _remove(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).unlink()


def _finish_memory(folder: Path, manifest: Manifest, account: Account) -> None:
    """Write the memory as it was."""
    base, delta, ram = folder / BASE, folder / DELTA, folder / RAM
    if not manifest.bare_state:
        new_sparse(ram, manifest.memory)
    elif delta.exists():
        merge_delta(base, delta, ram)
    else:
        link(base, ram)
    base.unlink()
    delta.unlink(missing_ok=True)
    account.give(ram)
