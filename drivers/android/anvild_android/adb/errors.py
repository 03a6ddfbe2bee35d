"""What adb and devices say when something fails, as errors of the interface."""

from __future__ import annotations

from anvild.sdk import (
    AlreadyExists,
    AnvilError,
    DeviceLost,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)

__all__ = ["UNAUTHORIZED", "from_device", "from_server"]

UNAUTHORIZED = "unlock it and accept the key of this lab"

_SYSTEM: tuple[tuple[str, type[AnvilError]], ...] = (
    ("no space left on device", ResourceExhausted),
    ("disk quota exceeded", ResourceExhausted),
    ("cannot allocate memory", ResourceExhausted),
    ("too many open files", ResourceExhausted),
    ("file too large", ResourceExhausted),
    ("permission denied", PermissionDenied),
    ("operation not permitted", PermissionDenied),
    ("read-only file system", PermissionDenied),
    ("no such file or directory", NotFound),
    ("no such process", NotFound),
    ("file exists", AlreadyExists),
    ("is a directory", InvalidArgument),
    ("not a directory", InvalidArgument),
    ("file name too long", InvalidArgument),
    ("too many levels of symbolic links", InvalidArgument),
    ("too many symbolic links", InvalidArgument),
    ("invalid argument", InvalidArgument),
)
"""The words of the C library for its errors, in the order in which they are looked for."""


def from_server(text: str, device: str) -> AnvilError:
    """Return the error for the ``FAIL`` of a request that names a device, or asks one for a service."""
    said = text.lower()
    if "not found" in said or "no device" in said or "unknown transport" in said:
        return DeviceLost(f"the device {device} is not attached any more: {text}")
    if "offline" in said:
        return DeviceLost(f"the device {device} does not answer: {text}")
    if "unauthorized" in said or "authorizing" in said:
        return Unavailable(f"the device {device} does not trust this lab yet: {UNAUTHORIZED}")
    if "connecting" in said:
        return Unavailable(f"the device {device} is still connecting")
    return from_device(text, f"the device {device} refuses", otherwise=Unavailable)


def from_device(text: str, what: str, otherwise: type[AnvilError] = Unavailable) -> AnvilError:
    """Return the error for what a program or service of a device said when ``what`` failed."""
    said = text.lower()
    for words, kind in _SYSTEM:
        if words in said:
            return kind(f"{what}: {text.strip()}")
    return otherwise(f"{what}: {text.strip() or 'it gave no reason'}")
