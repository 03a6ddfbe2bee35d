"""The grades that ``anvil driver check`` gave, kept in the data directory and shown by ``anvil plugins``."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from .plugins import PluginInfo

__all__ = ["Grade", "Grades", "edition"]


class Grade(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a conformance run: of which driver and edition of its plugin, in which places, and when."""

    driver: str
    edition: str
    level: str
    places: tuple[str, ...]
    at: datetime = msgspec.field(default_factory=lambda: datetime.now(UTC))


class Grades:
    """One small file for each plugin, in the folder ``grades`` of the data directory. All of it blocks."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / "grades"

    def keep(self, plugin: str, grade: Grade) -> None:
        """Keep the grade of a plugin in place of the one before. Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = self._folder / f"{plugin}.json.part"
        partial.write_bytes(msgspec.json.encode(grade))
        partial.rename(self._folder / f"{plugin}.json")

    def find(self, plugin: PluginInfo) -> Grade | None:
        """Return the grade of a plugin, unless it was given to another edition of it."""
        try:
            grade = msgspec.json.decode((self._folder / f"{plugin.name}.json").read_bytes(), type=Grade)
        except (OSError, msgspec.DecodeError):
            return None
        return grade if grade.edition == edition(plugin) else None

    def shown(self, plugins: Iterable[PluginInfo]) -> list[PluginInfo]:
        """Return plugins with their present grades."""
        return [
            msgspec.structs.replace(each, grade=grade.level if (grade := self.find(each)) else None) for each in plugins
        ]


def edition(plugin: PluginInfo) -> str:
    """Return what tells one edition of a plugin from the next: its version, or the content of a single file."""
    if plugin.version != "drop-in":
        return f"{plugin.distribution} {plugin.version}"
    try:
        return f"sha256:{hashlib.sha256(Path(plugin.distribution).read_bytes()).hexdigest()}"
    except OSError as error:
        return f"unreadable: {error.strerror}"
