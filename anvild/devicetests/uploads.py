"""Files that people bring for their runs: apps, tests, data. They are artifacts of a team that belong to no run."""

from __future__ import annotations

from collections.abc import AsyncIterable, Sequence

from anvild.core.artifacts import Artifact, Artifacts
from anvild.core.errors import TooLarge
from anvild.sdk import NotFound

__all__ = ["Uploads"]

LISTED = 1000


class Uploads:
    """The uploads of teams. Another team's looks missing. They stay as long as any artifact."""

    def __init__(self, artifacts: Artifacts, *, limit: int) -> None:
        self._artifacts = artifacts
        self._limit = limit

    async def add(
        self, team_id: str, source: AsyncIterable[bytes], *, name: str, media_type: str, actor: str
    ) -> Artifact:
        """Store a file while it streams in. Raises TooLarge, StorageFull, InvalidArgument for the name; then, and when
        cancelled, nothing is left of it."""
        return await self._artifacts.put(
            source, team_id=team_id, run_id=None, name=name, media_type=media_type, limit=self._limit, actor=actor
        )

    async def list(self, team_id: str, *, sha256: str | None = None) -> Sequence[Artifact]:
        """Return the team's latest uploads, newest first; with ``sha256``, those of this content."""
        found = await self._artifacts.without_run(team_id, sha256=sha256)
        return found[::-1][:LISTED]

    async def get(self, team_id: str, upload_id: str) -> Artifact:
        """Return an upload of the team. Raises NotFound."""
        artifact = await self._artifacts.get(upload_id)
        if artifact.team_id != team_id or artifact.run_id is not None:
            raise NotFound(f"there is no upload {upload_id}")
        return artifact

    async def read(self, team_id: str, upload_id: str, *, largest: int) -> bytes:
        """Return the content of a small upload. Raises NotFound, TooLarge."""
        artifact = await self.get(team_id, upload_id)
        if artifact.size > largest:
            raise TooLarge(f"{artifact.name} is larger than the {largest} bytes that are taken", limit=largest)
        async with self._artifacts.open(artifact) as content:
            return b"".join([piece async for piece in content])

    async def remove(self, team_id: str, upload_id: str, *, actor: str) -> None:
        """Remove an upload. A run that still needs it fails and says so. Raises NotFound."""
        await self._artifacts.remove(await self.get(team_id, upload_id), actor=actor)
