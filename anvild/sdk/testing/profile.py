"""What the kit may use on a device: plain values, from a file ``conformance.toml``."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any

import msgspec

from ..driver import Driver

__all__ = [
    "PROFILE_FILE",
    "AppProfile",
    "ExecProfile",
    "FilesProfile",
    "PortsProfile",
    "Profile",
    "ProfileError",
    "ProvisionProfile",
    "TestsProfile",
    "load_profile",
    "profile_of",
]

PROFILE_FILE = "conformance.toml"
"""The name of the profile that a driver ships, in the folder of the module that defines its class."""

Seconds = Annotated[float, msgspec.Meta(gt=0, le=3600)]


class ProfileError(Exception):
    """A profile is wrong. The message says where and what was expected."""


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all tables of a profile."""


class ExecProfile(Table, frozen=True):
    """``[exec]``: ``shell`` is the program that takes a script as its last argument; ``directory`` one that a program
    can be started in, other than the one that programs start in by themselves."""

    shell: tuple[str, ...] = ("sh", "-c")
    directory: str = "/tmp"  # noqa: S108 - of the device, not of this host


class FilesProfile(Table, frozen=True):
    """``[files]``: ``scratch`` is a directory in which the kit makes and removes one of its own; ``names`` are odd
    names that files must be able to have there; ``modes`` says whether the device keeps permission bits."""

    scratch: str = "/tmp"  # noqa: S108 - likewise
    names: tuple[str, ...] = ("a b", "quote'\"", "tab\tnew\nline", "ünï-…", "-rf", "$HOME", "a" * 200)
    modes: bool = True


class ProvisionProfile(Table, frozen=True):
    """``[provision]``: the ``template`` to make devices from (the first that the driver lists, if none), and the size
    of them (None is the template's own)."""

    template: str | None = None
    vcpus: int | None = None
    memory: int | None = None


class AppProfile(Table, frozen=True):
    """``[app]``: an app to install: its ``package`` (a file, from the profile's folder on) and its ``identifier``.
    ``broken`` is a file that is no package; without it the kit sends random bytes."""

    package: Path
    identifier: str
    broken: Path | None = None


class TestsProfile(Table, frozen=True):
    """``[tests]``: a test runner that takes part in :class:`anvild.sdk.AppTests`: its ``target``, the app under test
    where the runner does not know it, packages to install before, and how many tests pass and fail in it."""

    __test__ = False  # no test class, whatever a collector of tests thinks of its name

    target: str
    app: str | None = None
    packages: tuple[Path, ...] = ()
    arguments: dict[str, str] = {}
    passed: int | None = None
    failed: int | None = None


class PortsProfile(Table, frozen=True):
    """``[ports]``: ``greeting`` is a port of the device on which something listens and speaks first, or echoes;
    ``server`` a program of the device that does so and prints a line when it listens, where nothing does by itself;
    ``closed`` one on which nothing listens."""

    greeting: int | None = None
    server: tuple[str, ...] = ()
    closed: int = 9


class Profile(Table, frozen=True):
    """What the kit may use. Defaults suit devices with a POSIX shell.

    ``settings`` are the driver's own settings for the check (a simulator turned on, say). ``device`` is the identity
    of the device to use; the first ready one if none. ``appear_seconds`` is how long devices may take to appear after
    the start, ``change_seconds`` how long a driver may take to notice a device that went or came.
    """

    settings: dict[str, Any] = {}
    device: str | None = None
    appear_seconds: Seconds = 30.0
    change_seconds: Seconds = 10.0
    provision: ProvisionProfile = ProvisionProfile()
    exec: ExecProfile = ExecProfile()
    files: FilesProfile = FilesProfile()
    app: AppProfile | None = None
    tests: TestsProfile | None = None
    ports: PortsProfile = PortsProfile()


def load_profile(path: Path) -> Profile:
    """Read a profile; the files that it names are taken from its folder on. It blocks.

    :raises ProfileError: when it cannot be read, or names a key or a file that is not there.
    """
    try:
        profile = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Profile, dec_hook=_path)
    except OSError as error:
        raise ProfileError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise ProfileError(f"{path}: {error}") from None
    folder = path.resolve().parent
    if (app := profile.app) is not None:
        broken = app.broken and _file(path, folder / app.broken)
        app = msgspec.structs.replace(app, package=_file(path, folder / app.package), broken=broken)
    if (tests := profile.tests) is not None:
        tests = msgspec.structs.replace(tests, packages=tuple(_file(path, folder / each) for each in tests.packages))
    return msgspec.structs.replace(profile, app=app, tests=tests)


def profile_of(kind: type[Driver]) -> Profile:
    """Return the profile that a driver ships, or the default one. It blocks. Raises ProfileError."""
    module = sys.modules.get(kind.__module__)
    source = getattr(module, "__file__", None)
    shipped = Path(source).with_name(PROFILE_FILE) if source else None
    return load_profile(shipped) if shipped is not None and shipped.is_file() else Profile()


def _file(profile: Path, path: Path) -> Path:
    if not path.is_file():
        raise ProfileError(f"{profile}: there is no file {path}")
    return path


def _path(kind: type[Any], value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(kind)
