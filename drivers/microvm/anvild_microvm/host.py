"""What all guests of one driver share: the settings, the host's tools and accounts, the places of files."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
import trio

from anvild.sdk import Unavailable
from anvild.sdk.background import Background
from anvild.sdk.cgroups import Group, Layout

from .accelerator import Accelerator, processor
from .children import run_tool
from .disks import TOOLS
from .machine import Machine
from .process import Account
from .settings import MicrovmSettings

__all__ = ["QEMU_TOOLS", "Host", "Qemu"]

QEMU_TOOLS = (("qemu-system-x86_64", "qemu-system-x86"), *TOOLS)


async def qemu_version(program: str) -> str:
    """Return QEMU's full version, with the distribution's own."""
    text = await run_tool([program, "--version"])
    match = re.search(r"version (.+)", text)
    return match[1].strip() if match else text.strip()


def program_stamp(program: str) -> tuple[int, int]:
    """Return what changes when another version of a program is installed. Raises Unavailable when there is none."""
    path = shutil.which(program)
    if path is None:
        raise Unavailable(f"there is no {program}: apt-get install qemu-system-x86 qemu-utils")
    status = Path(path).stat()
    return status.st_ino, status.st_mtime_ns


class Qemu:
    """Which QEMU is installed. It may be exchanged while the daemon runs, so it is looked at before each start."""

    def __init__(self, program: str) -> None:
        self.version = ""
        self._program = program
        self._stamp = (0, 0)

    async def look(self) -> str:
        """Return the version, asked anew only when the program has changed. Raises Unavailable."""
        stamp = await trio.to_thread.run_sync(program_stamp, self._program)
        if stamp != self._stamp:
            self.version = await qemu_version(self._program)
            self._stamp = stamp
        return self.version


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """The ground that guests stand on. ``scope`` tells the groups of one driver's guests from another's."""

    settings: MicrovmSettings
    account: Account
    accelerator: Accelerator
    qemu: Qemu
    background: Background
    starting: trio.CapacityLimiter
    log: Callable[..., None]
    layout: Layout
    scope: str

    def machine(self, vcpus: int, memory: int) -> Machine:
        """Return the machine that a guest of this size gets here."""
        kvm = self.accelerator.name == "kvm"
        return Machine(
            qemu=self.qemu.version,
            accelerator=self.accelerator.name,
            cpu=f"host ({processor()})" if kvm else "max",
            vcpus=vcpus,
            memory=memory,
        )

    def group(self, identity: str) -> Group:
        """Return a guest's control group."""
        return Group(self.layout, f"{self.scope}-{identity}")

    async def remove_group(self, identity: str, folders: Iterable[str] = ()) -> None:
        """Remove the group of a guest that has ended, and the ``folders`` that it was put into by an earlier daemon.
        One that stays is logged: it harms no other guest."""
        try:
            await trio.to_thread.run_sync(self.group(identity).remove, folders)
        except OSError as error:
            self.log("warning", "guest.group_stays", device=identity, reason=str(error))
