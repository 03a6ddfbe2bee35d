"""What all guests of one driver share: the settings, the host's tools and accounts, the places of files."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable

import msgspec
import trio

from anvild.sdk import Unavailable

from .accelerator import Accelerator, processor
from .background import Background
from .children import run_tool
from .disks import TOOLS
from .machine import Machine
from .process import Account
from .settings import MicrovmSettings

__all__ = ["QEMU_TOOLS", "Host", "qemu_version"]

QEMU_TOOLS = (("qemu-system-x86_64", "qemu-system-x86"), *TOOLS)


async def qemu_version(program: str) -> str:
    """Return QEMU's full version, with the distribution's own. Raises Unavailable when there is no QEMU."""
    if shutil.which(program) is None:
        raise Unavailable(f"there is no {program}: apt-get install qemu-system-x86 qemu-utils")
    text = await run_tool([program, "--version"])
    match = re.search(r"version (.+)", text)
    return match[1].strip() if match else text.strip()


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """The ground that guests stand on. ``scope`` tells the groups of one driver's guests from another's."""

    settings: MicrovmSettings
    account: Account
    accelerator: Accelerator
    qemu: str
    background: Background
    starting: trio.CapacityLimiter
    log: Callable[..., None]
    scope: str

    def machine(self, vcpus: int, memory: int) -> Machine:
        """Return the machine that a guest of this size gets here."""
        kvm = self.accelerator.name == "kvm"
        return Machine(
            qemu=self.qemu,
            accelerator=self.accelerator.name,
            cpu=f"host ({processor()})" if kvm else "max",
            vcpus=vcpus,
            memory=memory,
        )

    def group(self, identity: str) -> str:
        """Return the name of a guest's control group."""
        return f"anvild-{self.scope}-{identity}"
