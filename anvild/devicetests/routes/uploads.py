"""Uploads: the files that runs take as inputs."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from msgspec import UNSET

from anvild.web.api import Api
from anvild.web.request import Answer, Request

from .. import schemas as wire
from ..shapes import upload_shape
from ..uploads import Uploads
from .common import actor_of, team_of

__all__ = ["add_uploads"]

TAGS = ("Uploads",)
BAD_ID = {400: "id must be a UUID", 404: "Not found"}


def add_uploads(api: Api, uploads: Uploads, *, max_upload: int) -> None:
    """Add the operations on uploads."""

    async def create_upload(request: Request) -> wire.UploadAnswer:
        query: wire.UploadQuery = request.query
        media_type = request.headers.get("content-type", "application/octet-stream")
        async with aclosing(_received(request)) as source:
            artifact = await uploads.add(
                team_of(request), source, name=query.name, media_type=media_type, actor=actor_of(request).actor
            )
        return wire.UploadAnswer(upload=upload_shape(artifact))

    api.raw(
        "POST",
        "/uploads",
        create_upload,
        summary="Bring a file for runs: the body is its content.",
        description="Name its id in `metadata.inputs` of a run, or as `metadata.pipeline`. It stays as long as an "
        "artifact does.",
        tags=TAGS,
        answers={201: wire.UploadAnswer},
        errors={400: "The name is not as expected.", 413: "The file is too large.", 507: "There is no room for it."},
        query=wire.UploadQuery,
        action="artifacts:write",
        max_body=max_upload,
        contract=False,
    )

    @api.get(
        "/uploads",
        summary="List the files that your org has brought, newest first.",
        description="With `sha256` those of one content, so that nothing needs to be sent twice.",
        tags=TAGS,
        answers={200: wire.UploadList},
        query=wire.UploadListQuery,
        action="artifacts:read",
        contract=False,
    )
    async def list_uploads(request: Request) -> wire.UploadList:
        query: wire.UploadListQuery = request.query
        sha256 = None if query.sha256 is UNSET else query.sha256
        found = await uploads.list(team_of(request), sha256=sha256)
        return wire.UploadList(uploads=[upload_shape(artifact) for artifact in found])

    @api.delete(
        "/uploads/{id:uuid}",
        summary="Remove a file. A run that still needs it fails.",
        tags=TAGS,
        answers={204: None},
        errors=BAD_ID,
        action="artifacts:write",
        contract=False,
    )
    async def remove_upload(request: Request) -> Answer:
        await uploads.remove(team_of(request), request.path["id"], actor=actor_of(request).actor)
        return Answer(204)


async def _received(request: Request) -> AsyncGenerator[bytes, None]:
    async for chunk in request.chunks():
        yield chunk
