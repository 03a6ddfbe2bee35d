"""What is known of one sandbox, kept in its folder so that a restarted daemon finds it again."""

from __future__ import annotations

import contextlib
from datetime import datetime
from pathlib import Path

import msgspec

from anvild.sdk import DeviceRequest
from anvild.sdk.cgroups import Limits
from anvild.sdk.processes import ProcessIdentity

RECORD = "device.json"


class Size(msgspec.Struct, frozen=True):
    """What a sandbox may use: CPUs, bytes of memory, processes."""

    vcpus: int
    memory: int
    processes: int

    @property
    def limits(self) -> Limits:
        return Limits(memory=self.memory, processors=self.vcpus, processes=self.processes)


class Sandbox(msgspec.Struct, frozen=True):
    """One sandbox: what was asked for, what it is made of, and its processes.

    ``init`` is the guest agent, the first process inside; ``outer`` is bubblewrap, which waits for it.
    """

    request: DeviceRequest
    layers: tuple[str, ...]
    size: Size = msgspec.field(name="limits")
    created: datetime
    init: ProcessIdentity
    outer: ProcessIdentity

    @property
    def identity(self) -> str:
        return self.request.identity

    def save(self, folder: Path) -> None:
        partial = folder / f"{RECORD}.part"
        partial.write_bytes(msgspec.json.encode(self))
        partial.rename(folder / RECORD)

    @classmethod
    def load(cls, folder: Path) -> Sandbox | None:
        """Read the record of a folder; None where there is none that can be read."""
        try:
            return msgspec.json.decode((folder / RECORD).read_bytes(), type=cls)
        except (OSError, msgspec.DecodeError):
            return None


def descendants(root: int) -> list[int]:
    """Return the processes below one, itself included, parents first."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(folder.name)] = int((folder / "stat").read_bytes().rpartition(b")")[2].split()[1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found
