"""The base classes of a driver and of its sessions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, ClassVar, Generic, NoReturn, TypeVar

import msgspec

from .errors import CapabilityMissing
from .values import Description, DeviceFact, Lease, Recovery, RecoveryState, Sighting
from .verbs import Capability

__all__ = ["Driver", "DriverContext", "DriverSettings", "Report", "Session"]

C = TypeVar("C", bound=Capability)

Report = Callable[[Sighting], Awaitable[None]]
"""How a driver reports a sighting. Awaiting it gives back-pressure: it returns when the daemon has taken the report."""


class DriverSettings(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Base of a driver's settings: the table ``[drivers.NAME]`` of the configuration.

    A subclass adds typed fields with defaults and ``msgspec.Meta`` limits and descriptions; the daemon checks the
    table against it before the driver is made, and shows its JSON Schema in ``anvil plugins``.
    """


S = TypeVar("S", bound=DriverSettings)


class DriverContext(msgspec.Struct, Generic[S], frozen=True, kw_only=True):
    """What the daemon hands to a driver when it makes it.

    ``state_dir`` is the driver's own, kept over restarts; ``cache_dir`` may be emptied at any time while the daemon is
    stopped. ``data_path`` is the search path for data files such as image recipes; a later directory wins.
    ``log`` writes one structured line to the daemon's log: a level, a short event name, plain values; never a secret.
    """

    settings: S
    host: str
    state_dir: Path
    cache_dir: Path
    data_path: tuple[Path, ...]
    log: Callable[..., None]

    def data_files(self, folder: str, suffix: str) -> dict[str, Path]:
        """Return the data files of ``folder`` by stem, later directories of ``data_path`` first in right.

        This reads directories: call it in a thread from async code.
        """
        found: dict[str, Path] = {}
        for root in self.data_path:
            for path in sorted((root / folder).glob(f"*{suffix}")):
                found[path.name.removesuffix(suffix)] = path
        return found


class Session(ABC):
    """A live connection to one device under one lease. A subclass also inherits the capabilities that it offers.

    The daemon calls verbs of one session concurrently; a driver that cannot bear that takes its own lock.
    """

    device: DeviceFact

    def require(self, capability: type[C]) -> C:
        """Return this session as a ``capability``. Raises CapabilityMissing when it does not offer it."""
        offered: object = self
        if isinstance(offered, capability):
            return offered
        raise CapabilityMissing(
            f"the device {self.device.name!r} does not offer {capability.capability!r}; "
            f"it offers {', '.join(self.device.capabilities) or 'nothing'}"
        )


class Driver(ABC):
    """Finds devices of its platforms, or makes them, and opens sessions on them.

    The life of a driver: ``__init__`` (cheap, no I/O) → :meth:`start` → ``watch`` in a task of its own, ``open`` and
    the driver-side capabilities at any time, concurrently → ``watch`` is cancelled → :meth:`stop`. ``stop`` is called
    even when ``start`` failed half-way.

    A driver that makes devices inherits :class:`anvild.sdk.Provision` too, and more of the driver-side capabilities
    where it can.
    """

    name: ClassVar[str]
    settings_type: ClassVar[type[DriverSettings]] = DriverSettings

    def __init__(self, context: DriverContext[Any]) -> None:
        self.context = context

    async def start(self) -> None:
        """Get ready. Raises Unavailable with the reason when there is no ground to work on; the daemon then shows the
        reason, and tries again with growing pauses. Time limit 60 s."""

    async def stop(self) -> None:
        """Let go of everything of this process. Devices that outlive the daemon go on. Time limit 30 s. It runs
        shielded from cancellation, and after a failed :meth:`start` too."""

    @abstractmethod
    async def describe(self) -> Description:
        """Say what the driver is, what it can do here, and how it is. Time limit 10 s. Works before ``start`` too."""

    @abstractmethod
    async def watch(self, report: Report) -> NoReturn:
        """Report devices for ever: first all that are there, then every change as it happens.

        Hot-plug is an event of the platform, not a poll. Returns only by being cancelled; raising Unavailable makes
        the daemon call it again with growing pauses, any other error is a defect. A driver that only makes devices
        on request just sleeps for ever.
        """

    @abstractmethod
    def open(self, device: DeviceFact, lease: Lease) -> AbstractAsyncContextManager[Session]:
        """Open a session on a device. Entering it connects; leaving it closes what entering opened, and leaves
        processes with a tag alone. Raises DeviceLost, Unavailable, WrongState on entering. Time limit 60 s."""

    async def clean(self, device: DeviceFact) -> None:
        """Bring the device back to a state that the next lease may start from: end leftover processes, remove what
        runs left. Called between two leases, with no session open. An error puts the device into quarantine with its
        message. Time limit 120 s. The default does nothing, which is right only where sessions leave nothing."""

    async def recover(self, handle: str) -> Recovery:
        """After a daemon restart, say what became of the device with this handle: still running (with its fact),
        ended, or lost. A daemon restart is never by itself a lost device. Time limit 30 s."""
        return Recovery(state=RecoveryState.LOST, reason="this driver keeps no devices over a restart")
