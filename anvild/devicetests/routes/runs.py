"""Runs: queue, list, look, cancel, hold."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from uuid import UUID

import msgspec
from msgspec import UNSET

from anvild.core.engine import Actor, Run
from anvild.core.errors import FieldProblem, InvalidRequest
from anvild.core.identity import require
from anvild.sdk import Event, NotFound
from anvild.web.api import Api
from anvild.web.remembered import Remembered
from anvild.web.request import Answer, Request

from .. import schemas as wire
from ..pipelines import Catalogue
from ..service import PipelineRuns
from ..shapes import finding_shape, pipeline_shape, run_shape, state_shape
from .common import actor_of, team_of

__all__ = ["add_runs", "touched"]

TAGS = ("Runs",)
JSON = "application/json"
Change = Callable[[str, str, Actor], Awaitable[Run]]


QUIET = frozenset({"run.output", "run.test", "run.step", "run.log", "run.phase"})
"""Events after which a run is shown as before."""


def add_runs(api: Api, runs: PipelineRuns, catalogue: Catalogue, remembered: Remembered) -> None:
    """Add the operations on runs and the list of pipelines. The two hot reads are ``remembered`` as :func:`touched`
    says."""

    async def list_runs(request: Request) -> Answer:
        team_id = team_of(request)

        async def make() -> bytes:
            return msgspec.json.encode(wire.RunList(runs=[run_shape(run) for run in await runs.latest(team_id)]))

        return Answer(200, await remembered.get(f"team:{team_id}", "runs", make), media_type=JSON)

    api.raw(
        "GET",
        "/runs",
        list_runs,
        summary="List the 50 most recent runs in your org.",
        tags=TAGS,
        answers={200: wire.RunList},
        action="runs:read",
    )

    async def create_run(request: Request) -> wire.RunAnswer:
        body: wire.RunCreateBody = request.body
        device_id = str(body.device_id) if isinstance(body.device_id, UUID) else None
        metadata = None if body.metadata is UNSET else body.metadata
        if metadata and "pipeline" in metadata:
            require(request.principal, "devices:use")
        try:
            run = await runs.submit(
                team_of(request), body.pipeline, device_id=device_id, metadata=metadata, by=actor_of(request)
            )
        except NotFound as error:
            problem = FieldProblem("body.deviceId", "a device that your team can use")
            raise InvalidRequest(error.message, (problem,)) from None
        return wire.RunAnswer(run=run_shape(run))

    api.raw(
        "POST",
        "/runs",
        create_run,
        summary="Queue a new run.",
        description="The pipeline is frozen into the run as it is written now. Without a device the scheduler picks "
        "one that can run it, or has one made. `metadata.inputs` names the uploads that the pipeline needs; "
        "`metadata.pipeline` is a pipeline of one's own, for which `devices:use` is needed too.",
        tags=TAGS,
        answers={202: wire.RunAnswer},
        errors={400: "The body is not as expected, or there is no such pipeline or device."},
        body=wire.RunCreateBody,
        action="runs:write",
        idempotent=True,
    )

    async def get_run(request: Request) -> Answer:
        team_id, run_id = team_of(request), request.path["id"]

        async def make() -> bytes:
            run, findings = await runs.detail(team_id, run_id)
            detail = wire.RunDetail(run=run_shape(run), findings=[finding_shape(finding) for finding in findings])
            return msgspec.json.encode(detail)

        return Answer(200, await remembered.get(f"run:{run_id}", team_id, make), media_type=JSON)

    api.raw(
        "GET",
        "/runs/{id:uuid}",
        get_run,
        summary="Fetch a run's detail + findings.",
        tags=TAGS,
        answers={200: wire.RunDetail},
        errors={400: "id must be a UUID", 404: "Not found"},
        action="runs:read",
    )

    @api.get(
        "/runs/{id:uuid}/state",
        summary="Say where a run is, why it waits, how it ended.",
        tags=TAGS,
        answers={200: wire.RunStateAnswer},
        errors={400: "id must be a UUID", 404: "Not found"},
        action="runs:read",
        contract=False,
    )
    async def get_run_state(request: Request) -> wire.RunStateAnswer:
        return wire.RunStateAnswer(state=state_shape(await runs.get(team_of(request), request.path["id"])))

    for verb, change, summary in (
        ("cancel", runs.cancel, "End a run; its device is cleaned and freed."),
        ("pause", runs.pause, "Take a run out of the queue, or hold it at its next pause point."),
        ("resume", runs.resume, "Let a paused run go on."),
    ):
        _add_change(api, verb, change, summary)

    @api.get(
        "/pipelines",
        summary="List the pipelines that can be run, and those that cannot with the reason.",
        tags=TAGS,
        answers={200: wire.PipelineList},
        action="runs:read",
        contract=False,
    )
    async def list_pipelines(_: Request) -> wire.PipelineList:
        return wire.PipelineList(pipelines=[pipeline_shape(listed) for listed in await catalogue.all()])


def touched(event: Event) -> Iterator[str]:
    """Name what may be shown differently after an event: a team's list of runs, one run."""
    if event.run_id is not None and event.kind not in QUIET:
        yield f"run:{event.run_id}"
        yield f"team:{event.team_id}"


def _add_change(api: Api, verb: str, change: Change, summary: str) -> None:
    async def change_run(request: Request) -> wire.RunAnswer:
        run = await change(team_of(request), request.path["id"], actor_of(request))
        return wire.RunAnswer(run=run_shape(run))

    change_run.__name__ = f"{verb}_run"
    api.post(
        f"/runs/{{id:uuid}}/{verb}",
        summary=summary,
        tags=TAGS,
        answers={200: wire.RunAnswer},
        errors={400: "id must be a UUID", 404: "Not found", 409: "The run is in a state that does not allow it."},
        action="runs:write",
        contract=False,
    )(change_run)
