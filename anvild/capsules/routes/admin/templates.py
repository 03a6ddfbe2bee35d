"""Templates of all teams: listed, removed, and made for all of any capsule."""

from __future__ import annotations

import msgspec

from anvild.web.api import Api
from anvild.web.request import Answer, Request

from ...ids import from_wire, to_wire
from ...schemas import snapshots as wire
from ...snapshots import Snapshots
from ...templates import Templates
from ...values import Template
from ..common import SESSION, actor_of, beyond, id_in_path
from ..snapshots import template_shape
from ..views import ADMIN_TAGS, NO_ADMIN

__all__ = ["add_all_templates"]


def add_all_templates(api: Api, snapshots: Snapshots, templates: Templates) -> None:
    """Add the operations on the templates of all teams."""

    @api.post(
        "/admin/capsules/{id}/snapshot",
        summary="Create snapshot from any capsule (admin)",
        description="All teams see the template. It takes the place of one that they saw by this name, unless that is "
        "a driver's own. The capsule goes on.",
        tags=ADMIN_TAGS,
        answers={201: wire.Template},
        errors={
            **NO_ADMIN,
            400: "The body is not as expected.",
            404: "Capsule not found",
            409: "Capsule not running, or the name is that of a driver's own template",
            501: "Templates cannot be made of this capsule.",
        },
        body=wire.NewTemplate,
        action="admin:write",
        accepts=SESSION,
    )
    async def admin_create_snapshot_from_capsule(request: Request) -> Answer:
        body: wire.NewTemplate = request.body
        capsule_id = id_in_path(request, "cl")
        made = await snapshots.create(None, capsule_id, body.name, actor_of(request), overwrite=True)
        return Answer(201, template_shape(made))

    @api.get(
        "/admin/templates",
        summary="List all templates (admin)",
        description="Newest first, then the drivers' own. The metadata of a team's say which team.",
        tags=ADMIN_TAGS,
        answers={200: list[wire.Template]},
        errors=NO_ADMIN,
        action="admin:read",
        accepts=SESSION,
    )
    async def admin_list_templates(_: Request) -> list[wire.Template]:
        return [_shape(template) for template in await templates.list(None)]

    @api.delete(
        "/admin/templates/{name}",
        summary="Delete a template (admin)",
        description="The one that all teams see, else that of the one team that has it. Where several have one of this "
        "name, `?team_id=` says whose. Capsules that were made from it live on.",
        tags=ADMIN_TAGS,
        answers={204: None},
        errors={
            403: "The caller is no admin of the platform, or the template is built into its driver.",
            404: "Template not found",
            409: "Several teams have a template of this name.",
        },
        action="admin:write",
        accepts=SESSION,
    )
    async def admin_delete_template(request: Request) -> Answer:
        whose = beyond(request, "team_id")
        team_id = from_wire("team", whose[0]) if whose else None
        await snapshots.remove_any(request.path["name"], actor_of(request), team_id=team_id)
        return Answer(204)


def _shape(template: Template) -> wire.Template:
    shown = template_shape(template)
    if template.team_id is None:
        return shown
    return msgspec.structs.replace(shown, metadata={"team_id": to_wire("team", template.team_id)})
