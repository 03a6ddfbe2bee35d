"""What is kept of a guest on disk: ``capsule.json`` in its folder, the one truth after a restart of the daemon."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import msgspec

from anvild.sdk import DeviceFact, DeviceStatus, NetworkPolicy
from anvild.sdk.agent import KEPT_OUTPUT
from anvild.sdk.processes import ProcessIdentity

from .files import write_atomic
from .guest import GuestIdentity
from .machine import Machine
from .template import Manifest

__all__ = ["RECORD", "Handle", "Record", "State", "fact_of", "host_name", "read_record", "write_record"]

RECORD = "capsule.json"
SESSION_CAPABILITIES = ("exec", "files", "ports", "power", "pause", "measure")

State = Literal["making", "running", "frozen", "suspended"]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A guest. ``active`` is the disk's top layer, over ``layers``; ``ram`` the file whose private mapping its memory
    is. ``bare_state`` is how a suspended guest was saved, as in a manifest."""

    identity: str
    name: str
    template: str
    labels: dict[str, str]
    origin: Manifest
    machine: Machine
    disk: int
    layers: tuple[str, ...]
    active: str
    ram: str
    itself: GuestIdentity
    network: NetworkPolicy | None = None
    state: State = "making"
    process: ProcessIdentity | None = None
    groups: tuple[str, ...] = ()
    missing_limits: tuple[str, ...] = ()
    bare_state: bool = True


class Handle(msgspec.Struct, frozen=True, kw_only=True):
    """What the daemon keeps of a guest and gives back after a restart."""

    identity: str
    folder: str
    template: str
    pid: int | None = None
    started: int | None = None


def read_record(folder: Path) -> Record | None:
    """Return the record in a guest's folder, or None when there is no whole one."""
    try:
        return msgspec.json.decode((folder / RECORD).read_bytes(), type=Record)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None


def write_record(folder: Path, record: Record) -> None:
    write_atomic(folder / RECORD, msgspec.json.encode(record), durable=record.state == "suspended")


def host_name(name: str, identity: str) -> str:
    """Return a host name that resembles a device's name: letters, digits and hyphens, at most 63."""
    words = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63].strip("-")
    return words or identity[:63].strip("-")


def fact_of(record: Record, folder: Path) -> DeviceFact:
    """Return the guest as the daemon knows it."""
    process = record.process
    machine = record.machine
    handle = Handle(
        identity=record.identity,
        folder=str(folder),
        template=record.template,
        pid=process.pid if process else None,
        started=process.started if process else None,
    )
    facts = {
        "template": record.template,
        "vmm": f"QEMU {machine.qemu}",
        "accelerator": machine.accelerator,
        "vcpus": str(machine.vcpus),
        "memory": str(machine.memory),
        "disk": str(record.disk),
        "generation": str(record.itself.generation),
        "hostname": record.itself.hostname,
        "exec_kept_output": str(KEPT_OUTPUT),
    }
    if record.missing_limits:
        facts["missing_limits"] = "; ".join(record.missing_limits)
    suspended = record.state == "suspended"
    return DeviceFact(
        identity=record.identity,
        platform="linux",
        name=record.name,
        status=DeviceStatus.OFFLINE if suspended else DeviceStatus.READY,
        model=f"QEMU {machine.type}",
        firmware_version=record.origin.facts.get("kernel"),
        capabilities=SESSION_CAPABILITIES,
        facts=facts,
        reason="suspended to disk" if suspended else None,
        handle=msgspec.json.encode(handle).decode(),
    )
