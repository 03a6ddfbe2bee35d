"""Artifacts: what a run left, listed and fetched, whole or in part, by credential or by a signed link."""

from __future__ import annotations

import re
from datetime import timedelta
from urllib.parse import quote

from msgspec import UNSET

from anvild.core.artifacts import Artifact, Artifacts
from anvild.core.clock import utcnow
from anvild.core.errors import Forbidden
from anvild.core.identity import require
from anvild.sdk import NotFound
from anvild.web.api import Api
from anvild.web.request import Answer, Request

from .. import schemas as wire
from ..service import PipelineRuns
from .common import team_of

__all__ = ["add_artifacts"]

TAGS = ("Artifacts",)
LINK_LIFETIME = timedelta(hours=1)
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
INLINE = ("text/plain", "application/json", "image/png", "image/jpeg")


def add_artifacts(api: Api, runs: PipelineRuns, artifacts: Artifacts) -> None:
    """Add the operations on artifacts."""

    @api.get(
        "/runs/{id:uuid}/artifacts",
        summary="List the files that a run left.",
        description="Of several files of one name, the last one is shown. The links need no other credential.",
        tags=TAGS,
        answers={200: wire.ArtifactList},
        errors={400: "id must be a UUID", 404: "Not found"},
        action="artifacts:read",
        contract=False,
    )
    async def list_artifacts(request: Request) -> wire.ArtifactList:
        run = await runs.get(team_of(request), request.path["id"])
        by_name = {artifact.name: artifact for artifact in await artifacts.list(run.id)}
        return wire.ArtifactList(artifacts=[_shape(api, artifacts, artifact) for artifact in by_name.values()])

    async def get_artifact(request: Request) -> Answer:
        artifact_id = request.path["id"]
        query: wire.ArtifactQuery = request.query
        if query.token is not UNSET:
            if artifacts.verify(query.token) != artifact_id:
                raise Forbidden("this link is for another artifact")
            artifact = await artifacts.get(artifact_id)
        else:
            principal = await api.authenticate(request)
            require(principal, "artifacts:read")
            artifact = await artifacts.get(artifact_id)
            if artifact.team_id != principal.team_id:
                raise NotFound(f"there is no artifact {artifact_id}")
        return _content(request, artifacts, artifact)

    api.raw(
        "GET",
        "/artifacts/{id:uuid}",
        get_artifact,
        summary="Fetch a file, or a range of its bytes.",
        description="Needs a credential as everything else, or the `token` of a signed link instead.",
        tags=TAGS,
        answers={200: bytes, 206: bytes, 304: None},
        errors={
            400: "id must be a UUID",
            401: "No valid credential.",
            403: "The link is not valid, or not any more.",
            404: "Not found",
            416: "The range does not lie in the file.",
        },
        query=wire.ArtifactQuery,
        contract=False,
    )


def _shape(api: Api, artifacts: Artifacts, artifact: Artifact) -> wire.Artifact:
    token = artifacts.sign(artifact.id, lifetime=LINK_LIFETIME.total_seconds())
    return wire.Artifact(
        id=artifact.id,
        run_id=artifact.run_id,
        name=artifact.name,
        media_type=artifact.media_type,
        size=artifact.size,
        sha256=artifact.sha256,
        created_at=artifact.stored_at,
        url=f"{api.prefix}/artifacts/{artifact.id}?token={token}",
        url_expires_at=utcnow() + LINK_LIFETIME,
    )


def _content(request: Request, artifacts: Artifacts, artifact: Artifact) -> Answer:
    """The file, or the part that a Range header asks for. Only plain texts and pictures are shown by a browser."""
    tag = f'"{artifact.sha256}"'
    plain = artifact.media_type.partition(";")[0].strip() in INLINE
    name = quote(artifact.name.rpartition("/")[2])
    headers = [
        ("etag", tag),
        ("accept-ranges", "bytes"),
        ("cache-control", "private, max-age=3600"),
        ("content-disposition", f"{'inline' if plain else 'attachment'}; filename*=UTF-8''{name}"),
        ("x-content-type-options", "nosniff"),
    ]
    if tag in request.headers.get("if-none-match", ""):
        return Answer(304, headers=headers)
    size = artifact.size
    wanted = request.headers.get("range")
    if wanted is None or request.headers.get("if-range", tag) != tag:
        headers.append(("content-length", str(size)))
        return Answer(200, artifacts.open(artifact), headers=headers, media_type=artifact.media_type)
    part = _part(wanted, size)
    if part is None:
        return Answer(416, headers=[("content-range", f"bytes */{size}")])
    first, last = part
    headers += [("content-range", f"bytes {first}-{last}/{size}"), ("content-length", str(last - first + 1))]
    stream = artifacts.open(artifact, offset=first, length=last - first + 1)
    return Answer(206, stream, headers=headers, media_type=artifact.media_type)


def _part(wanted: str, size: int) -> tuple[int, int] | None:
    """Return the first and last byte of a Range header with one range; None when there are no such bytes."""
    match = _RANGE.fullmatch(wanted.strip())
    if match is None or match.group(0) == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        return (max(size - int(last), 0), size - 1) if int(last) and size else None
    end = min(int(last), size - 1) if last else size - 1
    return (int(first), end) if int(first) <= end else None
