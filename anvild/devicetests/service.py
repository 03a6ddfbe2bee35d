"""What the wing does, without HTTP: queue pipelines, and look after their runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from anvild.core.engine import Actor, Finding, Run, RunRequest, Runs
from anvild.sdk import NotFound

from .pipelines import Catalogue, freeze
from .workload import KIND

__all__ = ["PipelineRuns"]

LISTED = 50


class PipelineRuns:
    """The runs of pipelines. A run of another team, or of another kind, looks missing."""

    def __init__(self, runs: Runs, catalogue: Catalogue) -> None:
        self._runs = runs
        self._catalogue = catalogue

    async def submit(
        self, team_id: str, pipeline: str, *, device_id: str | None, metadata: dict[str, Any] | None, by: Actor
    ) -> Run:
        """Queue a run of a pipeline as it is written now.

        Raises UnknownPipeline naming those that exist, PipelineError for one that cannot be used or values that do
        not fit, NotFound for a device that the team cannot see.
        """
        found = await self._catalogue.get(pipeline)
        frozen = freeze(found, metadata or {})
        request = RunRequest(
            team_id=team_id,
            kind=KIND,
            name=found.name,
            spec=msgspec.to_builtins(frozen),
            requirements=found.requirements(),
            metadata=metadata,
            device_id=device_id,
            deadline=found.deadline,
            max_attempts=1 + found.retries,
        )
        return await self._runs.submit(request, by)

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
