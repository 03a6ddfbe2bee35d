"""Builds of templates: asked for, listed, looked at, cancelled."""

from __future__ import annotations

from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import IO, Any, TypeVar

from msgspec import UNSET, UnsetType

from anvild.core.errors import FieldProblem, InvalidRequest
from anvild.sdk.recipes import Step
from anvild.web.api import Api
from anvild.web.form import Form
from anvild.web.request import Answer, Request
from anvild.web.validation import decode_json

from ...build_files import ARCHIVE_LIMIT, received
from ...builds import Build, Builds, BuildWish
from ...ids import to_wire
from ...schemas import builds as wire
from ..common import SESSION, actor_of, id_in_path

__all__ = ["add_builds"]

T = TypeVar("T")

TAGS = ("admin",)
CONFIG_LIMIT = 2**21
NO_BUILD = {404: "There is no such build."}


def add_builds(api: Api, builds: Builds, *, spool: Path) -> None:
    """Add the operations on builds. ``spool`` is a folder for files without a name."""

    async def admin_create_build(request: Request) -> Answer:
        async with AsyncExitStack() as held:
            body, archive = await _read(request, spool, held)
            wish = BuildWish(
                name=body.name,
                base_template=body.base_template,
                recipe=tuple(body.recipe),
                healthcheck=body.healthcheck or None,
                vcpus=_positive(body.vcpus),
                memory_mb=_positive(body.memory_mb),
                skip_pre_post=body.skip_pre_post,
            )
            return Answer(202, _shape(await builds.submit(wish, actor_of(request), archive=archive)))

    api.raw(
        "POST",
        "/admin/builds",
        admin_create_build,
        summary="Submit a template build (admin)",
        description="`name` and `recipe`, a list of lines, and as wanted `base_template`, `healthcheck`, `vcpus`, "
        "`memory_mb`, `skip_pre_post`: as JSON, or as the field `config` of a multipart form whose file `archive` "
        "(tar, tar.gz or zip, up to 100 MiB) is what COPY takes from. Two builds go on at a time. All teams see the "
        "template that comes of it: a `snapshot`, with what runs in it, when there is a health check, else a `base`.",
        tags=TAGS,
        answers={202: wire.Build},
        errors={
            400: "The request is not as expected.",
            404: "There is no such base template.",
            409: "The name is that of a driver's own template.",
            413: "The archive is too large.",
            501: "The machine that has the base template cannot do what was asked for.",
        },
        body=dict[str, Any],
        by_hand=True,
        action="admin:write",
        accepts=SESSION,
        max_body=ARCHIVE_LIMIT + CONFIG_LIMIT,
    )

    @api.get(
        "/admin/builds",
        summary="List builds (admin)",
        description="The latest ones, newest first, without their logs.",
        tags=TAGS,
        answers={200: list[wire.Build]},
        action="admin:read",
        accepts=SESSION,
    )
    async def admin_list_builds(_: Request) -> list[wire.Build]:
        return [_shape(build) for build in await builds.list()]

    @api.get(
        "/admin/builds/{id}",
        summary="Get build detail (admin)",
        description="With the log of its present attempt, a step an entry.",
        tags=TAGS,
        answers={200: wire.Build},
        errors=NO_BUILD,
        action="admin:read",
        accepts=SESSION,
    )
    async def admin_get_build(request: Request) -> wire.Build:
        return _shape(await builds.get(id_in_path(request, "bld")))

    @api.post(
        "/admin/builds/{id}/cancel",
        summary="Cancel a build (admin)",
        description="At once; nothing is left of it.",
        tags=TAGS,
        answers={204: None},
        errors={**NO_BUILD, 400: "The build has ended already."},
        action="admin:write",
        accepts=SESSION,
    )
    async def admin_cancel_build(request: Request) -> Answer:
        await builds.cancel(id_in_path(request, "bld"), actor_of(request))
        return Answer(204)


async def _read(
    request: Request, spool: Path, held: AsyncExitStack
) -> tuple[wire.CreateBuildRequest, IO[bytes] | None]:
    """Read a request of either form; its archive stays open as long as ``held`` is."""
    content_type = request.headers.get("content-type", "")
    if not content_type.lower().startswith("multipart/"):
        return await decode_json(await request.read(), wire.CreateBuildRequest, content_type), None
    form = Form(request)
    body: wire.CreateBuildRequest | None = None
    archive: IO[bytes] | None = None
    while (name := await form.next_part()) is not None:
        if name == "config" and body is None:
            text = await form.text(CONFIG_LIMIT)
            body = await decode_json(text.encode(), wire.CreateBuildRequest, "application/json")
        elif name == "archive" and archive is None:
            async with aclosing(form.content()) as content:
                archive = await held.enter_async_context(received(content, spool, limit=ARCHIVE_LIMIT))
        else:
            expected = "one config, and at most one archive"
            raise InvalidRequest("the form has other parts than expected", (FieldProblem(f"body.{name}", expected),))
    if body is None:
        raise InvalidRequest("the form has no config", (FieldProblem("body.config", "the build as JSON"),))
    return body, archive


def _shape(build: Build) -> wire.Build:
    spec, prepared = build.spec, build.prepared
    return wire.Build(
        id=to_wire("bld", build.id),
        name=spec.name,
        base_template=spec.base_template,
        recipe=list(spec.recipe),
        vcpus=spec.vcpus,
        memory_mb=spec.memory_mb,
        skip_pre_post=spec.skip_pre_post,
        status=build.status,
        current_step=build.steps,
        total_steps=spec.total_steps,
        created_at=build.created_at,
        healthcheck=_known(spec.healthcheck),
        default_user=UNSET if prepared is None else _known(prepared.account),
        default_env=UNSET if prepared is None else dict(prepared.environment),
        logs=UNSET if build.logs is None else [_step(step) for step in build.logs],
        error=_known(build.error),
        sandbox_id=UNSET if build.device_id is None else to_wire("cl", build.device_id),
        started_at=_known(build.started_at),
        completed_at=_known(build.ended_at),
    )


def _step(step: Step) -> wire.BuildStep:
    return wire.BuildStep(
        step=step.step,
        phase=step.phase,
        cmd=step.cmd,
        stdout=step.stdout,
        stderr=step.stderr,
        ok=step.ok,
        elapsed_ms=step.elapsed_ms,
        exit=_known(step.exit),
    )


def _known(value: T | None) -> T | UnsetType:
    return UNSET if value is None else value


def _positive(value: int | UnsetType | None) -> int | None:
    """Return a size; nothing, or what is not positive, leaves it to what is usual."""
    return value if isinstance(value, int) and value > 0 else None
