"""Which daemon the client speaks to, and with which key.

In this order: the flags; the named profile; the environment (``ANVIL_URL``, ``ANVIL_API_KEY``); the profile
``default``; the daemon of this machine, which writes its address to ``ready.json`` in its data directory. A profile's
key is only ever sent to the profile's own daemon.
"""

from __future__ import annotations

import os
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from anvild.core.settings import Settings

from .exits import ExitCode, Failure

__all__ = ["Connection", "Profile", "credentials_file", "load_profiles", "remove_profile", "resolve", "save_profile"]

DEFAULT_PROFILE = "default"
URL_VARIABLE = "ANVIL_URL"
KEY_VARIABLE = "ANVIL_API_KEY"


class Profile(msgspec.Struct, frozen=True, omit_defaults=True):
    """One entry of the credentials file: a key, and the daemon that it belongs to by address or by data directory."""

    key: str
    url: str | None = None
    data_dir: str | None = None


class Connection(msgspec.Struct, frozen=True):
    """Where to connect, with which key (None where none is known), and where the address came from."""

    url: str
    key: str | None
    origin: str


class Ready(msgspec.Struct, frozen=True):
    """What the daemon writes to ``ready.json``."""

    url: str


def credentials_file(environ: Mapping[str, str]) -> Path:
    """Return the path of the file that keeps profiles."""
    home = Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME", "/")) / ".config")
    return home / "anvil" / "credentials.toml"


def load_profiles(environ: Mapping[str, str]) -> dict[str, Profile]:
    """Read all profiles. No file means none. Raises Failure for a file that others may read, or that is broken."""
    path = credentials_file(environ)
    try:
        if path.stat().st_mode & 0o077:
            raise Failure(
                ExitCode.NOT_AUTHORISED,
                "credentials_exposed",
                f"{path} can be read by others; make it private with: chmod 600 {path}",
            )
        return msgspec.convert(tomllib.loads(path.read_text()), dict[str, Profile])
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise Failure(ExitCode.USAGE, "credentials_broken", f"{path}: {error}; mend it or run anvil login") from None


def save_profile(environ: Mapping[str, str], name: str, profile: Profile) -> Path:
    """Add or replace one profile and return the file's path. The file is replaced whole, readable by its owner only."""
    return _write(environ, {**load_profiles(environ), name: profile})


def remove_profile(environ: Mapping[str, str], name: str) -> None:
    """Remove one profile. Raises Failure when there is none of that name."""
    profiles = load_profiles(environ)
    if profiles.pop(name, None) is None:
        raise Failure(ExitCode.NOT_FOUND, "profile_not_found", f"there is no profile {name!r} to remove")
    _write(environ, profiles)


def resolve(
    *, url: str | None, key: str | None, profile: str | None, environ: Mapping[str, str] | None = None
) -> Connection:
    """Decide where to connect. Raises Failure for an unknown profile or an address that is none."""
    environ = os.environ if environ is None else environ
    profiles = load_profiles(environ)
    if profile is not None and profile not in profiles:
        known = ", ".join(sorted(profiles)) or "none yet"
        raise Failure(
            ExitCode.USAGE, "profile_not_found", f"there is no profile {profile!r}; there are: {known}. Run anvil login"
        )
    if profile is None:
        url = url or environ.get(URL_VARIABLE) or None
        key = key or environ.get(KEY_VARIABLE) or None
    chosen = profiles.get(profile or DEFAULT_PROFILE)
    own_url, origin = _address(chosen, environ)
    address = _normal(url or own_url)
    if key is None and chosen is not None and address == _normal(own_url):
        key = chosen.key
    return Connection(address, key, "as given" if url else origin)


def _address(profile: Profile | None, environ: Mapping[str, str]) -> tuple[str, str]:
    if profile is not None and profile.url is not None:
        return profile.url, f"the profile in {credentials_file(environ)}"
    defaults = Settings()
    kept = profile.data_dir if profile is not None else None
    ready = Path(kept or environ.get("ANVIL_DATA_DIR") or defaults.data_dir) / "ready.json"
    try:
        return msgspec.json.decode(ready.read_bytes(), type=Ready).url, str(ready)
    except (OSError, msgspec.MsgspecError):
        listen = environ.get("ANVIL_LISTEN") or defaults.listen
        return listen if listen.startswith("unix:") else f"http://{listen}", "the default address"


def _normal(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme == "unix" and parts.path.startswith("/"):
        return f"unix:{parts.path}"
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise Failure(
            ExitCode.USAGE, "invalid_url", f"{url!r} is no address of a daemon; write http://HOST:PORT or unix:/PATH"
        )
    return url.rstrip("/")


def _write(environ: Mapping[str, str], profiles: Mapping[str, Profile]) -> Path:
    path = credentials_file(environ)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    lines: list[str] = []
    for name, profile in sorted(profiles.items()):
        lines.append(f"[{_quoted(name)}]")
        lines += [f"{field} = {_quoted(value)}" for field, value in msgspec.to_builtins(profile).items() if value]
        lines.append("")
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=".credentials-", delete=False) as file:
        try:
            file.write("\n".join(lines))
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    return path


def _quoted(text: str) -> str:
    """Write a TOML string: JSON's escapes are TOML's."""
    return msgspec.json.encode(text).decode()
