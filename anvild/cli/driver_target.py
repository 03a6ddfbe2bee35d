"""Which driver is meant on a command line, and in which place it shall stand."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from anvild.core.plugins import PluginInfo, Plugins, PluginState
from anvild.core.settings import Settings
from anvild.sdk import Driver
from anvild.sdk.protocol import load_driver
from anvild.sdk.testing import (
    ChildProcess,
    InProcess,
    OverWebSocket,
    Place,
    Profile,
    ProfileError,
    load_profile,
    profile_of,
)

from .exits import ExitCode, Failure

__all__ = ["PlaceName", "Target", "find_target", "profile_for", "settings_from"]

PlaceName = Literal["inprocess", "process", "websocket"]


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A driver: a class of this process, or a command that starts one of any language.

    ``source`` is how a Python of its own finds the class again. ``plugin`` is there for an installed one.
    """

    name: str
    kind: type[Driver] | None = None
    source: str | None = None
    command: tuple[str, ...] = ()
    plugin: PluginInfo | None = None

    def place(self, name: PlaceName) -> Place:
        """Return one of the three places. Raises Failure where this driver cannot stand there."""
        if name == "inprocess":
            if self.kind is None:
                raise Failure(
                    ExitCode.USAGE,
                    "no_such_place",
                    f"{self.name} is a program of its own: check it with --place process or --place websocket",
                )
            return InProcess(self.kind)
        own = self.kind or self.command
        if name == "websocket":
            return OverWebSocket(own)
        return ChildProcess(self.command) if self.source is None else ChildProcess.of(self.source)


def find_target(words: Sequence[str], settings: Settings) -> Target:
    """Find the driver that is named: by the name of an installed one, by a file, by ``module:Class``; or several words
    that are the command of a driver in another language.

    It imports foreign code: call it in a thread. Raises Failure.
    """
    if not words:
        raise Failure(ExitCode.USAGE, "no_driver", "name a driver: a name, FILE.py, module:Class, or -- COMMAND ...")
    if len(words) > 1:
        return Target(name=Path(words[0]).name, command=tuple(words))
    (word,) = words
    if word.endswith(".py"):
        return _of_file(Path(word), settings)
    if ":" in word:
        return _of_class(word)
    if "/" in word:
        return Target(name=Path(word).name, command=(word,))
    return _installed(word, settings)


def _installed(name: str, settings: Settings) -> Target:
    plugins = Plugins(drop_ins=settings.drop_ins)
    kind = plugins.drivers().get(name)
    if kind is None:
        broken = next((each for each in plugins.listing() if each.name == name and each.reason), None)
        if broken is not None:
            raise Failure(ExitCode.USAGE, "broken_plugin", f"the plugin {name!r} is {broken.state}: {broken.reason}")
        known = ", ".join(sorted(plugins.drivers())) or "none"
        raise Failure(ExitCode.NOT_FOUND, "not_found", f"no driver {name!r} is installed; installed are: {known}")
    plugin = _plugin_of(kind, plugins, settings)
    if plugin is None:
        return Target(name=name, kind=kind, source=f"{kind.__module__}:{kind.__qualname__}")
    place = plugin.distribution if plugin.version == "drop-in" else plugin.name
    return Target(name=name, kind=kind, source=f"{place}:{name}", plugin=plugin)


def _plugin_of(kind: type[Driver], plugins: Plugins, settings: Settings) -> PluginInfo | None:
    """Return the plugin that offers a driver: the one without which it is not there."""
    for info in plugins.listing():
        if info.state is PluginState.LOADED and "anvil_drivers" in info.hooks:
            alone = Plugins(allow=[info.name], drop_ins=settings.drop_ins)
            if kind.name in alone.drivers():
                return info
    return None


def _of_file(path: Path, settings: Settings) -> Target:
    if not path.is_file():
        raise Failure(ExitCode.NOT_FOUND, "not_found", f"there is no file {path}")
    path = path.resolve()
    if path.parent == settings.drop_ins.resolve():
        plugins = Plugins(allow=[path.stem], drop_ins=settings.drop_ins)
        info = next((each for each in plugins.listing() if each.name == path.stem), None)
        found = list(plugins.drivers().values())
        if info is not None and info.state is PluginState.LOADED and len(found) == 1:
            return Target(name=found[0].name, kind=found[0], source=str(path), plugin=info)
    kind = _load(str(path))
    return Target(name=kind.name, kind=kind, source=str(path))


def _of_class(word: str) -> Target:
    sys.path.insert(0, str(Path.cwd()))  # as python -m does it
    kind = _load(word)
    return Target(name=kind.name, kind=kind, source=word)


def _load(word: str) -> type[Driver]:
    try:
        return load_driver(word)
    except (LookupError, ModuleNotFoundError) as error:
        raise Failure(ExitCode.NOT_FOUND, "not_found", f"{word}: {error}") from None
    except Exception as error:
        raise Failure(ExitCode.USAGE, "broken_plugin", f"{word}: {type(error).__name__}: {error}") from error


def profile_for(target: Target, path: Path | None) -> Profile:
    """Read the profile that is named, or that the driver ships. It blocks. Raises Failure."""
    try:
        if path is not None:
            return load_profile(path)
        return profile_of(target.kind) if target.kind is not None else Profile()
    except ProfileError as error:
        raise Failure(ExitCode.USAGE, "profile", str(error)) from None


def settings_from(words: Sequence[str]) -> dict[str, Any]:
    """Read ``KEY=VALUE`` settings; a value is TOML where it can be read so, and text otherwise. Raises Failure."""
    found: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise Failure(ExitCode.USAGE, "usage", f"--setting {word!r}: expected KEY=VALUE")
        try:
            found[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            found[key] = value
    return found
