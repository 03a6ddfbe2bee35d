"""Where pipelines are found: files in a few directories, read when a run asks for one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import trio

from anvild.sdk import InvalidArgument

from .model import Pipeline
from .parse import parse
from .parts import MAX_FILE, PipelineError

__all__ = ["Catalogue", "Listed", "UnknownPipeline"]

SUFFIX = ".toml"


class UnknownPipeline(InvalidArgument):
    """No file defines this pipeline. The message names those that exist."""

    code = "unknown_pipeline"


class Listed(msgspec.Struct, frozen=True):
    """One pipeline of the catalogue: what it is, or why it cannot be used."""

    name: str
    pipeline: Pipeline | None
    problem: str | None = None


class _Cached(msgspec.Struct, frozen=True):
    stamp: tuple[int, int, int]
    listed: Listed


class Catalogue:
    """The pipelines in ``directories``; in a later one a file of the same name wins.

    Files are read in a thread when they are asked for, and again when they have changed.
    """

    def __init__(self, directories: Sequence[Path]) -> None:
        self._directories = tuple(directories)
        self._cache: dict[Path, _Cached] = {}

    async def get(self, name: str) -> Pipeline:
        """Return one pipeline. Raises UnknownPipeline, or PipelineError with the place of the mistake."""
        return await trio.to_thread.run_sync(self._get, name)

    async def all(self) -> list[Listed]:
        """Return all pipelines by name, the unusable ones with their reason."""
        return await trio.to_thread.run_sync(self._all)

    def _files(self) -> dict[str, Path]:
        return {
            path.name.removesuffix(SUFFIX): path
            for directory in self._directories
            for path in sorted(directory.glob(f"*{SUFFIX}"))
        }

    def _get(self, name: str) -> Pipeline:
        files = self._files()
        path = files.get(name)
        if path is None:
            known = ", ".join(sorted(files)) or "none at all"
            raise UnknownPipeline(f"there is no pipeline {name!r}; there are: {known}")
        listed = self._read(name, path)
        if listed.pipeline is None:
            raise PipelineError(listed.problem or "")
        return listed.pipeline

    def _all(self) -> list[Listed]:
        files = self._files()
        for gone in set(self._cache) - set(files.values()):
            del self._cache[gone]
        return [self._read(name, path) for name, path in sorted(files.items())]

    def _read(self, name: str, path: Path) -> Listed:
        try:
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            cached = self._cache.get(path)
            if cached is not None and cached.stamp == stamp:
                return cached.listed
            document = path.read_text("utf-8") if status.st_size <= MAX_FILE else None
        except (OSError, UnicodeDecodeError) as error:
            return Listed(name, None, f"{path.name}: cannot be read: {error}")
        if document is None:
            return Listed(name, None, f"{path.name}: the file is larger than {MAX_FILE} bytes")
        try:
            listed = Listed(name, parse(document, name=name, file=path.name))
        except PipelineError as error:
            listed = Listed(name, None, error.message)
        self._cache[path] = _Cached(stamp, listed)
        return listed
