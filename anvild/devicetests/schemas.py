"""The shapes on the wire: first those of the contract, exactly, then those beyond it.

Names are camelCase on the wire, except where the contract says otherwise. A field that may be null is always there; a
field that may be absent from a request is unset, and null is refused for it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

__all__ = [
    "ApiKeyCreateBody",
    "ApiKeyCreated",
    "ApiKeyList",
    "ApiKeyListed",
    "Artifact",
    "ArtifactList",
    "ArtifactQuery",
    "AuditEvent",
    "AuditPage",
    "AuditQuery",
    "Device",
    "DeviceAnswer",
    "DeviceHandshakeBody",
    "DeviceHandshakeResponse",
    "DeviceList",
    "DeviceMakeBody",
    "DeviceRegisterBody",
    "Driver",
    "DriverList",
    "Event",
    "EventPage",
    "EventQuery",
    "ExecBody",
    "FileQuery",
    "FileWriteQuery",
    "FileWritten",
    "Finding",
    "HandshakeDevice",
    "HeldLease",
    "Jwks",
    "LeaseAnswer",
    "LeaseBody",
    "Me",
    "MemberTeam",
    "PersonMe",
    "Pipeline",
    "PipelineInput",
    "PipelineList",
    "Plugin",
    "PluginList",
    "RevocationList",
    "Run",
    "RunAnswer",
    "RunCreateBody",
    "RunDetail",
    "RunList",
    "RunState",
    "RunStateAnswer",
    "SessionAnswer",
    "SessionBody",
    "Upload",
    "UploadAnswer",
    "UploadList",
    "UploadListQuery",
    "UploadQuery",
]

Uuid = Annotated[str, Meta(extra_json_schema={"format": "uuid"})]
Short = Annotated[str, Meta(max_length=120)]
Name = Annotated[str, Meta(min_length=1, max_length=120)]
Scope = Annotated[str, Meta(min_length=1, max_length=64)]
Moment = Annotated[datetime, Meta(tz=True)]
TimeText = Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
Metadata = dict[str, Any]


class Wire(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of all shapes."""


# ----- the contract


class Device(Wire, frozen=True, kw_only=True):
    """A device of the caller's team, or one that the lab shares."""

    id: Uuid
    org_id: Uuid
    name: Short
    model: Short | None = None
    firmware_version: Short | None = None
    capabilities: tuple[str, ...] = ()
    metadata: Metadata | None = None
    status: Literal["provisioning", "ready", "offline", "retired"]
    created_at: Moment


class DeviceRegisterBody(Wire, frozen=True, kw_only=True):
    """A device that no driver finds by itself."""

    name: Name
    model: Short | UnsetType = UNSET
    firmware_version: Short | UnsetType = UNSET
    capabilities: Annotated[tuple[str, ...], Meta(max_length=64)] | UnsetType = UNSET
    metadata: Metadata | UnsetType = UNSET


class DeviceAnswer(Wire, frozen=True, kw_only=True):
    """One device."""

    device: Device


class DeviceList(Wire, frozen=True, kw_only=True):
    """The devices that a team sees."""

    devices: list[Device]


class Run(Wire, frozen=True, kw_only=True):
    """A run. A draft is shown as queued, a paused run as running."""

    id: Uuid
    org_id: Uuid
    pipeline: Short
    device_id: Uuid | None = None
    status: Literal["queued", "running", "passed", "failed", "cancelled"]
    metadata: Metadata | None = None
    created_at: Moment
    created_by: str | None = None


class RunCreateBody(Wire, frozen=True, kw_only=True):
    """``metadata.parameters`` and ``metadata.env`` give values to the pipeline, ``metadata.inputs`` names uploads;
    ``metadata.pipeline`` is a pipeline of the caller's own (its text is not kept); the rest is kept as it is."""

    pipeline: Name
    device_id: UUID | UnsetType = UNSET
    metadata: Metadata | UnsetType = UNSET


class Finding(Wire, frozen=True, kw_only=True):
    """A judged result of a run."""

    id: Uuid
    run_id: Uuid
    severity: Literal["critical", "high", "medium", "low", "info"]
    category: str | None = None
    title: str | None = None
    detail: str | None = None
    created_at: Moment


class RunAnswer(Wire, frozen=True, kw_only=True):
    """One run."""

    run: Run


class RunList(Wire, frozen=True, kw_only=True):
    """Runs, newest first."""

    runs: list[Run]


class RunDetail(Wire, frozen=True, kw_only=True):
    """A run with its findings."""

    run: Run
    findings: list[Finding]


class AuditEvent(Wire, frozen=True, kw_only=True):
    """An entry of the audit log. ``action`` is the kind of the event; ``id`` holds its number in the event log."""

    id: Uuid
    org_id: Uuid
    actor: str | None = None
    action: str
    resource_type: str | None = None
    resource_id: str | None = None
    metadata: Metadata | None = None
    ip: str | None = None
    user_agent: str | None = None
    created_at: Moment


class AuditQuery(Wire, frozen=True, kw_only=True):
    """``before`` is exclusive: a time, or the ``nextCursor`` of the page before."""

    limit: Annotated[int, Meta(ge=1, le=200)] = 50
    before: TimeText | UnsetType = UNSET


class AuditPage(Wire, frozen=True, kw_only=True):
    """``nextCursor`` null means that there is nothing older. It is a time, whose last digits are the number of the
    page's last entry, so that entries of one moment may lie on two pages: send it back as it is."""

    events: list[AuditEvent]
    next_cursor: TimeText | None = None


class ApiKeyListed(Wire, frozen=True, kw_only=True):
    """An API key without its text. No scopes means all that its maker may do."""

    id: Uuid
    name: str
    prefix: str
    scopes: tuple[str, ...]
    created_at: Moment
    last_used_at: Moment | None = None
    revoked_at: Moment | None = None


class ApiKeyList(Wire, frozen=True, kw_only=True):
    """The keys of a team."""

    keys: list[ApiKeyListed]


class ApiKeyCreateBody(Wire, frozen=True, kw_only=True):
    """Without ``scopes`` the key may do all that its maker may."""

    name: Name
    scopes: Annotated[tuple[Scope, ...], Meta(max_length=32)] | UnsetType = UNSET


class ApiKeyCreated(Wire, frozen=True, kw_only=True):
    """A new key. ``plaintext`` is shown this once."""

    id: Uuid
    name: str
    prefix: str
    created_at: Moment
    plaintext: str
    last4: Annotated[str, Meta(min_length=4, max_length=4)]


class HandshakeDevice(msgspec.Struct, frozen=True, kw_only=True):
    """The device that an on-device helper runs on."""

    platform: Literal["ios", "macos", "visionos", "watchos", "android"]
    udid: str
    os_version: str
    bundle_id: str | UnsetType = UNSET


class DeviceHandshakeBody(Wire, frozen=True, kw_only=True):
    """An API key, and the device that it is to speak for."""

    api_key: str
    device: HandshakeDevice


class DeviceHandshakeResponse(Wire, frozen=True, kw_only=True):
    """A token of a device."""

    token: str
    expires_at: Moment | UnsetType = UNSET


class RevocationList(Wire, frozen=True, kw_only=True):
    """The tokens of devices that were revoked and have not ended yet."""

    jti: list[str]
    generated_at: Moment | UnsetType = UNSET


# ----- beyond the contract


class RunState(Wire, frozen=True, kw_only=True):
    """What the contract's status does not tell: why a run waits or how it ended, and where it is."""

    id: Uuid
    state: Literal["draft", "queued", "running", "paused", "passed", "failed", "cancelled"]
    phase: str | None
    reason_code: str | None
    reason: str | None
    waiting: str | None
    attempt: int
    max_attempts: int
    used_device_id: Uuid | None
    started_at: Moment | None
    ended_at: Moment | None


class RunStateAnswer(Wire, frozen=True, kw_only=True):
    """Where a run is."""

    state: RunState


class Artifact(Wire, frozen=True, kw_only=True):
    """A file that a run left. ``url`` fetches it without another credential until ``urlExpiresAt``."""

    id: Uuid
    run_id: Uuid | None
    name: str
    media_type: str
    size: int
    sha256: str
    created_at: Moment
    url: str
    url_expires_at: Moment


class ArtifactList(Wire, frozen=True, kw_only=True):
    """The files of a run."""

    artifacts: list[Artifact]


class ArtifactQuery(Wire, frozen=True, kw_only=True):
    """``token`` is a signed link's; it stands for every other credential."""

    token: str | UnsetType = UNSET


class Upload(Wire, frozen=True, kw_only=True):
    """A file that somebody has brought for runs."""

    id: Uuid
    name: str
    media_type: str
    size: int
    sha256: str
    created_at: Moment


class UploadAnswer(Wire, frozen=True, kw_only=True):
    """One upload."""

    upload: Upload


class UploadList(Wire, frozen=True, kw_only=True):
    """Uploads, newest first."""

    uploads: list[Upload]


class UploadQuery(Wire, frozen=True, kw_only=True):
    """``name`` is the file's, for people."""

    name: Annotated[str, Meta(min_length=1, max_length=255)]


class UploadListQuery(Wire, frozen=True, kw_only=True):
    """``sha256`` is of the content, in hexadecimal."""

    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")] | UnsetType = UNSET


class Event(Wire, frozen=True, kw_only=True):
    """A fact that has happened. Ids grow: who has seen one can read all after it."""

    id: int
    at: Moment
    kind: str
    subject_type: str
    subject_id: str
    run_id: Uuid | None
    actor: str
    data: Metadata


class EventPage(Wire, frozen=True, kw_only=True):
    """Events, oldest first."""

    events: list[Event]


class EventQuery(Wire, frozen=True, kw_only=True):
    """``kind`` holds kinds, or beginnings that end with a dot, separated by commas."""

    after: Annotated[int, Meta(ge=0)] | UnsetType = UNSET
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    kind: str | UnsetType = UNSET


class PipelineInput(Wire, frozen=True, kw_only=True):
    """A file that a run of a pipeline brings."""

    description: str
    required: bool


class Pipeline(Wire, frozen=True, kw_only=True):
    """A pipeline that can be named in ``POST /runs``, or the reason why it cannot."""

    name: str
    description: str
    platforms: tuple[str, ...]
    capabilities: tuple[str, ...]
    parameters: dict[str, str | None]
    inputs: dict[str, PipelineInput]
    steps: int
    problem: str | None


class PipelineList(Wire, frozen=True, kw_only=True):
    """All pipelines by name."""

    pipelines: list[Pipeline]


class Plugin(Wire, frozen=True, kw_only=True):
    """A plugin as the daemon found it."""

    name: str
    distribution: str
    version: str
    api: str
    hooks: tuple[str, ...]
    state: str
    reason: str | None
    grade: str | None


class PluginList(Wire, frozen=True, kw_only=True):
    """All plugins."""

    plugins: list[Plugin]


class Driver(Wire, frozen=True, kw_only=True):
    """A driver and how it is, in words."""

    name: str
    version: str
    state: str
    health: str
    reason: str
    platforms: tuple[str, ...]
    capabilities: tuple[str, ...]
    slots: int
    slots_used: int
    devices: int
    facts: dict[str, str]


class DriverAnswer(Wire, frozen=True, kw_only=True):
    """One driver."""

    driver: Driver


class DriverList(Wire, frozen=True, kw_only=True):
    """All drivers by name."""

    drivers: list[Driver]


class SessionBody(Wire, frozen=True, kw_only=True):
    """A login of a person."""

    email: Annotated[str, Meta(min_length=1, max_length=320)]
    password: Annotated[str, Meta(min_length=1, max_length=1024)]


class MemberTeam(Wire, frozen=True, kw_only=True):
    """The team within which somebody acts, and as what."""

    id: Uuid
    role: str | None


class PersonMe(Wire, frozen=True, kw_only=True):
    """The person behind a credential."""

    id: Uuid
    email: str | None
    name: str
    is_admin: bool


class Me(Wire, frozen=True, kw_only=True):
    """Who the caller is. ``scopes`` null means all of its role."""

    actor: str
    kind: str
    name: str
    team: MemberTeam | None
    user: PersonMe | None
    scopes: tuple[str, ...] | None


class SessionAnswer(Wire, frozen=True, kw_only=True):
    """A session. ``csrfToken`` goes into the header ``X-CSRF-Token`` of every request that changes something."""

    csrf_token: str
    expires_at: Moment
    me: Me


class DeviceMakeBody(Wire, frozen=True, kw_only=True):
    """A device to make. Without ``driver``, the first one that has the template makes it. Sizes are bytes."""

    template: Annotated[str, Meta(min_length=1, max_length=64)]
    driver: Annotated[str, Meta(min_length=1, max_length=64)] | UnsetType = UNSET
    name: Name | UnsetType = UNSET
    vcpus: Annotated[int, Meta(ge=1, le=64)] | UnsetType = UNSET
    memory: Annotated[int, Meta(ge=16 * 2**20, le=2**44)] | UnsetType = UNSET
    disk: Annotated[int, Meta(ge=2**20, le=2**50)] | UnsetType = UNSET


class LeaseBody(Wire, frozen=True, kw_only=True):
    """For how long a device is taken, in seconds; without it, for the operator's ``engine.person_lease``."""

    seconds: Annotated[float, Meta(gt=0, le=7 * 86_400)] | UnsetType = UNSET


class HeldLease(Wire, frozen=True, kw_only=True):
    """Who holds a device, since when and for how many seconds."""

    id: Uuid
    device_id: Uuid
    holder: str
    since: Moment
    seconds: float


class LeaseAnswer(Wire, frozen=True, kw_only=True):
    """A lease on a device."""

    lease: HeldLease


class ExecBody(Wire, frozen=True, kw_only=True):
    """A program to run on a device by hand, without standard input. ``timeout`` is in seconds."""

    argv: Annotated[tuple[Annotated[str, Meta(max_length=65536)], ...], Meta(min_length=1, max_length=1000)]
    env: dict[str, Annotated[str, Meta(max_length=65536)]] = {}
    cwd: str | UnsetType = UNSET
    user: str | UnsetType = UNSET
    timeout: Annotated[float, Meta(gt=0, le=86400)] = 3600.0


class FileQuery(Wire, frozen=True, kw_only=True):
    """``path`` is absolute."""

    path: Annotated[str, Meta(min_length=1, max_length=4096)]


class FileWriteQuery(FileQuery, frozen=True, kw_only=True):
    """``mode`` is the permission bits in octal; ``user`` is who shall own the file."""

    mode: Annotated[str, Meta(pattern=r"^[0-7]{1,4}$")] = "644"
    user: Annotated[str, Meta(min_length=1, max_length=64)] | UnsetType = UNSET


class FileWritten(Wire, frozen=True, kw_only=True):
    """A file that is on the device now; its size in bytes."""

    path: str
    size: int


class Jwks(Wire, frozen=True, kw_only=True):
    """The public keys that device tokens are signed with."""

    keys: list[dict[str, str]]
