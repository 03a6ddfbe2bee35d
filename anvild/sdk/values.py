"""The plain values that cross the stable interface.

All are frozen :class:`msgspec.Struct`: comparable, hashable where their members are, and the same in the daemon's
process, in a child process and over a network. Sizes are bytes, durations are seconds, times are aware UTC
``datetime`` unless a name says otherwise.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

import msgspec

from .errors import InvalidArgument

type_name = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
short_text = Annotated[str, msgspec.Meta(max_length=120)]


class Value(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=False, omit_defaults=False):
    """Base of all value types. Unknown fields are ignored, so that a newer minor version can add some."""


class HealthState(StrEnum):
    """How a driver is: HEALTHY works, DEGRADED works with a limitation, UNHEALTHY cannot serve, ABSENT has no ground
    to work on here (no tool, no kernel feature)."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"
    ABSENT = "absent"


class Health(Value, frozen=True):
    """A state and the sentence that explains it to an operator. The sentence names the mend where there is one."""

    state: HealthState
    reason: str

    @property
    def usable(self) -> bool:
        return self.state in (HealthState.HEALTHY, HealthState.DEGRADED)


class Description(Value, frozen=True):
    """What a driver is and can do, from :meth:`anvild.sdk.Driver.describe`.

    ``slots`` is how many devices the driver can make at the same time; 0 for a driver that only finds devices.
    """

    name: type_name
    version: str
    platforms: tuple[type_name, ...]
    capabilities: tuple[str, ...]
    health: Health
    slots: Annotated[int, msgspec.Meta(ge=0)] = 0
    facts: dict[str, str] = {}


class DeviceStatus(StrEnum):
    """PROVISIONING is being made or booted, READY takes work, OFFLINE is known but away, RETIRED is gone for good."""

    PROVISIONING = "provisioning"
    READY = "ready"
    OFFLINE = "offline"
    RETIRED = "retired"


class DeviceFact(Value, frozen=True):
    """What a driver knows of one device.

    ``identity`` is stable for the life of the device: a serial, a UDID, a WWN; never a path or a port number.
    ``handle`` is the driver's own opaque text (at most 16 KiB): the daemon stores it and gives it back to
    :meth:`anvild.sdk.Driver.recover` after a restart.
    """

    identity: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    platform: type_name
    name: short_text
    status: DeviceStatus
    model: short_text | None = None
    firmware_version: short_text | None = None
    capabilities: tuple[str, ...] = ()
    facts: dict[str, str] = {}
    reason: str | None = None
    handle: Annotated[str, msgspec.Meta(max_length=16384)] | None = None


class Sighting(Value, frozen=True):
    """One report of a driver's watch: the device was seen (or has changed), or is lost."""

    kind: Literal["seen", "lost"]
    device: DeviceFact


class Lease(Value, frozen=True):
    """The right to one device, as a driver sees it. ``fence`` grows with every lease of the device."""

    lease_id: str
    fence: int
    holder: str


class RecoveryState(StrEnum):
    """What became of a device while the daemon was away."""

    RUNNING = "running"
    ENDED = "ended"
    LOST = "lost"


class Recovery(Value, frozen=True):
    """The answer of :meth:`anvild.sdk.Driver.recover`. ``device`` is present when the state is RUNNING."""

    state: RecoveryState
    reason: str
    device: DeviceFact | None = None


class TerminalSize(Value, frozen=True):
    """The size of a terminal in characters."""

    columns: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 80
    rows: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 24


class Command(Value, frozen=True):
    """A program to start on a device.

    ``argv`` is passed as it is, never through a shell. ``env`` is added to the device's default environment.
    ``tag`` names the process: a tagged process keeps running, and its output is kept up to the driver's limit, when
    the connection or the daemon goes away; :meth:`anvild.sdk.Exec.attach` finds it again. A terminal joins standard
    output and standard error into one stream.
    """

    argv: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    env: dict[str, str] = {}
    cwd: str | None = None
    user: str | None = None
    tag: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")] | None = None
    terminal: TerminalSize | None = None
    stdin: bool = False


class Exit(Value, frozen=True):
    """How a process ended: an exit code, or the number of the signal that ended it."""

    code: int | None
    signal: int | None = None

    @property
    def ok(self) -> bool:
        return self.code == 0


class Stream(StrEnum):
    """Where a chunk of output came from."""

    STDOUT = "stdout"
    STDERR = "stderr"


class Output(Value, frozen=True):
    """A chunk of a process's output, in the order in which the device produced it."""

    stream: Stream
    data: bytes


class Completed(Value, frozen=True):
    """A process that has ended, with all its output. ``truncated`` says that output beyond the limit was dropped."""

    exit: Exit
    stdout: bytes
    stderr: bytes
    truncated: bool = False


class ProcessInfo(Value, frozen=True):
    """One line of a device's process list. ``tag`` is there for processes that were started through Exec."""

    pid: int
    command: str
    user: str | None = None
    tag: str | None = None
    parent: int | None = None


class EntryType(StrEnum):
    """What a path on a device is."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    OTHER = "other"


class Entry(Value, frozen=True):
    """A file, directory or link on a device. ``mode`` holds the permission bits; ``modified`` is Unix seconds."""

    path: str
    name: str
    type: EntryType
    size: int
    mode: int
    modified: float
    owner: str | None = None
    group: str | None = None
    target: str | None = None


class Sample(Value, frozen=True):
    """One measurement of a device. ``cpu`` is percent of one host core; the rest are bytes, the I/O ones counters."""

    at: datetime
    cpu: float
    memory: int
    disk: int
    read: int = 0
    written: int = 0


class NetworkPolicy(Value, frozen=True):
    """Where the programs of a device may open connections to; nothing else leaves it or comes in.

    An entry of ``allow`` is ``*`` (all public addresses), the name of a host, ``*.NAME`` (all names below one), an
    address or a range of addresses; ``:PORT`` at its end allows that port alone, and IPv6 then stands in brackets.
    ``private`` are the ranges of addresses that are not public and yet may be reached, if an entry allows them. The
    host's own addresses, link-local ones and metadata services never are; the loopback's only when ``private`` names
    it.
    """

    allow: Annotated[
        tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=300)], ...],
        msgspec.Meta(min_length=1, max_length=256),
    ]
    private: Annotated[
        tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=300)], ...], msgspec.Meta(max_length=256)
    ] = ()


class NetworkUse(Value, frozen=True):
    """What the programs of a device have done on its network since the driver took it up.

    ``open`` connections there are now; ``carried`` were opened in all, ``denied`` were not let through by the policy,
    ``failed`` led to nobody who answered.
    """

    open: int = 0
    carried: int = 0
    denied: int = 0
    failed: int = 0


class DeviceRequest(Value, frozen=True):
    """What a device that is made to order shall be. None means the template's own value.

    ``environment`` becomes the default environment of its processes, ``user`` their default account, beside what the
    template has of them; ``labels`` are kept with the device. Without a
    ``network`` it has none; with one it keeps it for life. Only a driver that declares ``network`` is asked for one.
    """

    template: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    name: short_text
    identity: Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[a-z0-9][a-z0-9-]*$")]
    vcpus: Annotated[int, msgspec.Meta(ge=1, le=64)] | None = None
    memory: Annotated[int, msgspec.Meta(ge=16 * 2**20)] | None = None
    disk: Annotated[int, msgspec.Meta(ge=2**20)] | None = None
    environment: dict[str, str] = {}
    user: str | None = None
    labels: dict[str, str] = {}
    network: NetworkPolicy | None = None


class Template(Value, frozen=True):
    """What devices are made from. ``warm`` templates hold memory and start by fork; cold ones boot.

    One that is ``fixed`` holds what ran in a device: what is made from it has its sizes, and goes on from there.
    """

    name: str
    warm: bool
    vcpus: int
    memory: int
    disk: int
    size: int
    created: datetime
    facts: dict[str, str] = {}
    fixed: bool = False


class App(Value, frozen=True):
    """An app on a device. ``identifier`` is its package name or bundle identifier."""

    identifier: str
    name: str | None = None
    version: str | None = None
    system: bool = False


class Attachment(Value, frozen=True):
    """A file that a device has ready to be fetched. ``reference`` is the driver's own and ends with the session."""

    reference: Annotated[str, msgspec.Meta(max_length=4096)]
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    media_type: str
    size: int | None = None


class TestRequest(Value, frozen=True):
    """Which tests to run.

    ``target`` is the runner in the platform's own terms; the driver's documentation says which. ``only`` and ``skip``
    name suites, or single tests as ``SUITE#TEST``. ``arguments`` go to the runner, ``env`` to the app under test;
    ``app`` is the app under test where the runner does not know it.
    """

    __test__ = False  # no test class, whatever a collector of tests thinks of its name

    target: Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
    app: str | None = None
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    arguments: dict[str, str] = {}
    env: dict[str, str] = {}


class TestStatus(StrEnum):
    """How a test ended: FAILED by its own judgement, ERROR by an unexpected exception or a crash."""

    __test__ = False

    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"
    SKIPPED = "skipped"


class TestCase(Value, frozen=True):
    """The result of one test. ``message`` is one line, ``trace`` the whole text of the runner."""

    __test__ = False

    suite: str
    name: str
    status: TestStatus
    seconds: float = 0.0
    message: str | None = None
    trace: str | None = None


class TestProgress(Value, frozen=True):
    """One thing that happened while tests run: exactly one of the fields is there.

    ``begun`` is the name of a test as ``SUITE#TEST``; ``total`` how many tests there will be; ``output`` a piece of
    the runner's raw output.
    """

    __test__ = False

    total: int | None = None
    begun: str | None = None
    ended: TestCase | None = None
    output: str | None = None
    attachment: Attachment | None = None


class TestSummary(Value, frozen=True):
    """How the runner ended. ``complete`` is False when it crashed, was ended or could not begin; ``reason`` says why
    in one sentence."""

    __test__ = False

    complete: bool
    reason: str
    cases: int = 0


class Remedy(StrEnum):
    """The rungs of the health ladder below quarantine, in the order in which they are tried."""

    RECONNECT = "reconnect"
    RESTART_HELPER = "restart_helper"
    POWER_CYCLE = "power_cycle"
    REBOOT = "reboot"


class Severity(StrEnum):
    """How grave a finding is."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"
    INFO = "info"


class Verdict(StrEnum):
    """How a run's work ended."""

    PASSED = "passed"
    FAILED = "failed"


def check_absolute(path: str) -> str:
    """Return ``path`` when it is absolute and free of NUL; else raise :class:`InvalidArgument`."""
    if "\0" in path:
        raise InvalidArgument("a path on a device must not hold a NUL character")
    if not path.startswith("/"):
        raise InvalidArgument(f"the path {path!r} on the device must be absolute: begin it with /")
    return path
