"""The wire shapes of files in capsules."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, UnsetType

__all__ = [
    "FileEntry",
    "ListDirRequest",
    "ListDirResponse",
    "MakeDirRequest",
    "MakeDirResponse",
    "ReadFileRequest",
    "RemoveRequest",
    "Upload",
]

Int64 = Annotated[int, msgspec.Meta(extra_json_schema={"format": "int64"})]


class Upload(msgspec.Struct):
    """A form with a file. The path comes first."""

    path: str
    file: Annotated[str, msgspec.Meta(extra_json_schema={"format": "binary"})]


class ReadFileRequest(msgspec.Struct):
    """A file to fetch."""

    path: str


class ListDirRequest(msgspec.Struct):
    """A directory to list, so many levels deep."""

    path: str
    depth: int = 1


class MakeDirRequest(msgspec.Struct):
    """A directory to make, with its parents."""

    path: str


class RemoveRequest(msgspec.Struct):
    """What to remove, with all in it."""

    path: str


class FileEntry(msgspec.Struct, omit_defaults=True):
    """A file, directory or link. What is none of these has no type."""

    name: str
    path: str
    size: Int64
    mode: int
    permissions: str
    modified_at: Int64
    type: Literal["file", "directory", "symlink"] | UnsetType = UNSET
    owner: str | UnsetType = UNSET
    group: str | UnsetType = UNSET
    symlink_target: str | UnsetType | None = UNSET


class ListDirResponse(msgspec.Struct):
    """What is in a directory."""

    entries: list[FileEntry]


class MakeDirResponse(msgspec.Struct):
    """The new directory."""

    entry: FileEntry
