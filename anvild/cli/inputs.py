"""The files that a run brings: uploaded once for each content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import trio

from .api import Api
from .exits import ExitCode, Failure
from .output import Output
from .transfer import progress, read_file
from .wire import Upload, read, read_all

__all__ = ["bring"]


async def bring(api: Api, files: Mapping[str, str], output: Output) -> dict[str, str]:
    """Upload files, except those whose content the daemon has already, and return the ids of the uploads by name.

    Raises Failure for a path that is no file, before anything is sent.
    """
    paths = {name: Path(text) for name, text in files.items()}
    for name, path in paths.items():
        if not await trio.Path(path).is_file():
            raise Failure(ExitCode.USAGE, "no_such_file", f"--input {name}: {path} is no file")
    return {name: await _upload(api, path, output) for name, path in paths.items()}


async def _upload(api: Api, path: Path, output: Output) -> str:
    sha256 = await trio.to_thread.run_sync(_sha256, path, abandon_on_cancel=True)
    known = read_all(await api.get("/uploads", sha256=sha256), "uploads", Upload)
    if known:
        return known[0].id
    with progress(output, path.name, (await trio.Path(path).stat()).st_size) as bar:
        answer = await api.upload("/uploads", read_file(path, bar), method="POST", name=path.name)
    return read(answer, "upload", Upload).id


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
