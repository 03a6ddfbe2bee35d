"""The messages of the protocol, as types. The JSON Schemas are made from these, and from the verbs' signatures."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from ..values import DeviceFact, Lease
from .version import PROTOCOL_VERSION

__all__ = [
    "CANCELLED",
    "Answer",
    "Cancel",
    "CloseSession",
    "Credit",
    "Drop",
    "End",
    "Envelope",
    "ErrorData",
    "ErrorObject",
    "Failure",
    "Initialize",
    "Initialized",
    "LogLine",
    "Loose",
    "Nothing",
    "Notification",
    "OpenSession",
    "OpenedSession",
    "Progress",
    "Request",
    "SessionEnded",
    "StartedProcess",
    "StreamPair",
    "StreamResult",
    "Version",
]

CANCELLED = -32800
"""The code of the answer to a request that was cancelled."""

RequestId = int | str
StreamId = Annotated[int, msgspec.Meta(ge=1, le=2**32 - 1)]


class Envelope(msgspec.Struct, gc=False):
    """Any message, with its inside left as it is."""

    id: RequestId | msgspec.UnsetType | None = msgspec.UNSET
    method: str | msgspec.UnsetType = msgspec.UNSET
    params: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class Loose(msgspec.Struct):
    """Any message, with its inside decoded into plain values."""

    id: RequestId | msgspec.UnsetType | None = msgspec.UNSET
    method: str | msgspec.UnsetType = msgspec.UNSET
    params: Any = msgspec.UNSET
    result: Any = msgspec.UNSET
    error: Any = msgspec.UNSET


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the parts of messages that are made and read by name. Unknown fields are ignored."""


class ErrorData(Message, frozen=True, kw_only=True):
    """The exact error: its code in the error table, and plain values for programs."""

    code: str | None = None
    details: dict[str, Any] = {}


class ErrorObject(Message, frozen=True, kw_only=True):
    """Why a request failed. ``message`` is one sentence for a person."""

    code: int
    message: str
    data: ErrorData | None = None


class Request(msgspec.Struct, gc=False):
    """A call that is answered."""

    id: RequestId
    method: str
    params: Any
    jsonrpc: Literal["2.0"] = "2.0"


class Notification(msgspec.Struct, gc=False):
    """A message that is not answered."""

    method: str
    params: Any
    jsonrpc: Literal["2.0"] = "2.0"


class Answer(msgspec.Struct, gc=False):
    """The answer to a request that has succeeded."""

    id: RequestId | None
    result: Any
    jsonrpc: Literal["2.0"] = "2.0"


class Failure(msgspec.Struct, gc=False):
    """The answer to a request that has failed."""

    id: RequestId | None
    error: ErrorObject
    jsonrpc: Literal["2.0"] = "2.0"


class Nothing(msgspec.Struct):
    """Parameters or a result with nothing in it."""


# ----- notifications, both ways


class Cancel(msgspec.Struct):
    """The sender of the request ``id`` does not need its answer any more."""

    id: RequestId


class Credit(msgspec.Struct, omit_defaults=True):
    """The receiver of a stream has taken ``amount`` bytes, or items of a channel, and allows as many more.

    ``error`` tells of a channel that the last of these items was refused.
    """

    stream: StreamId
    amount: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
    error: ErrorObject | None = None


class End(msgspec.Struct, omit_defaults=True):
    """The sender of a stream sends nothing more; with ``error``, because its source failed."""

    stream: StreamId
    error: ErrorObject | None = None


class Drop(msgspec.Struct):
    """The receiver of a stream wants nothing more of it."""

    stream: StreamId


class Progress(msgspec.Struct):
    """One item of a channel, of the type that the method's description says."""

    channel: StreamId
    value: Any


# ----- the life of a connection


class Initialize(Message, frozen=True, kw_only=True, omit_defaults=True):
    """The host's first request.

    ``host`` names the lab machine. ``settings`` is the driver's table of the configuration. The paths are there where
    host and driver share a file system. ``log`` is a channel for :class:`LogLine`; without it, the driver writes its
    log to its standard error.
    """

    host: str
    settings: dict[str, Any] = {}
    state_dir: str | None = None
    cache_dir: str | None = None
    data_path: tuple[str, ...] = ()
    log: StreamId | None = None
    protocol: str = msgspec.field(default_factory=lambda: PROTOCOL_VERSION)


class Version(Message, frozen=True, kw_only=True):
    """All that is read of an answer to ``initialize`` before the versions are known to fit."""

    protocol: str


class Initialized(Message, frozen=True, kw_only=True):
    """The driver's answer to ``initialize``.

    ``capabilities`` names those that the driver itself offers, such as ``provision``; those of its sessions are named
    when one is opened. ``platforms`` and ``version`` are as in the description, and empty when it cannot be had.
    """

    protocol: str
    name: str
    version: str = ""
    platforms: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    settings_schema: dict[str, Any] = {}


class LogLine(Message, frozen=True, kw_only=True):
    """One line of the driver's log: a level, a short event name, plain values.

    ``lost`` is how many lines before this one were not sent, for want of credit.
    """

    level: str
    event: str
    values: dict[str, Any] = {}
    lost: int = 0


class OpenSession(msgspec.Struct, omit_defaults=True):
    """The parameters of ``session.open``."""

    device: DeviceFact
    lease: Lease
    deadline: float | None = None


class OpenedSession(msgspec.Struct):
    """The result of ``session.open``: the session's number, and the capabilities that it offers."""

    session: int
    device: DeviceFact
    capabilities: tuple[str, ...]


class CloseSession(msgspec.Struct):
    """The parameters of ``session.close``."""

    session: int


class SessionEnded(msgspec.Struct):
    """A session has ended by itself, with the error that tells why."""

    session: int
    error: ErrorObject


# ----- results that are more than values


class StreamResult(msgspec.Struct):
    """A byte stream from the driver."""

    stream: StreamId


class StreamPair(msgspec.Struct):
    """A byte stream both ways: the driver sends on ``receive``, and the host on ``send``."""

    receive: StreamId
    send: StreamId


class StartedProcess(msgspec.Struct):
    """A process: its number for ``process.*``, its id on the device, its tag, and the stream of its output."""

    process: int
    pid: int
    tag: str | None
    output: StreamId
