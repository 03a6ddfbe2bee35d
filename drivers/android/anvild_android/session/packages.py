"""What the package manager says."""

from __future__ import annotations

import re

import msgspec

from anvild.sdk import AlreadyExists, AnvilError, App, InvalidArgument, PermissionDenied, ResourceExhausted

__all__ = [
    "Instrumentation",
    "check_package",
    "install_error",
    "parse_instrumentations",
    "parse_packages",
    "parse_paths",
    "uninstall_error",
]

_PACKAGE = re.compile(r"[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*")
_FAILURE = re.compile(r"Failure \[(.*)\]", re.DOTALL)
_INSTRUMENTATION = re.compile(r"^instrumentation:([^/\s]+)/(\S+) \(target=([^)\s]+)\)", re.MULTILINE)
_LISTED = re.compile(r"^package:(\S+?)(?: versionCode:(\S+))?\s*$", re.MULTILINE)

_FULL = ("INSUFFICIENT_STORAGE", "not enough space", "No space left", "MEDIA_UNAVAILABLE")
_POLICY = ("USER_RESTRICTED", "VERIFICATION_FAILURE", "ABORTED", "DEVICE_POLICY")


class Instrumentation(msgspec.Struct, frozen=True):
    """A runner of tests that is installed: its package, its class, and the package of the app under test."""

    package: str
    runner: str
    target: str

    @property
    def component(self) -> str:
        """The runner as ``am instrument`` takes it."""
        return f"{self.package}/{self.runner}"


def check_package(app: str) -> str:
    """Return the name of a package. Raises InvalidArgument for what cannot be one."""
    if not _PACKAGE.fullmatch(app) or len(app) > 255:
        raise InvalidArgument(f"{app!r} is no name of an android package")
    return app


def parse_packages(text: str, *, system: bool) -> list[App]:
    """Parse ``pm list packages --show-versioncode``."""
    return [App(identifier=name, version=version or None, system=system) for name, version in _LISTED.findall(text)]


def parse_paths(text: str) -> dict[str, str]:
    """Parse ``pm list packages -f``: the place of each package's file by the package's name."""
    found = {}
    for line in text.splitlines():
        path, equals, name = line.strip().removeprefix("package:").rpartition("=")
        if equals:
            found[name] = path
    return found


def parse_instrumentations(text: str) -> list[Instrumentation]:
    """Parse ``pm list instrumentation``."""
    return [Instrumentation(*found) for found in _INSTRUMENTATION.findall(text)]


def install_error(said: str) -> AnvilError | None:
    """Return what the answer of an installation means: None for a success."""
    if any(line.strip() == "Success" or line.startswith("Success:") for line in said.splitlines()):
        return None
    match = _FAILURE.search(said)
    words = " ".join((match[1] if match else said).split()) or "it gave no reason"
    if any(each in words for each in _FULL):
        return ResourceExhausted(f"the device has no space for the app: {words}")
    if "ALREADY_EXISTS" in words:
        return AlreadyExists(f"the app is installed already: {words}")
    if any(each in words for each in _POLICY):
        return PermissionDenied(f"the device does not let apps be installed: {words}")
    return InvalidArgument(f"the device refuses the app: {words}")


def uninstall_error(app: str, said: str) -> AnvilError | None:
    """Return what the answer of a removal means: None for a success."""
    if any(line.strip() == "Success" for line in said.splitlines()):
        return None
    match = _FAILURE.search(said)
    return PermissionDenied(f"the device does not remove {app}: {' '.join((match[1] if match else said).split())}")
