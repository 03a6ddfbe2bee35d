"""Templates: folders that guests are made from.

A template's folder holds the disk's layers, an empty top layer, the kernel and initial file system for a cold start,
and, when it is *warm*, the memory (``ram``) and the state of the devices (``state``) of a guest that was stopped for a
moment. Nothing in it is ever written again. A guest made from it has hard links to all of it in its own folder, so a
template may be removed while its guests live on.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from anvild.sdk import Template

from .disks import EMPTY
from .files import allocated, link, write_atomic
from .machine import Machine

__all__ = ["KERNEL", "MANIFEST", "RAM", "STATE", "Manifest", "link_template", "read_manifest", "write_manifest"]

MANIFEST = "manifest.json"
KERNEL = "kernel"
RAM = "ram"
STATE = "state"
FORMAT = 1


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a template is: ``manifest.json`` in its folder.

    ``machine`` is there for a warm template: its state fits no other. ``bare_state`` says that ``state`` holds the
    devices alone and the memory lies in ``ram``; otherwise all is in ``state`` and ``ram`` is empty. ``image`` is the
    digest of the recipe that a built-in template comes from, ``agent`` that of the agent in it; how its warm template
    is made stands in ``prepare``, ``health_check`` and ``warm_up``, and ``starts`` says that something runs in it then.
    ``layers`` are the disk's files, the lowest first. ``account`` is the unprivileged user in it. ``environment`` and
    ``user`` are what the guests' processes find by default; without a user they are the superuser's.
    """

    name: str
    created: datetime
    vcpus: int
    memory: int
    disk: int
    layers: tuple[str, ...]
    initrd: str
    agent: str
    account: str
    hostname: str = "capsule"
    image: str | None = None
    warm_up: tuple[tuple[str, ...], ...] = ()
    prepare: tuple[str, ...] = ()
    health_check: str | None = None
    starts: bool = False
    machine: Machine | None = None
    bare_state: bool = True
    generation: int = 0
    environment: dict[str, str] = {}
    user: str | None = None
    facts: dict[str, str] = {}
    format: int = FORMAT

    @property
    def warm(self) -> bool:
        return self.machine is not None

    @property
    def fixed(self) -> bool:
        """Whether it holds what ran in a guest, rather than what any boot of its image comes to."""
        return self.starts or (self.warm and self.image is None)

    @property
    def files(self) -> tuple[str, ...]:
        """The names of all files of the template but the manifest."""
        memory = (RAM, STATE) if self.warm else ()
        return (*self.layers, EMPTY, KERNEL, self.initrd, *memory)


def read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of a template's folder; None when there is none, or one of another format."""
    try:
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None
    return manifest if manifest.format == FORMAT else None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write it last: a folder with a manifest is a whole template."""
    write_atomic(folder / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))


def link_template(source: Path, manifest: Manifest, target: Path, *, leave_out: Sequence[str] = ()) -> None:
    """Give all files of a template a second name in the folder ``target``."""
    for name in manifest.files:
        if name not in leave_out:
            link(source / name, target / name)


def describe_template(folder: Path, manifest: Manifest) -> Template:
    """Return the template as the stable interface shows it. ``size`` is what it takes of its disk."""
    machine = manifest.machine
    facts = dict(manifest.facts)
    if machine is not None:
        facts |= {"qemu": machine.qemu, "accelerator": machine.accelerator}
    return Template(
        name=manifest.name,
        warm=manifest.warm,
        vcpus=manifest.vcpus,
        memory=manifest.memory,
        disk=manifest.disk,
        size=sum(allocated(folder / name) for name in manifest.files),
        created=manifest.created,
        facts=facts,
        fixed=manifest.fixed,
    )
