"""Disks as chains of files, with the real qemu-img."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from anvild_microvm.disks import create_overlay, flatten

TOOLS = ("qemu-img", "qemu-io")
MIB = 2**20
SIZE = 64 * MIB

pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in TOOLS), reason="qemu-img and qemu-io are of the package qemu-utils"
)


def do(image: Path, *commands: str) -> str:
    """Have qemu-io read or write an image; a pattern that is not found is told in its output."""
    flags = [part for command in commands for part in ("-c", command)]
    done = subprocess.run(
        ["qemu-io", *flags, image.name], cwd=image.parent, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


async def test_a_flat_disk_has_what_is_in_all_layers(tmp_path: Path) -> None:
    with (tmp_path / "base").open("wb") as base:
        base.truncate(SIZE)
        base.write(b"\x09" * (5 * MIB))
    below = "base"
    for number in range(1, 5):  # each layer hides some of what is below it, the last one makes it zeros
        layer = f"{number}.qcow2"
        await create_overlay(tmp_path / layer, below, SIZE)
        what = "write -z" if number == 4 else f"write -P {number}"
        do(tmp_path / layer, f"{what} {number}M 2M", f"{what} {10 * number}M 1M")
        below = layer
    await flatten(tmp_path, "4.qcow2", "base", "flat.qcow2")
    for number in range(1, 5):
        (tmp_path / f"{number}.qcow2").unlink()
    expected = {0: 9, 1: 1, 2: 2, 3: 3, 4: 0, 5: 0, 6: 0, 10: 1, 20: 2, 30: 3, 40: 0, 50: 0}
    said = do(tmp_path / "flat.qcow2", *(f"read -P {value} {at}M 1M" for at, value in expected.items()))
    assert "failed" not in said, said
    assert said.count("read 1048576/1048576") == len(expected), said
    assert (tmp_path / "flat.qcow2").stat().st_size < 16 * MIB, "what nobody has written is not in it"
