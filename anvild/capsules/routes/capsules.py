"""Capsules: made, listed, looked at, paused, resumed, kept awake, destroyed."""

from __future__ import annotations

from typing import TypeVar

from msgspec import UNSET, UnsetType

from anvild.web.api import Api
from anvild.web.request import Answer, Request

from ..ids import to_wire
from ..life import Capsules
from ..schemas import capsules as wire
from ..values import Capsule, Order
from .common import KEY_OR_SESSION, actor_of, id_in_path, team_of
from .views import View

__all__ = ["GONE", "TAGS", "add_capsules", "add_states", "capsule_shape"]

T = TypeVar("T")

TAGS = ("capsules",)
GONE = {404: "Capsule not found"}


def add_capsules(view: View, capsules: Capsules) -> None:
    """Add the operations on the life of capsules that all callers have."""
    created, destroyed = (201, 204) if view.platform else (202, 202)

    @view.post(
        "/capsules",
        summary="Create a capsule",
        description="It goes on behind the answer: look at the capsule until it is `running`, or `error`.",
        tags=TAGS,
        answers={created: wire.Capsule},
        errors={
            400: "The body is not as expected.",
            403: "The session is in no team.",
            404: "There is no such template.",
            501: "The machine that has the template cannot do what was asked for.",
            502: "Host agent error",
            503: "There is no room for another one.",
        },
        body=wire.CreateCapsuleRequest,
        action="capsules:write",
    )
    async def create_capsule(request: Request) -> Answer:
        body: wire.CreateCapsuleRequest = request.body
        order = Order(
            template=body.template,
            vcpus=body.vcpus,
            memory_mb=body.memory_mb,
            disk_size_mb=None if body.disk_size_mb is UNSET else body.disk_size_mb,
            timeout_sec=body.timeout_sec,
            network=None if body.network is UNSET else body.network,
        )
        return Answer(created, capsule_shape(await capsules.create(view.owner(request), order, actor_of(request))))

    @view.get(
        "/capsules",
        summary="List capsules across all teams" if view.platform else "List capsules for your team",
        description="Those that have not ended, newest first.",
        tags=TAGS,
        answers={200: list[wire.Capsule]},
        action="capsules:read",
    )
    async def list_capsules(request: Request) -> list[wire.Capsule]:
        return [capsule_shape(capsule) for capsule in await capsules.list(view.team(request))]

    @view.get(
        "/capsules/{id}",
        summary="Get capsule details",
        tags=TAGS,
        answers={200: wire.Capsule},
        errors=GONE,
        action="capsules:read",
    )
    async def get_capsule(request: Request) -> wire.Capsule:
        return capsule_shape(await capsules.get(view.team(request), id_in_path(request, "cl")))

    @view.delete(
        "/capsules/{id}",
        summary="Destroy a capsule",
        description="Whatever its state. It goes on behind the answer; doing it twice is fine.",
        tags=TAGS,
        answers={destroyed: None},
        errors=GONE,
        action="capsules:write",
    )
    async def destroy_capsule(request: Request) -> Answer:
        await capsules.destroy(view.team(request), id_in_path(request, "cl"), actor_of(request))
        return Answer(destroyed)


def add_states(api: Api, capsules: Capsules) -> None:
    """Add the operations by which a team puts its capsules aside and keeps them awake."""

    @api.post(
        "/capsules/{id}/pause",
        summary="Pause a running capsule",
        description="Its memory goes to disk and takes no room on its host any more. It goes on behind the answer.",
        tags=TAGS,
        answers={202: wire.Capsule},
        errors={**GONE, 409: "Capsule not running", 501: "Its machine cannot be put aside."},
        action="capsules:write",
        accepts=KEY_OR_SESSION,
    )
    async def pause_capsule(request: Request) -> Answer:
        return Answer(
            202, capsule_shape(await capsules.pause(team_of(request), id_in_path(request, "cl"), actor_of(request)))
        )

    @api.post(
        "/capsules/{id}/resume",
        summary="Resume a paused capsule",
        description="With its memory and processes. It goes on behind the answer.",
        tags=TAGS,
        answers={202: wire.Capsule},
        errors={**GONE, 409: "Capsule not paused"},
        action="capsules:write",
        accepts=KEY_OR_SESSION,
    )
    async def resume_capsule(request: Request) -> Answer:
        return Answer(
            202, capsule_shape(await capsules.resume(team_of(request), id_in_path(request, "cl"), actor_of(request)))
        )

    @api.post(
        "/capsules/{id}/ping",
        summary="Reset capsule inactivity timer",
        tags=TAGS,
        answers={204: None},
        errors={**GONE, 409: "Capsule not running"},
        action="capsules:write",
        accepts=KEY_OR_SESSION,
    )
    async def ping_capsule(request: Request) -> Answer:
        await capsules.ping(team_of(request), id_in_path(request, "cl"))
        return Answer(204)


def capsule_shape(capsule: Capsule) -> wire.Capsule:
    """Return a capsule as the interface shows it."""
    metadata = dict(capsule.metadata or {}) | ({"reason": capsule.reason} if capsule.reason else {})
    return wire.Capsule(
        id=to_wire("cl", capsule.id),
        status=capsule.status,
        template=capsule.template,
        vcpus=capsule.vcpus,
        memory_mb=capsule.memory_mb,
        timeout_sec=capsule.timeout_sec,
        created_at=capsule.created_at,
        last_updated=capsule.updated_at,
        started_at=_known(capsule.started_at),
        last_active_at=_known(capsule.last_active_at),
        metadata=metadata or UNSET,
        disk_size_mb=_known(capsule.disk_size_mb),
        network=_known(capsule.network),
    )


def _known(value: T | None) -> T | UnsetType:
    return UNSET if value is None else value
