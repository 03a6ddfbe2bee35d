"""The daemon's settings: typed, with defaults, from files, environment and flags.

Precedence, later wins: the defaults here, ``/etc/anvild/anvild.toml``, ``/etc/anvild/conf.d/*.toml`` in name order,
``ANVIL_*`` environment variables, flags. ``--config FILE`` replaces the two system places by that file and the
``conf.d`` beside it.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec

from anvild.sdk import InvalidArgument, NetworkPolicy
from anvild.sdk.network.rules import Rules, check_private

__all__ = [
    "DEFAULT_CONFIG",
    "CapsuleSettings",
    "DevicetestSettings",
    "DriverHosting",
    "EngineSettings",
    "GithubSettings",
    "IdentitySettings",
    "MailSettings",
    "NotifySettings",
    "PluginSettings",
    "Settings",
    "SettingsError",
    "StoreSettings",
    "WebSettings",
    "config_path",
    "driver_hosting",
    "load_settings",
]

DEFAULT_CONFIG = Path("/etc/anvild/anvild.toml")
ENVIRONMENT_PREFIX = "ANVIL_"
DRIVER_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")

Positive = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Days = Annotated[float, msgspec.Meta(gt=0)]
Size = Annotated[int, msgspec.Meta(ge=1024)]
Memory = Annotated[int, msgspec.Meta(ge=32 * 2**20)]
Word = Annotated[str, msgspec.Meta(min_length=1)]


class SettingsError(Exception):
    """A setting is wrong. The message says where (file, environment or flag), which key, and what was expected."""


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all tables of the settings."""


class StoreSettings(Section, frozen=True):
    """``[store]``"""

    url: Annotated[str, msgspec.Meta(description="database; empty means SQLite in the data directory")] = ""
    runs_days: Annotated[Days, msgspec.Meta(description="how long runs are kept after their end")] = 365.0
    capsules_days: Annotated[Days, msgspec.Meta(description="how long capsules are kept after their end")] = 90.0
    events_days: Annotated[Days, msgspec.Meta(description="how long events are kept")] = 30.0
    audit_days: Annotated[Days, msgspec.Meta(description="how long audit events are kept")] = 365.0
    artifacts_days: Annotated[Days, msgspec.Meta(description="how long artifacts are kept")] = 90.0
    artifacts_quota: Annotated[Size, msgspec.Meta(description="bytes of artifacts the lab may keep")] = 100 * 2**30


class WebSettings(Section, frozen=True):
    """``[web]``"""

    public_url: Annotated[str, msgspec.Meta(description="address that clients see; empty means the listen address")] = (
        ""
    )
    frontend_url: Annotated[
        str, msgspec.Meta(description="address of the pages that mails and logins lead to; empty means public_url")
    ] = ""
    max_body: Annotated[Size, msgspec.Meta(description="bytes of an ordinary request body")] = 2 * 2**20
    max_upload: Annotated[Size, msgspec.Meta(description="bytes of a streamed upload")] = 8 * 2**30
    max_connections: Annotated[Positive, msgspec.Meta(description="open connections; more get 503")] = 4096
    graceful_seconds: Annotated[Seconds, msgspec.Meta(description="time for requests in flight at shutdown")] = 5.0
    requests_per_minute: Annotated[Positive, msgspec.Meta(description="requests a minute and team")] = 6000


class IdentitySettings(Section, frozen=True):
    """``[identity]``"""

    bearer_token: Annotated[str, msgspec.Meta(description="the automation token; empty turns it off")] = ""
    session_idle_hours: Annotated[float, msgspec.Meta(gt=0, description="idle life of a login")] = 6.0
    session_hours: Annotated[float, msgspec.Meta(gt=0, description="whole life of a login")] = 24.0


class MailSettings(Section, frozen=True):
    """``[mail]``"""

    server: Annotated[str, msgspec.Meta(description="HOST or HOST:PORT of the SMTP server; empty sends no mail")] = ""
    security: Annotated[
        Literal["starttls", "tls", "none"], msgspec.Meta(description="how the way to the SMTP server is protected")
    ] = "starttls"
    user: Annotated[str, msgspec.Meta(description="name to log in with; empty logs in as nobody")] = ""
    password: Annotated[str, msgspec.Meta(description="password to log in with")] = ""
    sender: Annotated[str, msgspec.Meta(description="address that mails come from")] = "anvild@localhost"


class NotifySettings(Section, frozen=True):
    """``[notify]``"""

    allow: Annotated[
        tuple[str, ...],
        msgspec.Meta(description="networks (10.0.0.0/8) that channels may reach beside public addresses"),
    ] = ()

    def __post_init__(self) -> None:
        for network in self.allow:
            ip_network(network)

    @property
    def networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """The networks of ``allow``."""
        return tuple(map(ip_network, self.allow))


class GithubSettings(Section, frozen=True):
    """``[github]``"""

    client_id: Annotated[
        str, msgspec.Meta(description="id of the OAuth app that logs people in; empty turns it off")
    ] = ""
    client_secret: Annotated[str, msgspec.Meta(description="secret of that OAuth app")] = ""
    url: Annotated[str, msgspec.Meta(description="where its pages are")] = "https://github.com"
    api_url: Annotated[str, msgspec.Meta(description="where its API is")] = "https://api.github.com"


class EngineSettings(Section, frozen=True):
    """``[engine]``"""

    max_running: Annotated[Positive, msgspec.Meta(description="runs that execute at the same time")] = 64
    run_deadline: Annotated[Seconds, msgspec.Meta(description="seconds a run may take when it states none")] = 3600.0
    person_lease: Annotated[
        Seconds, msgspec.Meta(description="seconds a person holds a device who says no other time")
    ] = 3600.0
    hold_above_celsius: Annotated[float, msgspec.Meta(description="a device hotter than this gets no new work")] = 45.0
    hold_below_percent: Annotated[
        float, msgspec.Meta(ge=0, le=100, description="a device with less charge gets no new work")
    ] = 10.0


class DevicetestSettings(Section, frozen=True):
    """``[devicetests]``"""

    device_cap: Annotated[Positive, msgspec.Meta(description="devices that a team may register")] = 100


class CapsuleSettings(Section, frozen=True):
    """``[capsules]``"""

    proxy_domain: Annotated[
        str,
        msgspec.Meta(
            pattern=r"^([a-z0-9-]+(\.[a-z0-9-]+)*)?$",
            description="domain below which {port}-{capsule} leads to a port of a capsule; empty turns that off",
        ),
    ] = ""
    proxy_open: Annotated[
        bool, msgspec.Meta(description="true lets all who know a capsule's id reach its ports, without any credential")
    ] = False
    network: Annotated[
        Literal["none", "internet"] | tuple[Word, ...],
        msgspec.Meta(
            description="network of capsules whose creation says nothing: `none`, `internet` (all public addresses) "
            "or a list of what is allowed"
        ),
    ] = "none"
    network_private: Annotated[
        tuple[Word, ...],
        msgspec.Meta(description="networks (10.0.0.0/8) that capsules may be allowed to reach beside public addresses"),
    ] = ()

    def __post_init__(self) -> None:
        try:
            check_private(self.network_private)
            if isinstance(self.network, tuple) and self.network:
                Rules(NetworkPolicy(allow=self.network, private=self.network_private))
        except InvalidArgument as error:
            where = str(error.details["field"]).replace("allow", "network").replace("private", "network_private")
            raise ValueError(f"{where}: {error.message}") from None


class PluginSettings(Section, frozen=True):
    """``[plugins]``"""

    allow: Annotated[
        tuple[str, ...], msgspec.Meta(description="plugins to load; empty means all that are installed")
    ] = ()


class DriverHosting(Section, frozen=True):
    """The daemon's own keys in ``[drivers.NAME]``; all others are the driver's."""

    enabled: Annotated[bool, msgspec.Meta(description="false turns the driver off")] = True
    isolation: Annotated[
        Literal["none", "process"], msgspec.Meta(description="`process` runs the driver in a process of its own")
    ] = "none"
    command: Annotated[
        tuple[Word, ...],
        msgspec.Meta(description="program that is the driver, in any language; no plugin of the name is needed"),
    ] = ()
    memory_limit: Annotated[Memory, msgspec.Meta(description="bytes of memory that the driver's process may use")] = (
        2**30
    )

    @property
    def isolated(self) -> bool:
        """Whether the driver runs in a process of its own."""
        return self.isolation == "process" or bool(self.command)


class Settings(Section, frozen=True):
    """All settings. ``drivers`` holds one table for each driver: the daemon's own keys are those of
    :class:`DriverHosting`, the rest is checked against the driver's own settings type."""

    data_dir: Annotated[Path, msgspec.Meta(description="where everything that must be kept lies")] = Path(
        "/var/lib/anvild"
    )
    config_dir: Annotated[
        Path, msgspec.Meta(description="where the configuration lies; with --config, the folder of that file")
    ] = DEFAULT_CONFIG.parent
    listen: Annotated[str, msgspec.Meta(description="HOST:PORT or unix:PATH; port 0 picks a free one")] = (
        "127.0.0.1:8470"
    )
    host: Annotated[str, msgspec.Meta(description="name of this machine in the lab; empty means its host name")] = ""
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], msgspec.Meta(description="least level that is logged")
    ] = "info"
    store: StoreSettings = StoreSettings()
    web: WebSettings = WebSettings()
    identity: IdentitySettings = IdentitySettings()
    mail: MailSettings = MailSettings()
    notify: NotifySettings = NotifySettings()
    github: GithubSettings = GithubSettings()
    engine: EngineSettings = EngineSettings()
    devicetests: DevicetestSettings = DevicetestSettings()
    capsules: CapsuleSettings = CapsuleSettings()
    plugins: PluginSettings = PluginSettings()
    drivers: dict[str, dict[str, Any]] = {}

    @property
    def frontend(self) -> str:
        """Where the pages are that mails and logins lead to, without a slash at its end."""
        return self.web.frontend_url.rstrip("/") or self.address

    @property
    def address(self) -> str:
        """Where clients find the daemon, without a slash at its end."""
        return (self.web.public_url or f"http://{self.listen}").rstrip("/")

    @property
    def drop_ins(self) -> Path:
        """Where single-file drivers and plugins lie."""
        return self.config_dir / "conf.d" / "drivers"

    @property
    def store_url(self) -> str:
        """The database's URL: the setting, or SQLite in the data directory."""
        return self.store.url or f"sqlite:///{self.data_dir / 'anvild.sqlite'}"


def driver_hosting(settings: Settings, name: str) -> DriverHosting:
    """Return the daemon's own keys of a driver's table.

    :raises SettingsError: with the key and what was expected.
    """
    if not DRIVER_NAME.fullmatch(name):
        raise SettingsError(f"drivers.{name}: a driver's name is made of lower-case letters, digits, - and _")
    known = DriverHosting.__struct_fields__
    table = {key: value for key, value in settings.drivers.get(name, {}).items() if key in known}
    try:
        return msgspec.convert(table, DriverHosting)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `$")
        raise SettingsError(f"drivers.{name}{where.rstrip('`')}: {message[0].lower()}{message[1:]}") from None


def config_path(settings: Settings) -> tuple[Path, ...]:
    """Return the search path of data files (pipelines, image recipes): shipped, of the machine, of the data directory.

    In a source tree the shipped ones are in ``config/``; in an installed wheel, inside the package.
    """
    package = Path(__file__).resolve().parent.parent
    shipped = package / "data"
    if not shipped.is_dir():
        shipped = package.parent / "config"
    return (shipped, settings.config_dir, settings.data_dir)


def load_settings(config: Path | None, overrides: Mapping[str, Any], environ: Mapping[str, str]) -> Settings:
    """Read and merge all sources and check the result.

    :param config: a file that replaces the system's; it must exist.
    :param overrides: values from flags by dotted key (``"listen"``, ``"store.url"``); None means not given.
    :param environ: the process environment.
    :raises SettingsError: with the source, the key and what was expected.

    It reads files: call it before the loop runs, or in a thread.
    """
    merged: dict[str, Any] = {"config_dir": (config or DEFAULT_CONFIG).resolve().parent}
    sources: dict[str, str] = {}
    for path in _files(config):
        _merge(merged, _read(path), sources, str(path), ())
    for name, value in sorted(environ.items()):
        key = _key_of_variable(name)
        if key is not None:
            _put(merged, key, _from_text(value, key), sources, f"the environment variable {name}")
    for dotted, value in overrides.items():
        if value is not None:
            _put(merged, tuple(dotted.split(".")), value, sources, f"the flag --{dotted.replace('_', '-')}")
    _refuse_unknown(merged, Settings, sources, ())
    try:
        return msgspec.convert(merged, Settings, strict=True, dec_hook=_decode)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `$")
        wrong = where.rstrip("`").lstrip(".") or "the settings"
        raise SettingsError(f"{_source(sources, wrong)}: {wrong}: {message[0].lower()}{message[1:]}") from None


def _files(config: Path | None) -> list[Path]:
    if config is not None and not config.is_file():
        raise SettingsError(f"{config}: there is no such file; --config takes a TOML file")
    base = config or DEFAULT_CONFIG
    files = [base] if base.is_file() else []
    return [*files, *sorted((base.parent / "conf.d").glob("*.toml"))]


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from None
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None


def _merge(
    into: dict[str, Any], new: Mapping[str, Any], sources: dict[str, str], source: str, at: tuple[str, ...]
) -> None:
    for key, value in new.items():
        here = (*at, key)
        if isinstance(value, dict) and isinstance(into.get(key, {}), dict):
            _merge(into.setdefault(key, {}), value, sources, source, here)
            sources.setdefault(".".join(here), source)
        else:
            into[key] = value
            sources[".".join(here)] = source


def _put(into: dict[str, Any], key: tuple[str, ...], value: object, sources: dict[str, str], source: str) -> None:
    nested: dict[str, Any] = {key[-1]: value}
    for part in reversed(key[:-1]):
        nested = {part: nested}
    _merge(into, nested, sources, source, ())


def _key_of_variable(name: str) -> tuple[str, ...] | None:
    """``ANVIL_STORE_URL`` → ``("store", "url")``. Variables that name no setting (ANVIL_URL of the client) are not
    ours and are left alone; ``ANVIL_BEARER_TOKEN`` is the documented short form of the automation token."""
    if not name.startswith(ENVIRONMENT_PREFIX):
        return None
    rest = name.removeprefix(ENVIRONMENT_PREFIX).lower()
    if rest == "bearer_token":
        return ("identity", "bearer_token")
    for field in msgspec.structs.fields(Settings):
        if rest == field.name and not _is_section(field.type):
            return (field.name,)
        section = field.type
        if _is_section(section) and rest.startswith(field.name + "_"):
            inner = rest.removeprefix(field.name + "_")
            if inner in section.__struct_fields__:
                return (field.name, inner)
    return None


def _from_text(value: str, key: Sequence[str]) -> object:
    """Give an environment variable's text the type that its setting has."""
    kind: Any = Settings
    for part in key:
        kind = next(f.type for f in msgspec.structs.fields(kind) if f.name == part)
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) is tuple:
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if kind is bool:
        return {"true": True, "false": False}.get(value.lower(), value)
    try:
        if kind is int:
            return int(value)
        if kind is float:
            return float(value)
    except ValueError:
        return value
    return value


def _is_section(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


def _refuse_unknown(
    values: Mapping[str, Any], kind: type[msgspec.Struct], sources: Mapping[str, str], at: tuple[str, ...]
) -> None:
    types = {field.name: field.type for field in msgspec.structs.fields(kind)}
    for key, value in values.items():
        dotted = ".".join((*at, key))
        if key not in types:
            close = difflib.get_close_matches(key, types, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else f"; expected one of {', '.join(sorted(types))}"
            raise SettingsError(f"{_source(sources, dotted)}: {dotted}: there is no such setting{hint}")
        if _is_section(types[key]) and isinstance(value, dict):
            _refuse_unknown(value, types[key], sources, (*at, key))


def _source(sources: Mapping[str, str], key: str) -> str:
    while key not in sources and "." in key:
        key = key.rpartition(".")[0]
    return sources.get(key, "settings")


def _decode(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str | Path):
        return Path(value)
    raise NotImplementedError(f"no form of {kind} is known")
