"""The errors of the stable interface: few, exact, and each with what its receiver must do.

Every verb of a driver raises one of these and nothing else. Anything else that escapes a driver is a defect of that
driver; the daemon reports it as :class:`DriverFault` with the driver's name, and counts it against the driver.

``ERROR_TABLE`` is the one table that documentation, the wire protocol and the HTTP wings are derived from.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

__all__ = [
    "ERROR_TABLE",
    "AlreadyExists",
    "AnvilError",
    "CapabilityMissing",
    "DeadlineExceeded",
    "DeviceLost",
    "DriverFault",
    "ErrorRow",
    "InvalidArgument",
    "NotFound",
    "PermissionDenied",
    "ResourceExhausted",
    "StaleLease",
    "Unavailable",
    "WrongState",
    "error_from_code",
]


class AnvilError(Exception):
    """The root of all errors that cross the stable interface.

    ``message`` is one sentence for a person: what was expected, what was found, what to do. ``details`` holds plain
    values for programs (names, limits); it never holds a secret.
    """

    code: ClassVar[str] = "error"
    wire: ClassVar[int] = -32000
    retry: ClassVar[bool] = False
    http: ClassVar[int] = 500
    condition: ClassVar[str] = ""
    remedy: ClassVar[str] = ""

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class InvalidArgument(AnvilError):
    """A parameter is outside what the verb accepts, whatever the device's state."""

    code = "invalid_argument"
    wire = -32602
    http = 400
    condition = "A parameter has the wrong form, type or range."
    remedy = "Correct the call; the same call will fail again."


class NotFound(AnvilError):
    """The file, process, package, template or device that the call names is not there."""

    code = "not_found"
    wire = -32001
    http = 404
    condition = "What the call names does not exist."
    remedy = "Look the name up again; create it first if it should exist."


class AlreadyExists(AnvilError):
    """What the call should create is there already."""

    code = "already_exists"
    wire = -32002
    http = 409
    condition = "What the call should create exists."
    remedy = "Use what is there, or choose another name."


class PermissionDenied(AnvilError):
    """The device, or the system that it runs on, refuses this to the user that asked."""

    code = "permission_denied"
    wire = -32003
    http = 403
    condition = "The device or its system refuses the operation."
    remedy = "Ask as another user, or grant the right that the message names."


class WrongState(AnvilError):
    """The device is in a state in which the verb has no meaning (resume of what is not paused)."""

    code = "wrong_state"
    wire = -32004
    http = 409
    condition = "The object is not in a state that allows the verb."
    remedy = "Bring it into the state that the message names, then call again."


class ResourceExhausted(AnvilError):
    """A limit is reached: disk full, no capacity, too many open streams."""

    code = "resource_exhausted"
    wire = -32005
    retry = True
    http = 507
    condition = "Space, memory, a slot or a quota has run out."
    remedy = "Free what the message names, or wait; then call again."


class DeadlineExceeded(AnvilError):
    """The verb did not end within its deadline. Whether it took effect is not known."""

    code = "deadline_exceeded"
    wire = -32006
    retry = True
    http = 504
    condition = "The verb did not end in time."
    remedy = "Verbs are idempotent: call again with a longer deadline, or end the session."


class CapabilityMissing(AnvilError):
    """The driver does not declare the capability that the verb belongs to; the driver has not been called."""

    code = "capability_missing"
    wire = -32601
    http = 501
    condition = "The driver does not declare the capability."
    remedy = "Choose a device that declares it."


class StaleLease(AnvilError):
    """The verb carries a fencing number older than the device's present lease; the driver has not been called."""

    code = "stale_lease"
    wire = -32007
    http = 409
    condition = "The caller's lease has ended or was taken over."
    remedy = "Stop using the session. Take a new lease."


class DeviceLost(AnvilError):
    """The device went away while it was in use. All its sessions are over."""

    code = "device_lost"
    wire = -32008
    http = 502
    condition = "The device has disappeared or does not answer any more."
    remedy = "End the work with the verdict device_lost; another device may take a new attempt."


class Unavailable(AnvilError):
    """The driver cannot serve now and may later: a helper is restarting, a device is still booting."""

    code = "unavailable"
    wire = -32009
    retry = True
    http = 503
    condition = "The driver or the device is not ready."
    remedy = "Wait for the health to change, then call again."


class DriverFault(AnvilError):
    """The driver itself failed: an unexpected exception, an answer of the wrong type, a crashed helper."""

    code = "driver_fault"
    wire = -32603
    http = 502
    condition = "The driver has a defect."
    remedy = "Read the daemon's log for this driver and report it to the driver's author."


class ErrorRow(msgspec.Struct, frozen=True):
    """One row of the error table: condition, code, meaning, what the caller must do."""

    code: str
    wire: int
    http: int
    retry: bool
    condition: str
    remedy: str


_CLASSES: tuple[type[AnvilError], ...] = (
    InvalidArgument,
    NotFound,
    AlreadyExists,
    PermissionDenied,
    WrongState,
    ResourceExhausted,
    DeadlineExceeded,
    CapabilityMissing,
    StaleLease,
    DeviceLost,
    Unavailable,
    DriverFault,
)

ERROR_TABLE: tuple[ErrorRow, ...] = tuple(
    ErrorRow(c.code, c.wire, c.http, c.retry, c.condition, c.remedy) for c in _CLASSES
)

_BY_CODE = {c.code: c for c in _CLASSES}


def error_from_code(code: str, message: str, **details: object) -> AnvilError:
    """Rebuild an error that has crossed a wire. An unknown code becomes :class:`DriverFault`."""
    cls = _BY_CODE.get(code)
    if cls is None:
        return DriverFault(f"{message} (unknown error code {code!r})", **details)
    return cls(message, **details)
