"""Saving a stopped guest: the devices by one command of QEMU, the memory by its changed pages."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import trio

from anvild.sdk import WrongState

from .guest import Guest
from .machine import Machine
from .memory import save_delta
from .process import Account
from .qmp import QmpError

__all__ = ["refuse_unsaveable", "save_guest"]

UNSAVEABLE = ("nvme",)
"""Saving the state of an NVMe device crashes QEMU, so it is not asked to."""


def refuse_unsaveable(machine: Machine) -> None:
    """Raise WrongState when the machine has a device whose state QEMU cannot save."""
    for device in machine.devices:
        if device.startswith(UNSAVEABLE):
            raise WrongState(
                f"the guest has the device {device}, whose state cannot be saved: only destroy is possible"
            )


async def save_guest(
    guest: Guest,
    *,
    ram: Path,
    size: int,
    state: Path,
    delta: Path,
    account: Account,
    log: Callable[..., None],
) -> bool:
    """Write the devices of a stopped guest to ``state`` and the changes of its memory to ``delta``.

    Where the host forbids to look into QEMU's memory, all goes to ``state`` by a full migration, and False is
    returned. ``state`` lies in QEMU's folder. Raises DriverFault, DeviceLost, OSError.
    """
    try:
        await trio.to_thread.run_sync(hand_out, state, account)
        await guest.qmp.execute("xen-save-devices-state", filename=state.name, live=False)
        changed = await trio.to_thread.run_sync(partial(save_delta, guest.hypervisor.pid, ram, size, delta))
    except (PermissionError, QmpError) as error:
        log("warning", "guest.saved_in_full", reason=str(error))
        await trio.to_thread.run_sync(lambda: delta.unlink(missing_ok=True))
        await guest.save_all(state)
        return False
    log("debug", "guest.saved", changed=changed)
    return True


def hand_out(path: Path, account: Account) -> None:
    """Make an empty file that the account may write."""
    path.unlink(missing_ok=True)
    path.touch()
    account.give(path)
