"""``check-config`` of both programs: is the configuration right, and what is in force?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from anvild.core.driver_context import driver_settings, enabled_drivers, isolated_drivers
from anvild.core.logging import MASK, SECRET_NAMES
from anvild.core.plugins import Plugins
from anvild.core.settings import DEFAULT_CONFIG, Settings, SettingsError

from .context import Ctx
from .exits import ExitCode, Failure
from .machine import ConfigFile, settings_of
from .output import Output

__all__ = ["check", "check_config", "line_of", "masked"]


def check_config(*, config: ConfigFile = None, context: Ctx) -> None:
    """Check the configuration and print what is in force, with secrets masked."""
    check(config, context.output)


def check(config: Path | None, output: Output) -> None:
    """Load and check what ``anvild serve`` would, and print it. Raises Failure with the place and what was expected."""
    try:
        settings = settings_of(config)
        _check_drivers(settings)
    except SettingsError as error:
        raise Failure(ExitCode.USAGE, "settings", _with_line(str(error), config)) from None
    effective = masked(msgspec.to_builtins(settings, enc_hook=str))
    if output.json:
        output.document(effective)
        return
    output.say("The configuration is right. In force:", style="green")
    for line in _toml(effective):
        output.say(line)


def _check_drivers(settings: Settings) -> None:
    """Check each ``[drivers.NAME]`` against the settings type of its driver. Those of a driver in a process of its own
    are that process's to check."""
    plugins = Plugins.of(settings)
    isolated_drivers(settings, plugins)
    for kind in enabled_drivers(settings, plugins).values():
        driver_settings(settings, kind)


def masked(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with every secret replaced: by its name, and passwords inside of addresses."""
    return {name: _masked_value(name, value) for name, value in values.items()}


def _masked_value(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return masked(value)
    if isinstance(value, str) and value:
        if SECRET_NAMES & set(name.split("_")) or name in SECRET_NAMES:
            return MASK
        if "://" in value and (password := urlsplit(value).password):
            return value.replace(f":{password}@", f":{MASK}@")
    return value


def _toml(values: Mapping[str, Any], at: tuple[str, ...] = ()) -> list[str]:
    """Write settings as TOML: plain values first, then one table after the other."""
    lines = [
        f"{name} = {msgspec.json.encode(value).decode()}"
        for name, value in values.items()
        if not isinstance(value, dict)
    ]
    if at and lines:
        lines.insert(0, f"[{'.'.join(at)}]")
    for name, value in values.items():
        if isinstance(value, dict):
            lines += _toml(value, (*at, name))
    return lines


def _with_line(message: str, config: Path | None) -> str:
    """Add file and line to a message ``[SOURCE: ]KEY: EXPECTATION`` where a file sets the key."""
    source, _, rest = message.partition(": ")
    if Path(source).is_file():
        number = line_of(Path(source), rest.partition(": ")[0])
        return f"{source}:{number}: {rest}" if number is not None else message
    base = config or DEFAULT_CONFIG
    for path in [*sorted((base.parent / "conf.d").glob("*.toml"), reverse=True), base]:
        if path.is_file() and (number := line_of(path, source)) is not None:
            return f"{path}:{number}: {message}"
    return message


def line_of(path: Path, key: str) -> int | None:
    """Find the line of a TOML file that sets a dotted key, or the table nearest to it."""
    *tables, last = key.split(".")
    best = None
    here: list[str] = []
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        if header := re.match(r"\s*\[\s*([^\[\]]+?)\s*\]", line):
            here = [part.strip().strip("\"'") for part in header[1].split(".")]
            if here == [*tables, last]:
                best = number
        elif (setting := re.match(r"\s*([\w.\"'-]+)\s*=", line)) and [
            *here,
            *(part.strip("\"'") for part in setting[1].split(".")),
        ] == [*tables, last]:
            return number
    return best
