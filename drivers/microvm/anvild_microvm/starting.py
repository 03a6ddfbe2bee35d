"""Starting a guest: QEMU's process with its sockets and limits, then a cold boot or a saved state."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import trio

from anvild.sdk import AnvilError, DriverFault
from anvild.sdk.cgroups import Limits, Placement
from anvild.sdk.sockets import listen_unix

from .guest import AGENT_SOCKET, LOG, MONITOR_SOCKET, Guest
from .host import Host
from .machine import Launch, command_line
from .memory import apply_delta
from .process import Hypervisor, end_processes
from .record import Record
from .template import KERNEL

__all__ = ["Started", "boot", "restore"]

SPARE_PROCESSORS = 0.5
"""What QEMU may use beyond its guest's processors, for disk and channels."""

THREADS = 256
"""What QEMU may have of them: one for each virtual processor, and those that write its disk."""

RESTORE_SECONDS = 60.0


class Started(msgspec.Struct, frozen=True):
    """A guest that has been started, and where its process was put."""

    guest: Guest
    placement: Placement


async def start_qemu(
    host: Host, folder: Path, record: Record, launch: Launch, on_end: Callable[[Guest], None]
) -> Started:
    """Start QEMU and connect to its monitor. Cancelling, or an error, leaves no process."""
    try:
        hypervisor, placement = await trio.to_thread.run_sync(spawn, host, folder, record, launch)
        guest = Guest(hypervisor, folder)
        await host.background.start(guest.run, on_end)
    except BaseException:
        await end_processes(folder)
        raise
    return Started(guest, placement)


def spawn(host: Host, folder: Path, record: Record, launch: Launch) -> tuple[Hypervisor, Placement]:
    """Make the sockets, start the process and put it into its groups."""
    with listen_unix(folder / AGENT_SOCKET) as agent, listen_unix(folder / MONITOR_SOCKET) as monitor:
        whole = msgspec.structs.replace(launch, agent_fd=agent.fileno(), monitor_fd=monitor.fileno())
        hypervisor = Hypervisor.spawn(
            command_line(whole),
            folder=folder,
            account=host.account,
            inherit=(agent.fileno(), monitor.fileno()),
            log=folder / LOG,
        )
    machine = record.machine
    limits = Limits(
        memory=machine.memory + host.settings.overhead,
        processors=machine.vcpus + SPARE_PROCESSORS,
        processes=THREADS,
    )
    return hypervisor, host.group(record.identity).place(hypervisor.pid, limits)


def plan(host: Host, record: Record) -> Launch:
    """Return what every start of this guest has in common."""
    return Launch(
        program=host.settings.qemu,
        identity=record.identity,
        machine=record.machine,
        disk=record.active,
        ram=record.ram,
        agent_fd=-1,
        monitor_fd=-1,
    )


async def boot(host: Host, folder: Path, record: Record, on_end: Callable[[Guest], None]) -> Started:
    """Boot a guest from its disk and return when its agent has called out. Leaves no process when it fails.

    Raises DriverFault with the end of the guest's console when it does not come up in time.
    """
    launch = msgspec.structs.replace(plan(host, record), kernel=KERNEL, initrd=record.origin.initrd)
    started = await start_qemu(host, folder, record, launch, on_end)
    try:
        await started.guest.agent(deadline=host.settings.boot_deadline)
    except AnvilError as error:
        console = await last_console(started.guest)
        raise DriverFault(f"the guest did not come up: {error.message}; its console ends with: {console}") from error
    except BaseException:
        await end_processes(folder)
        raise
    return started


async def last_console(guest: Guest) -> str:
    """Return what the guest's console ends with, and end the guest, which has not come up."""
    try:
        return (await guest.console()).strip() or "nothing"
    except AnvilError:
        return guest.reason
    finally:
        await guest.kill()


async def restore(
    host: Host,
    folder: Path,
    record: Record,
    state: Path,
    *,
    delta: Path | None,
    on_end: Callable[[Guest], None],
) -> Started:
    """Start QEMU with a saved state; the guest stays stopped. ``delta`` is what its memory had changed of its file.

    The delta is written into QEMU's memory before the devices are loaded, because they look into it. Leaves no
    process when it fails.
    """
    launch = msgspec.structs.replace(plan(host, record), incoming=True)
    started = await start_qemu(host, folder, record, launch, on_end)
    try:
        with trio.fail_after(RESTORE_SECONDS):
            if delta is not None:
                pid, ram, size = started.guest.hypervisor.pid, folder / record.ram, record.machine.memory
                await trio.to_thread.run_sync(partial(apply_delta, pid, ram, size, delta))
            await started.guest.restore(state)
    except BaseException as error:
        await end_processes(folder)
        if isinstance(error, trio.TooSlowError):
            raise DriverFault(f"QEMU did not load the saved state within {RESTORE_SECONDS:g} s") from None
        raise
    return started
