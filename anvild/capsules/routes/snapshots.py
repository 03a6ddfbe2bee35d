"""Templates: made of capsules, listed, removed."""

from __future__ import annotations

from msgspec import UNSET

from anvild.web.api import Api
from anvild.web.request import Answer, Request

from ..ids import from_wire
from ..schemas import snapshots as wire
from ..snapshots import Snapshots
from ..templates import Templates
from ..values import Template
from .common import KEY_OR_SESSION, actor_of, beyond, team_of

__all__ = ["add_snapshots", "template_shape"]

TAGS = ("snapshots",)


def add_snapshots(api: Api, snapshots: Snapshots, templates: Templates) -> None:
    """Add the operations on templates."""

    @api.post(
        "/snapshots",
        summary="Create a snapshot template",
        description="The capsule goes on. A template is never changed: take a fresh name.",
        tags=TAGS,
        answers={201: wire.Template},
        errors={
            400: "The body is not as expected.",
            404: "There is no such capsule.",
            409: "Name already exists or capsule not running",
            501: "Templates cannot be made of this capsule.",
        },
        body=wire.CreateSnapshotRequest,
        action="templates:write",
        accepts=KEY_OR_SESSION,
    )
    async def create_snapshot(request: Request) -> Answer:
        body: wire.CreateSnapshotRequest = request.body
        made = await snapshots.create(
            team_of(request),
            from_wire("cl", body.sandbox_id),
            None if body.name is UNSET else body.name,
            actor_of(request),
            overwrite=_overwrite(request),
        )
        return Answer(201, template_shape(made))

    @api.get(
        "/snapshots",
        summary="List templates for your team",
        description="Its own, newest first, then those for all teams.",
        tags=TAGS,
        answers={200: list[wire.Template]},
        query=wire.SnapshotQuery,
        action="templates:read",
        accepts=KEY_OR_SESSION,
    )
    async def list_snapshots(request: Request) -> list[wire.Template]:
        query: wire.SnapshotQuery = request.query
        shown = [template_shape(template) for template in await templates.list(team_of(request))]
        return [each for each in shown if query.type is UNSET or each.type == query.type]

    @api.delete(
        "/snapshots/{name}",
        summary="Delete a snapshot template",
        description="Capsules that were made from it live on.",
        tags=TAGS,
        answers={204: None},
        errors={403: "The template is for all teams.", 404: "Template not found"},
        action="templates:write",
        accepts=KEY_OR_SESSION,
    )
    async def delete_snapshot(request: Request) -> Answer:
        await snapshots.remove(team_of(request), request.path["name"], actor_of(request))
        return Answer(204)


def _overwrite(request: Request) -> bool:
    """Whether the query says ``overwrite=true``: a parameter of older contracts that clients still send."""
    return beyond(request, "overwrite") == ["true"]


def template_shape(template: Template) -> wire.Template:
    """Return a template as the interface shows it."""
    return wire.Template(
        name=template.name,
        type="snapshot" if template.memory else "base",
        size_bytes=template.size_bytes,
        created_at=template.created_at,
        platform=template.team_id is None,
        vcpus=template.vcpus,
        memory_mb=template.memory_mb,
    )
