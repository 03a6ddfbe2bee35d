"""The artifacts: files that stream in and out, each with a row in the store."""

from __future__ import annotations

import itertools
import logging
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import trio
from sqlalchemy import Connection, Row, delete, func, insert, select
from sqlalchemy.sql import ColumnElement

from anvild.core.artifacts.files import Files, Incoming
from anvild.core.artifacts.quota import Usage
from anvild.core.artifacts.tables import artifacts
from anvild.core.artifacts.tokens import Signer, load_key
from anvild.core.artifacts.values import Artifact, SweepReport
from anvild.core.clock import utcnow
from anvild.core.errors import StorageFull, TooLarge
from anvild.core.events import append
from anvild.core.ids import new_id
from anvild.core.store import Store
from anvild.sdk import InvalidArgument, NotFound, Unavailable

__all__ = ["Artifacts", "open_artifacts"]

_log = logging.getLogger(__name__)

_WRITE_BYTES = 1 << 20  # gathered before they are handed to a thread
_READ_BYTES = 1 << 18
_SLICE = 500  # rows that one transaction removes
_SWEEP_SECONDS = 3600.0
_INSERT = insert(artifacts)
_OLDEST = select(artifacts).order_by(artifacts.c.stored_at).limit(_SLICE)


class Artifacts:
    """Content-addressed files under the data directory, with rows.

    Equal contents share one file. A file is durable before its row is; a row without its file does not come to be, and
    a file without a row is removed by a sweep, but not before it has been seen twice with ``grace`` seconds between,
    so that a backup that has just copied the rows still finds the files.
    """

    def __init__(
        self, store: Store, files: Files, signer: Signer, usage: Usage, *, keep: timedelta, grace: float
    ) -> None:
        """Use :func:`open_artifacts`."""
        self._store = store
        self._files = files
        self._signer = signer
        self._usage = usage
        self._keep = keep
        self._grace = grace
        self._incoming: set[Path] = set()
        # Storing a content and sweeping it away exclude each other; one lock for each directory.
        self._locks = {f"{number:02x}": trio.Lock() for number in range(256)}
        self._unused: dict[str, dict[str, float]] = {}  # by directory: when a file was first seen without a row

    async def put(
        self,
        source: AsyncIterable[bytes],
        *,
        team_id: str | None,
        run_id: str | None,
        name: str,
        media_type: str,
        limit: int | None = None,
        actor: str = "system",
    ) -> Artifact:
        """Store what ``source`` yields, in memory of about one MiB, and return it once it is durable.

        ``name`` is for people and may hold slashes; ``limit`` is the most bytes that are taken. Raises TooLarge,
        StorageFull (disk, reserve or quota), InvalidArgument for the name, and whatever ``source`` raises. After an
        error or a cancellation nothing is left behind.
        """
        if not 0 < len(name) <= 255 or not name.isprintable():
            raise InvalidArgument("the name of an artifact has 1 to 255 printable characters")
        with self._usage.claim(team_id) as claim:
            async with self._receive() as incoming:
                gathered: list[bytes] = []
                size = 0

                def check() -> None:
                    if limit is not None and incoming.size + size > limit:
                        raise TooLarge(f"{name} is larger than the {limit} bytes that are taken", limit=limit)
                    claim.extend(size)

                async for chunk in source:
                    gathered.append(chunk)
                    size += len(chunk)
                    if size >= _WRITE_BYTES:
                        check()
                        await trio.to_thread.run_sync(incoming.write, gathered)
                        gathered, size = [], 0
                check()
                sha256 = await trio.to_thread.run_sync(incoming.finish, gathered)
                artifact = Artifact(
                    id=new_id(),
                    team_id=team_id,
                    run_id=run_id,
                    name=name,
                    media_type=media_type,
                    size=incoming.size,
                    sha256=sha256,
                    stored_at=utcnow(),
                )
                await self._place(incoming, artifact, actor)
            claim.keep()
        return artifact

    async def get(self, artifact_id: str) -> Artifact:
        """Return one artifact. Raises NotFound."""
        found = await self._select(artifacts.c.id == artifact_id)
        if not found:
            raise NotFound(f"there is no artifact {artifact_id}")
        return found[0]

    async def list(self, run_id: str) -> Sequence[Artifact]:
        """Return the artifacts of a run, oldest first."""
        return await self._select(artifacts.c.run_id == run_id)

    async def without_run(self, team_id: str, *, sha256: str | None = None) -> Sequence[Artifact]:
        """Return a team's artifacts that belong to no run, oldest first; with ``sha256``, those of this content."""
        condition = (artifacts.c.team_id == team_id) & artifacts.c.run_id.is_(None)
        return await self._select(condition if sha256 is None else condition & (artifacts.c.sha256 == sha256))

    async def remove(self, artifact: Artifact, *, actor: str = "system") -> None:
        """Remove one artifact; its file goes with a later sweep when no other one shares it. One that is gone already
        is no error."""

        def job(connection: Connection) -> None:
            row = connection.execute(select(artifacts).where(artifacts.c.id == artifact.id)).first()
            if row is not None:
                _remove(connection, [row], "artifact.removed", actor)

        await self._store.write(job)
        await self.measure()

    @asynccontextmanager
    async def open(
        self, artifact: Artifact, *, offset: int = 0, length: int | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open the content, or ``length`` bytes of it from ``offset`` on, as a stream of chunks.

        An artifact that is open can be read to its end though it is removed meanwhile. Raises InvalidArgument for a
        range that does not lie in the artifact, Unavailable when its file is not on this host.
        """
        end = artifact.size if length is None else offset + length
        if not 0 <= offset <= end <= artifact.size:
            raise InvalidArgument(f"the bytes {offset} to {end} do not lie in an artifact of {artifact.size} bytes")
        try:
            file = await trio.open_file(self._files.path(artifact.sha256), "rb", buffering=0)
        except FileNotFoundError:
            raise Unavailable(f"the file of artifact {artifact.id} is not on this host") from None
        async with file:
            await file.seek(offset)
            async with aclosing(_chunks(file.read, end - offset)) as stream:
                yield stream

    def sign(self, artifact_id: str, *, lifetime: float) -> str:
        """Return a token with which anybody may fetch this artifact for ``lifetime`` seconds."""
        return self._signer.sign(artifact_id, lifetime=lifetime)

    def verify(self, token: str) -> str:
        """Return the id of the artifact that a token opens. Raises Forbidden for a wrong or expired one."""
        return self._signer.verify(token)

    async def run(self) -> None:
        """Sweep now and every hour, until cancelled."""
        while True:
            try:
                await self.sweep()
            except (StorageFull, Unavailable, OSError) as error:
                _log.warning("the artifacts cannot be swept, next attempt in %s s: %s", _SWEEP_SECONDS, error)
            await trio.sleep(_SWEEP_SECONDS)

    async def sweep(self) -> SweepReport:
        """Remove artifacts that are too old or, oldest first, exceed the lab's quota; then files that have no row.

        A file that is being stored is never removed. Cancelled in between, the next sweep does the rest.
        """
        await trio.to_thread.run_sync(self._files.remove_incoming, self._incoming)
        expired = evicted = 0
        while removed := await self._store.write(partial(_remove_expired, utcnow() - self._keep)):
            expired += removed
        await self.measure()
        while (excess := self._usage.excess()) and (removed := await self._store.write(partial(_evict, excess))):
            evicted += removed
            await self.measure()
        files = size = 0
        for prefix in await trio.to_thread.run_sync(self._files.prefixes):
            async with self._locks[prefix]:
                count, freed = await self._remove_unused(prefix)
            files += count
            size += freed
        return SweepReport(expired=expired, evicted=evicted, files=files, bytes=size)

    async def measure(self) -> None:
        """Take the sums that the quotas are kept by from the store."""
        statement = select(artifacts.c.team_id, func.sum(artifacts.c.size)).group_by(artifacts.c.team_id)
        sums = await self._store.read(lambda connection: connection.execute(statement).all())
        self._usage.replace({team_id: int(size) for team_id, size in sums})

    async def _place(self, incoming: Incoming, artifact: Artifact, actor: str) -> None:
        async with self._locks[artifact.sha256[:2]]:
            fresh = await trio.to_thread.run_sync(self._files.place, incoming, artifact.sha256)
            try:
                await self._store.write(partial(_insert, artifact, actor))
            except (trio.Cancelled, StorageFull):  # the row is not there for certain, and nobody else can have used it
                if fresh:
                    with trio.CancelScope(shield=True):
                        await trio.to_thread.run_sync(self._files.remove, [artifact.sha256])
                raise

    async def _select(self, condition: ColumnElement[bool]) -> Sequence[Artifact]:
        statement = select(artifacts).where(condition).order_by(artifacts.c.id)
        return await self._store.read(
            lambda connection: [Artifact(**row) for row in connection.execute(statement).mappings()]
        )

    @asynccontextmanager
    async def _receive(self) -> AsyncIterator[Incoming]:
        """A file to write to, which is gone afterwards unless it was placed."""
        path = self._files.incoming / new_id()
        self._incoming.add(path)
        incoming = Incoming(self._files, path)
        try:
            yield incoming
        finally:
            if incoming.there:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(incoming.discard)
            self._incoming.remove(path)

    async def _remove_unused(self, prefix: str) -> tuple[int, int]:
        """Remove the files of one directory that had no row at an earlier sweep and have none now."""
        there = await trio.to_thread.run_sync(self._files.digests, prefix)
        between = artifacts.c.sha256.between(prefix, prefix + "g")
        statement = select(artifacts.c.sha256).where(between).distinct()
        used = set(await self._store.read(lambda connection: connection.scalars(statement).all()))
        now = trio.current_time()
        before = self._unused.get(prefix, {})
        unused = {sha256: before.get(sha256, now) for sha256 in there if sha256 not in used}
        old = [sha256 for sha256, since in unused.items() if now - since >= self._grace]
        self._unused[prefix] = {sha256: since for sha256, since in unused.items() if sha256 not in old}
        return await trio.to_thread.run_sync(self._files.remove, old)


async def open_artifacts(
    store: Store,
    data_dir: Path,
    *,
    keep: timedelta = timedelta(days=90),
    lab_quota: int | None = None,
    team_quota: int | None = None,
    reserve: int = 64 << 20,
    grace: float = 900.0,
) -> Artifacts:
    """Return the artifacts of a data directory, which gets the folder ``artifacts`` and the file ``artifacts.key``.

    They are kept for ``keep``. ``lab_quota`` and ``team_quota`` limit the bytes of all artifacts and of each team's;
    when the lab's is nearly used up, a sweep makes room by removing the oldest. ``reserve`` bytes of the disk are left
    free, so that the store can still write when the artifacts cannot. A file lies for ``grace`` seconds after its last
    row has gone.
    """
    files = await trio.to_thread.run_sync(partial(Files, data_dir / "artifacts", reserve=reserve))
    signer = Signer(await trio.to_thread.run_sync(load_key, data_dir / "artifacts.key"))
    usage = Usage(lab_limit=lab_quota, team_limit=team_quota)
    opened = Artifacts(store, files, signer, usage, keep=keep, grace=grace)
    await opened.measure()
    return opened


async def _chunks(read: Callable[[int], Awaitable[bytes]], length: int) -> AsyncGenerator[bytes, None]:
    while length:
        chunk = await read(min(length, _READ_BYTES))
        if not chunk:
            raise Unavailable("the file of the artifact is shorter than it was when it was stored")
        length -= len(chunk)
        yield chunk


def _insert(artifact: Artifact, actor: str, connection: Connection) -> None:
    connection.execute(_INSERT, msgspec.structs.asdict(artifact))
    append(
        connection,
        "artifact.stored",
        subject=("artifact", artifact.id),
        team_id=artifact.team_id,
        run_id=artifact.run_id,
        actor=actor,
        data={"name": artifact.name, "size": artifact.size, "media_type": artifact.media_type},
    )


def _remove_expired(before: datetime, connection: Connection) -> int:
    """Remove a slice of the artifacts that were stored before a moment; return how many it were."""
    oldest = _OLDEST.where(artifacts.c.stored_at < before)
    return _remove(connection, connection.execute(oldest).all(), "artifact.expired")


def _evict(excess: int, connection: Connection) -> int:
    """Remove a slice of the oldest artifacts, and no more than the excess of bytes needs."""
    rows = connection.execute(_OLDEST).all()
    before = itertools.accumulate((row.size for row in rows), initial=0)
    return _remove(
        connection, [row for row, size in zip(rows, before, strict=False) if size < excess], "artifact.evicted"
    )


def _remove(connection: Connection, rows: Sequence[Row[Any]], kind: str, actor: str = "system") -> int:
    connection.execute(delete(artifacts).where(artifacts.c.id.in_([row.id for row in rows])))
    for row in rows:
        subject = ("artifact", row.id)
        append(
            connection,
            kind,
            subject=subject,
            team_id=row.team_id,
            run_id=row.run_id,
            actor=actor,
            data={"name": row.name},
        )
    return len(rows)
