"""Files of capsules: written, read, listed, removed."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from msgspec import UNSET

from anvild.core.errors import FieldProblem, InvalidRequest
from anvild.sdk import Entry, EntryType, Files
from anvild.web.form import Form
from anvild.web.request import Answer, Request

from ..files import absolute, content, link_target, write
from ..life import Capsules
from ..schemas import files as wire
from .capsules import GONE, TAGS
from .common import id_in_path
from .views import View

__all__ = ["add_files"]

NOT_RUNNING = {**GONE, 400: "The request is not as expected.", 409: "Capsule not running"}
LIMIT = 100 * 2**20
NO_LIMIT = 2**62
PATH_LIMIT = 4096
LETTERS = {EntryType.FILE: "-", EntryType.DIRECTORY: "d", EntryType.SYMLINK: "L", EntryType.OTHER: "?"}
TYPES: Mapping[EntryType, Literal["file", "directory", "symlink"]] = MappingProxyType(
    {EntryType.FILE: "file", EntryType.DIRECTORY: "directory", EntryType.SYMLINK: "symlink"}
)


def add_files(view: View, capsules: Capsules) -> None:
    """Add the operations on files."""
    _add_uploads(view, capsules)
    _add_downloads(view, capsules)
    _add_directories(view, capsules)


def _add_uploads(view: View, capsules: Capsules) -> None:
    async def upload_file(request: Request) -> Answer:
        form = Form(request)
        path = ""
        while (name := await form.next_part()) is not None and name != "file":
            if name == "path":
                path = await form.text(PATH_LIMIT)
        if name is None:
            raise InvalidRequest("the form has no file", (FieldProblem("body.file", "the file's content, after path"),))
        async with capsules.use(view.team(request), id_in_path(request, "cl")) as session:
            await write(session, await absolute(path, session), form.content())
            while await form.next_part() is not None:
                pass
        return Answer(204)

    async def stream_upload_file(request: Request) -> Answer:
        return await upload_file(request)

    for handler, at, limit, summary in (
        (upload_file, "write", LIMIT, "Upload a file"),
        (stream_upload_file, "stream/write", NO_LIMIT, "Upload a file (streaming)"),
    )[: 1 if view.platform else 2]:
        view.raw(
            "POST",
            f"/capsules/{{id}}/files/{at}",
            handler,
            summary=summary,
            description="A form with `path`, then `file`, written as it arrives: it appears whole or not at all.",
            tags=TAGS,
            answers={204: None},
            errors={
                **NOT_RUNNING,
                **({413: "File too large"} if limit == LIMIT else {}),
                502: "There is no room in the capsule.",
            },
            form=wire.Upload,
            action="capsules:write",
            max_body=limit,
        )


def _add_downloads(view: View, capsules: Capsules) -> None:
    async def download_file(request: Request) -> Answer:
        body: wire.ReadFileRequest = request.body
        using = capsules.use(view.team(request), id_in_path(request, "cl"))
        return Answer(200, await capsules.keep_open(content(using, body.path)))

    async def stream_download_file(request: Request) -> Answer:
        return await download_file(request)

    for handler, at, summary in (
        (download_file, "read", "Download a file"),
        (stream_download_file, "stream/read", "Download a file (streaming)"),
    )[: 1 if view.platform else 2]:
        view.raw(
            "POST",
            f"/capsules/{{id}}/files/{at}",
            handler,
            summary=summary,
            tags=TAGS,
            answers={200: bytes},
            errors={**NOT_RUNNING, 404: "Capsule or file not found"},
            body=wire.ReadFileRequest,
            action="capsules:read",
        )


def _add_directories(view: View, capsules: Capsules) -> None:
    @view.post(
        "/capsules/{id}/files/list",
        summary="List directory contents",
        description="Links are not followed.",
        tags=TAGS,
        answers={200: wire.ListDirResponse},
        errors={**NOT_RUNNING, 404: "Capsule or directory not found"},
        body=wire.ListDirRequest,
        action="capsules:read",
    )
    async def list_dir(request: Request) -> wire.ListDirResponse:
        body: wire.ListDirRequest = request.body
        async with capsules.use(view.team(request), id_in_path(request, "cl")) as session:
            path = await absolute(body.path, session)
            found = await session.require(Files).list(path, depth=max(1, body.depth))
        return wire.ListDirResponse(entries=[_shape(entry) for entry in found])

    @view.post(
        "/capsules/{id}/files/mkdir",
        summary="Create a directory",
        description="And its parents.",
        tags=TAGS,
        answers={200: wire.MakeDirResponse},
        errors={**NOT_RUNNING, 409: "Capsule not running, or the path exists (`already_exists`)"},
        body=wire.MakeDirRequest,
        action="capsules:write",
    )
    async def make_dir(request: Request) -> wire.MakeDirResponse:
        body: wire.MakeDirRequest = request.body
        async with capsules.use(view.team(request), id_in_path(request, "cl")) as session:
            entry = await session.require(Files).mkdir(await absolute(body.path, session))
        return wire.MakeDirResponse(entry=_shape(entry))

    @view.post(
        "/capsules/{id}/files/remove",
        summary="Remove a file or directory",
        description="With all in it.",
        tags=TAGS,
        answers={204: None},
        errors={**NOT_RUNNING, 404: "Capsule or path not found"},
        body=wire.RemoveRequest,
        action="capsules:write",
    )
    async def remove_path(request: Request) -> Answer:
        body: wire.RemoveRequest = request.body
        async with capsules.use(view.team(request), id_in_path(request, "cl")) as session:
            await session.require(Files).remove(await absolute(body.path, session))
        return Answer(204)


def _shape(entry: Entry) -> wire.FileEntry:
    target = link_target(entry)
    return wire.FileEntry(
        name=_text(entry.name),
        path=_text(entry.path),
        size=entry.size,
        mode=entry.mode,
        permissions=_permissions(entry),
        modified_at=int(entry.modified),
        type=TYPES.get(entry.type, UNSET),
        owner=entry.owner or UNSET,
        group=entry.group or UNSET,
        symlink_target=UNSET if target is None else _text(target),
    )


def _permissions(entry: Entry) -> str:
    """Return the type and the permissions as letters; a link begins with a capital one."""
    letters = (letter if entry.mode >> 8 - place & 1 else "-" for place, letter in enumerate("rwxrwxrwx"))
    return LETTERS[entry.type] + "".join(letters)


def _text(name: str) -> str:
    """Return a name as text that can be sent: an odd byte, which stands in it as a lone surrogate, is replaced."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
