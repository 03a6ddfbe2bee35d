"""What a guest's machine is made of, and the QEMU command line that makes it."""

from __future__ import annotations

import msgspec

__all__ = ["KERNEL_ARGUMENTS", "Launch", "Machine", "command_line", "differences"]

MIB = 2**20
MACHINE_TYPE = "q35"
AGENT_PORT = "anvild.agent"
DISK = "d0"
CONSOLE = "con"
TRANSLATION_CACHE_MIB = 64
"""QEMU's own default is a gigabyte a guest; 64 MiB is as fast, 16 is clearly slower."""

DEVICES = ("virtio-blk-pci", "virtio-serial-pci", "virtserialport", "isa-serial")
"""The devices in the order in which they are plugged: a saved state fits no other order."""

KERNEL_ARGUMENTS = (
    "console=ttyS0 quiet panic=-1 root=/dev/vda rw cryptomgr.notests init_on_alloc=0 8250.nr_uarts=1 no_timer_check "
    "mitigations=off apparmor=0 audit=0 i8042.nokbd i8042.noaux"
)

SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What a saved state depends on: it can be restored where all of this is the same, and nowhere else."""

    qemu: str
    accelerator: str
    cpu: str
    vcpus: int
    memory: int
    type: str = MACHINE_TYPE
    devices: tuple[str, ...] = DEVICES


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """One start of QEMU. File names are relative to the folder that QEMU is started in.

    ``kernel`` and ``initrd`` are for a cold boot; ``incoming`` waits for a saved state instead.
    """

    program: str
    identity: str
    machine: Machine
    disk: str
    ram: str
    agent_fd: int
    monitor_fd: int
    kernel: str | None = None
    initrd: str | None = None
    incoming: bool = False


_WORDS = {
    "qemu": "QEMU",
    "accelerator": "accelerator",
    "cpu": "processor",
    "vcpus": "vCPUs",
    "memory": "memory",
    "type": "machine type",
    "devices": "devices",
}


def differences(saved: Machine, here: Machine) -> list[str]:
    """Say in words how two machines differ; an empty list means that a state of one fits the other."""
    found = []
    for field, word in _WORDS.items():
        then, now = getattr(saved, field), getattr(here, field)
        if then != now:
            found.append(f"{word} {_shown(then)}, here {_shown(now)}")
    return found


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    if isinstance(value, int) and value >= MIB:
        return f"{value // MIB} MiB"
    return str(value)


def command_line(launch: Launch) -> list[str]:
    """Return the arguments that start QEMU with this machine: no network, no display, no monitor but ours.

    Saved states go without the section that describes the machine, because a state of the devices alone never has it;
    the manifest describes the machine.
    """
    machine = launch.machine
    accelerator = f"tcg,tb-size={TRANSLATION_CACHE_MIB}" if machine.accelerator == "tcg" else machine.accelerator
    words = [
        launch.program,
        *("-name", launch.identity),
        *("-M", f"{machine.type},usb=off,vmport=off,smbus=off,sata=off,hpet=off,memory-backend=ram"),
        *("-accel", accelerator),
        *("-cpu", machine.cpu.partition(" ")[0]),
        *("-smp", str(machine.vcpus)),
        *("-m", f"{machine.memory // MIB}M"),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-object", f"memory-backend-file,id=ram,size={machine.memory},mem-path={launch.ram},share=off"),
        *("-drive", f"if=none,id={DISK},file={launch.disk},format=qcow2,cache=unsafe,discard=unmap"),
        *("-device", f"virtio-blk-pci,drive={DISK}"),
        *("-device", "virtio-serial-pci"),
        *("-chardev", f"socket,id=agent,fd={launch.agent_fd},server=on,wait=off"),
        *("-device", f"virtserialport,chardev=agent,name={AGENT_PORT}"),
        *("-chardev", f"ringbuf,id={CONSOLE},size=65536"),
        *("-device", f"isa-serial,chardev={CONSOLE}"),
        *("-chardev", f"socket,id=monitor,fd={launch.monitor_fd},server=on,wait=off"),
        *("-mon", "chardev=monitor,mode=control"),
        *("-sandbox", SANDBOX),
        *("-global", "migration.send-configuration=off"),
    ]
    if launch.kernel is not None and launch.initrd is not None:
        words += ["-kernel", launch.kernel, "-initrd", launch.initrd, "-append", KERNEL_ARGUMENTS]
    if launch.incoming:
        words += ["-incoming", "defer"]
    return words
