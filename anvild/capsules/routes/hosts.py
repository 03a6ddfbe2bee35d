"""Hosts: made known and managed by people, registered and heard of by themselves."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from anvild.core.errors import FieldProblem, Forbidden, InvalidRequest
from anvild.core.hosts import Host, Hosts, Machine
from anvild.sdk import NotFound
from anvild.web.api import Api
from anvild.web.request import Answer, Request

from ..hosts import HostDesk
from ..ids import from_wire, to_wire
from ..schemas import hosts as wire
from .common import HOST, SESSION, id_in_path, origin_of

__all__ = ["add_host_side", "add_hosts"]

T = TypeVar("T")

TAGS = ("hosts",)
SECRET = [("cache-control", "no-store")]
NOT_ALLOWED = "Insufficient permissions"
GONE = {404: "Host not found"}

_TEXT = re.compile(r"[^\x00-\x1f\x7f]{1,128}")
_LARGEST = 2**53


class ForceQuery(msgspec.Struct):
    """Whether capsules are in the way."""

    force: bool | UnsetType = UNSET


def add_hosts(api: Api, desk: HostDesk, hosts: Hosts) -> None:
    """Add what people do with hosts."""

    @api.post(
        "/hosts",
        summary="Create a host",
        description="The registration token is in this answer and nowhere else; it is good once, and for an hour.",
        tags=TAGS,
        answers={201: wire.CreateHostResponse},
        errors={400: "Invalid request", 403: NOT_ALLOWED},
        body=wire.CreateHostRequest,
        signed_in=True,
        accepts=SESSION,
    )
    async def create_host(request: Request) -> Answer:
        body: wire.CreateHostRequest = request.body
        created, secret = await desk.create(
            body.type,
            team_id=_team(body.team_id),
            provider=_text("provider", body.provider),
            availability_zone=_text("availability_zone", body.availability_zone),
            by=request.principal,
            origin=origin_of(request),
        )
        return Answer(201, wire.CreateHostResponse(host=host_shape(created), registration_token=secret), headers=SECRET)

    @api.get(
        "/hosts",
        summary="List hosts",
        description="A team sees its own; the platform's admins see all. Newest first.",
        tags=TAGS,
        answers={200: list[wire.Host]},
        signed_in=True,
        accepts=SESSION,
    )
    async def list_hosts(request: Request) -> list[wire.Host]:
        return [host_shape(host) for host in await desk.list(request.principal)]

    @api.get(
        "/hosts/{id}",
        summary="Get host details",
        tags=TAGS,
        answers={200: wire.Host},
        errors=GONE,
        signed_in=True,
        accepts=SESSION,
    )
    async def get_host(request: Request) -> wire.Host:
        return host_shape(await desk.get(id_in_path(request, "host"), request.principal))

    @api.delete(
        "/hosts/{id}",
        summary="Delete a host",
        description="Its paused capsules and the templates on it go with it; `force` ends its other capsules first.",
        tags=TAGS,
        answers={204: None, 409: wire.HostHasCapsulesError},
        errors={403: NOT_ALLOWED, **GONE},
        query=ForceQuery,
        signed_in=True,
        accepts=SESSION,
    )
    async def delete_host(request: Request) -> Answer:
        host_id = id_in_path(request, "host")
        force = request.query.force is True
        await desk.delete(host_id, force=force, by=request.principal, origin=origin_of(request))
        return Answer(204)

    @api.post(
        "/hosts/{id}/token",
        summary="Regenerate registration token",
        description="The one before ends.",
        tags=TAGS,
        answers={201: wire.CreateHostResponse},
        errors={403: NOT_ALLOWED, **GONE, 409: "Host is not in pending status"},
        signed_in=True,
        accepts=SESSION,
    )
    async def regenerate_host_token(request: Request) -> Answer:
        host, secret = await desk.invite(id_in_path(request, "host"), request.principal, origin_of(request))
        return Answer(201, wire.CreateHostResponse(host=host_shape(host), registration_token=secret), headers=SECRET)

    @api.get(
        "/hosts/{id}/delete-preview",
        summary="Preview host deletion",
        tags=TAGS,
        answers={200: wire.HostDeletePreview},
        errors={403: NOT_ALLOWED, **GONE},
        signed_in=True,
        accepts=SESSION,
    )
    async def preview_host_deletion(request: Request) -> wire.HostDeletePreview:
        host = await desk.managed(id_in_path(request, "host"), request.principal)
        blocking = await desk.capsules_on(host)
        return wire.HostDeletePreview(
            host=host_shape(host), sandbox_ids=[to_wire("cl", capsule.id) for capsule in blocking]
        )

    @api.get(
        "/hosts/{id}/tags",
        summary="List host tags",
        tags=TAGS,
        answers={200: list[str]},
        errors=GONE,
        signed_in=True,
        accepts=SESSION,
    )
    async def list_host_tags(request: Request) -> list[str]:
        return list((await desk.get(id_in_path(request, "host"), request.principal)).tags)

    @api.post(
        "/hosts/{id}/tags",
        summary="Add a tag to a host",
        description="Twice is fine.",
        tags=TAGS,
        answers={204: None},
        errors={403: NOT_ALLOWED, **GONE},
        body=wire.AddTagRequest,
        signed_in=True,
        accepts=SESSION,
    )
    async def add_host_tag(request: Request) -> Answer:
        host = await desk.managed(id_in_path(request, "host"), request.principal)
        tag = _text("tag", request.body.tag)
        assert tag is not None
        await hosts.tag(host.id, tag)
        return Answer(204)

    @api.delete(
        "/hosts/{id}/tags/{tag}",
        summary="Remove a tag from a host",
        description="Twice is fine.",
        tags=TAGS,
        answers={204: None},
        errors={403: NOT_ALLOWED, **GONE},
        signed_in=True,
        accepts=SESSION,
    )
    async def remove_host_tag(request: Request) -> Answer:
        host = await desk.managed(id_in_path(request, "host"), request.principal)
        await hosts.untag(host.id, request.path["tag"])
        return Answer(204)


def add_host_side(api: Api, hosts: Hosts) -> None:
    """Add what hosts do by themselves."""

    @api.post(
        "/hosts/register",
        summary="Register a host agent",
        description="It uses the registration token up, even when the rest fails.",
        tags=TAGS,
        answers={201: wire.RegisterHostResponse},
        errors={400: "Invalid request", 401: "Invalid or expired registration token"},
        body=wire.RegisterHostRequest,
    )
    async def register_host(request: Request) -> Answer:
        body: wire.RegisterHostRequest = request.body
        machine = Machine(
            address=_text("address", body.address) or "",
            arch=_text("arch", body.arch),
            cpu_cores=_number("cpu_cores", body.cpu_cores),
            memory_mb=_number("memory_mb", body.memory_mb),
            disk_gb=_number("disk_gb", body.disk_gb),
        )
        host, grant = await hosts.register(body.token, machine, origin=origin_of(request))
        told = wire.RegisterHostResponse(host=host_shape(host), token=grant.token, refresh_token=grant.refresh)
        return Answer(201, told, headers=SECRET)

    @api.post(
        "/hosts/auth/refresh",
        summary="Refresh host JWT",
        description="It uses the refresh token up; using one twice ends all tokens of the host.",
        tags=TAGS,
        answers={200: wire.RefreshHostTokenResponse},
        errors={401: "Invalid, expired, or revoked refresh token"},
        body=wire.RefreshHostTokenRequest,
    )
    async def refresh_host_token(request: Request) -> Answer:
        host, grant = await hosts.refresh(request.body.refresh_token, origin=origin_of(request))
        told = wire.RefreshHostTokenResponse(host=host_shape(host), token=grant.token, refresh_token=grant.refresh)
        return Answer(200, told, headers=SECRET)

    @api.post(
        "/hosts/{id}/heartbeat",
        summary="Host agent heartbeat",
        tags=TAGS,
        answers={204: None},
        errors={401: "Invalid or missing host token", 403: "Host ID mismatch", **GONE},
        action="hosts:connect",
        accepts=HOST,
    )
    async def host_heartbeat(request: Request) -> Answer:
        await hosts.heartbeat(_itself(request, request.path["id"]))
        return Answer(204)

    @api.post(
        "/hosts/sandbox-events",
        summary="Sandbox lifecycle event callback",
        description="It is passed on to the event log. What becomes of capsules is heard from their driver.",
        tags=TAGS,
        answers={204: None},
        errors={400: "Invalid request", 403: "Host ID mismatch", **GONE},
        body=wire.SandboxEvent,
        action="hosts:connect",
        accepts=HOST,
    )
    async def sandbox_event(request: Request) -> Answer:
        body: wire.SandboxEvent = request.body
        at = _number("timestamp", body.timestamp)
        event, subject = _text("event", body.event), _text("sandbox_id", body.sandbox_id)
        assert event is not None
        assert subject is not None
        await hosts.report(_itself(request, body.host_id), event, subject, at)
        return Answer(204)


def host_shape(host: Host) -> wire.Host:
    """Return a host as the interface shows it."""
    kind, _, id_ = host.created_by.partition(":")
    return wire.Host(
        id=to_wire("host", host.id),
        type=host.type,
        status=host.status,
        created_by=to_wire("usr", id_) if kind == "user" else host.created_by,
        created_at=host.created_at,
        updated_at=host.updated_at,
        team_id=UNSET if host.team_id is None else to_wire("team", host.team_id),
        provider=_known(host.provider),
        availability_zone=_known(host.availability_zone),
        arch=_known(host.arch),
        cpu_cores=_known(host.cpu_cores),
        memory_mb=_known(host.memory_mb),
        disk_gb=_known(host.disk_gb),
        address=_known(host.address),
        last_heartbeat_at=_known(host.last_heartbeat_at),
    )


def _known(value: T | None) -> T | UnsetType:
    return UNSET if value is None else value


def _itself(request: Request, told: str) -> str:
    """Return the id of the host that asks. Raises Forbidden when it speaks of another one."""
    host_id = request.principal.id
    if told != to_wire("host", host_id):
        raise Forbidden("a host speaks for itself alone")
    return host_id


def _team(value: str | UnsetType) -> str | None:
    """Return the daemon's id of a team of a body. Raises InvalidRequest."""
    if value is UNSET:
        return None
    try:
        return from_wire("team", value)
    except NotFound:
        raise InvalidRequest("this is no team", (FieldProblem("body.team_id", "a team's id"),)) from None


def _text(name: str, value: str | UnsetType) -> str | None:
    """Return a word of a body. Raises InvalidRequest."""
    if value is UNSET:
        return None
    if not _TEXT.fullmatch(value):
        raise InvalidRequest("a text is wrong", (FieldProblem(f"body.{name}", "1 to 128 characters in one line"),))
    return value


def _number(name: str, value: int | UnsetType) -> int | None:
    """Return a count of a body. Raises InvalidRequest."""
    if value is UNSET:
        return None
    if not 0 <= value < _LARGEST:
        raise InvalidRequest("a number is wrong", (FieldProblem(f"body.{name}", "a whole number from 0 on"),))
    return value
