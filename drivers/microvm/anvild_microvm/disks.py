"""The guest's disk: a chain of files, the lowest a raw file system, each other one a qcow2 layer over the one below.

All files of a chain lie in one folder and name each other without it, so a folder with hard links to all of them is a
whole disk: removing a template or a guest is removing its folder, and the file system counts who still needs a layer.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from .children import Tool, run_tool

__all__ = ["DEPTH_LIMIT", "EMPTY", "TOOLS", "create_overlay", "flatten", "new_layer_name"]

DEPTH_LIMIT = 8
"""A chain that is longer is made flat, because every read may look into each of its layers."""

EMPTY = "empty.qcow2"
"""The file name of a template's empty top layer, which every new guest copies."""

TOOLS: tuple[Tool, ...] = (("qemu-img", "qemu-utils"),)


def new_layer_name() -> str:
    """Return a name that no other layer has, in any folder."""
    return f"{secrets.token_hex(8)}.qcow2"


def form_of(layer: str) -> str:
    return "qcow2" if layer.endswith(".qcow2") else "raw"


async def create_overlay(path: Path, backing: str, size: int) -> None:
    """Make an empty layer of ``size`` bytes over the layer ``backing`` of the same folder, which may be in use."""
    await run_tool(
        ["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-F", form_of(backing), "-b", backing, path.name, str(size)],
        cwd=path.parent,
    )


async def flatten(folder: Path, layer: str, base: str, target: str) -> None:
    """Write to ``target`` all that lies between ``base`` and the top of ``layer``, as one layer over ``base``.

    ``qemu-img convert -B`` is not for this: it takes the layer right above its source's own backing file alone.
    """
    await run_tool(["qemu-img", "create", "-q", "-f", "qcow2", "-F", form_of(layer), "-b", layer, target], cwd=folder)
    await run_tool(["qemu-img", "rebase", "-q", "-f", "qcow2", "-F", form_of(base), "-b", base, target], cwd=folder)
