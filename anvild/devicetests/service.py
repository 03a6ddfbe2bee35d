"""What the wing does, without HTTP: queue pipelines, and look after their runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any
from uuid import UUID

import msgspec
import trio

from anvild.core.engine import Actor, Devices, Finding, Run, RunRequest, Runs
from anvild.core.errors import InvalidRequest, TooLarge
from anvild.sdk import NotFound

from .pipelines import MAX_FILE, Catalogue, Given, Pipeline, freeze, parse
from .pipelines.freeze import texts
from .uploads import Uploads
from .workload import KIND

__all__ = ["PipelineRuns"]

LISTED = 50


class PipelineRuns:
    """The runs of pipelines. A run of another team, or of another kind, looks missing."""

    def __init__(self, runs: Runs, devices: Devices, catalogue: Catalogue, uploads: Uploads) -> None:
        self._runs = runs
        self._devices = devices
        self._catalogue = catalogue
        self._uploads = uploads

    async def submit(
        self, team_id: str, pipeline: str, *, device_id: str | None, metadata: dict[str, Any] | None, by: Actor
    ) -> Run:
        """Queue a run of a pipeline as it is written now, or of the caller's own in ``metadata["pipeline"]``.

        Raises UnknownPipeline naming those that exist, PipelineError for one that cannot be used or values that do
        not fit, InvalidRequest for an upload that the team has not and for a device of a platform that the pipeline
        does not run on, NotFound for a device that the team cannot see.
        """
        given = dict(metadata or {})
        own = given.pop("pipeline", None)
        found = await (self._catalogue.get(pipeline) if own is None else self._own(team_id, pipeline, own))
        if device_id is not None and found.requires.platforms:
            await self._check_platform(team_id, device_id, found)
        inputs = await self._inputs(team_id, given)
        frozen = freeze(found, given, inputs)
        request = RunRequest(
            team_id=team_id,
            kind=KIND,
            name=found.name,
            spec=msgspec.to_builtins(frozen),
            requirements=found.requirements(),
            metadata=None if metadata is None else given,
            device_id=device_id,
            deadline=found.deadline,
            max_attempts=1 + found.retries,
        )
        return await self._runs.submit(request, by)

    async def _check_platform(self, team_id: str, device_id: str, pipeline: Pipeline) -> None:
        """Refuse a device that will never do; one that is known by name alone may turn out to be any."""
        device = await self._devices.get(device_id, team_id)
        if device.platform is not None and device.platform not in pipeline.requires.platforms:
            platforms = " or ".join(pipeline.requires.platforms)
            raise InvalidRequest(
                f"the device {device.name!r} is of the platform {device.platform}, and the pipeline {pipeline.name!r} "
                f"runs on {platforms}"
            )

    async def _own(self, team_id: str, name: str, own: object) -> Pipeline:
        """Read a pipeline that the caller gives: its text, or the id of an upload."""
        if not isinstance(own, str):
            raise InvalidRequest("metadata.pipeline must be the text of a pipeline, or the id of an upload")
        try:
            text = await self._text(team_id, own) if _is_id(own) else own
        except (TooLarge, UnicodeDecodeError) as error:
            raise InvalidRequest(f"metadata.pipeline is no pipeline: {error}") from None
        if len(text) > MAX_FILE:
            raise InvalidRequest(f"metadata.pipeline is longer than {MAX_FILE} characters")
        return await trio.to_thread.run_sync(partial(parse, text, name=name, file=f"{name}.toml"))

    async def _text(self, team_id: str, upload_id: str) -> str:
        try:
            return (await self._uploads.read(team_id, upload_id, largest=MAX_FILE)).decode()
        except NotFound:
            raise _no_upload("pipeline", upload_id) from None

    async def _inputs(self, team_id: str, metadata: dict[str, Any]) -> dict[str, Given]:
        inputs: dict[str, Given] = {}
        for name, upload_id in texts(metadata, "inputs").items():
            if not _is_id(upload_id):
                raise _no_upload(f"inputs.{name}", upload_id)
            try:
                upload = await self._uploads.get(team_id, upload_id)
            except NotFound:
                raise _no_upload(f"inputs.{name}", upload_id) from None
            inputs[name] = Given(artifact=upload.id, name=upload.name, size=upload.size)
        return inputs

    async def latest(self, team_id: str) -> Sequence[Run]:
        """Return the 50 most recent runs of a team, newest first."""
        return await self._runs.list(team_id, limit=LISTED, kind=KIND)

    async def get(self, team_id: str, run_id: str) -> Run:
        """Return a run of the team. Raises NotFound."""
        run = await self._runs.get(run_id)
        if run.team_id != team_id or run.kind != KIND:
            raise NotFound(f"there is no run {run_id}")
        return run

    async def detail(self, team_id: str, run_id: str) -> tuple[Run, Sequence[Finding]]:
        """Return a run of the team with its findings. Raises NotFound."""
        run = await self.get(team_id, run_id)
        return run, await self._runs.findings(run_id)

    async def cancel(self, team_id: str, run_id: str, by: Actor) -> Run:
        """End a run. Raises NotFound, Conflict when it has ended otherwise."""
        await self.get(team_id, run_id)
        return await self._runs.cancel(run_id, by)

    async def pause(self, team_id: str, run_id: str, by: Actor) -> Run:
        """Hold a run at its next pause point. Raises NotFound, Conflict."""
        await self.get(team_id, run_id)
        return await self._runs.pause(run_id, by)

    async def resume(self, team_id: str, run_id: str, by: Actor) -> Run:
        """Let a paused run go on. Raises NotFound, Conflict."""
        await self.get(team_id, run_id)
        return await self._runs.resume(run_id, by)


def _is_id(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


def _no_upload(field: str, upload_id: str) -> InvalidRequest:
    return InvalidRequest(f"metadata.{field}: there is no upload {upload_id[:40]!r}")
