"""Idempotency keys: a request that is sent twice has one effect and one answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from datetime import timedelta

import msgspec
import trio
from sqlalchemy import Connection, Delete, Update, delete, insert, select, update

from anvild.core.clock import utcnow
from anvild.core.errors import Conflict, FieldProblem, InvalidRequest
from anvild.core.ids import new_id
from anvild.core.logging import get_logger
from anvild.core.store import Store
from anvild.sdk import AnvilError

from .secret_box import SecretBox
from .secret_texts import digest
from .tables import idempotency_keys
from .values import Principal

__all__ = ["Idempotency", "KeyReused", "StillRunning", "StoredAnswer", "object_id"]

log = get_logger("identity")

_KEPT = timedelta(hours=48)
_ABANDONED = timedelta(seconds=60)
_RENEWAL = 20.0
_WAIT = 10.0
_SEALED_AS = "idempotency_keys.answer"
_MAX_KEY = 255

_object_id: ContextVar[str | None] = ContextVar("object_id", default=None)


def object_id() -> str:
    """Return the id for the object that the present request makes.

    Under an idempotency key it is the same at every try of the request, also after a crash: a service that finds the
    object there already knows that an earlier try had made it. Otherwise it is a new id.
    """
    return _object_id.get() or new_id()


class KeyReused(AnvilError):
    """The idempotency key was used before for a request with another content."""

    code = "idempotency_key_reused"
    http = 422


class StillRunning(Conflict):
    """The first request with this idempotency key is still being worked on; ``retry_after`` is in seconds."""

    code = "idempotency_in_progress"
    retry = True

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class StoredAnswer(msgspec.Struct, frozen=True):
    """An answer as it went out, or goes out again: then ``replayed`` is true and the rest equal to the byte."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    replayed: bool = False


class _Sealed(msgspec.Struct, frozen=True, array_like=True):
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Idempotency:
    """Remembers the answers of creating requests for two days, by principal, operation and key.

    Several daemons on one database share the memory. A request whose daemon died is free to be tried again: at once
    where one daemon has the database to itself, else a minute after its last sign of life.
    """

    def __init__(self, store: Store, box: SecretBox) -> None:
        self._store = store
        self._box = box
        self._worker = new_id()
        self._running: dict[str, trio.Event] = {}
        self._some = trio.Event()

    async def once(
        self,
        principal: Principal,
        operation: str,
        key: str,
        fingerprint: str,
        handler: Callable[[], Awaitable[StoredAnswer]],
    ) -> StoredAnswer:
        """Return the handler's answer, or the stored one of an earlier request with this key.

        ``operation`` is method and path, ``fingerprint`` any text that differs when the content does. An answer below
        400 is stored; a refusal (an answer of 400 or more, or an error that maps to 4xx) is not, and the key is free
        again. A duplicate waits up to 10 s for the first.

        Raises InvalidRequest for a key that is none, KeyReused, StillRunning, and what the handler raises.
        Cancellation while the handler runs leaves the key to be tried again with the same :func:`object_id`.
        """
        if not (1 <= len(key) <= _MAX_KEY and key.isprintable()):
            expected = f"1 to {_MAX_KEY} printable characters"
            raise InvalidRequest(
                f"an idempotency key has {expected}", (FieldProblem("header.Idempotency-Key", expected),)
            )
        slot = digest("\0".join((principal.actor, operation, key)))
        while (first := self._running.get(slot)) is not None:
            with trio.move_on_after(_WAIT) as waiting:
                await first.wait()
            if waiting.cancelled_caught:
                raise StillRunning("the first request with this key is still running", retry_after=1.0)
        done = self._running[slot] = trio.Event()
        self._some.set()
        try:
            return await self._claimed(slot, digest(fingerprint), handler)
        finally:
            del self._running[slot]
            done.set()

    async def run(self) -> None:
        """Give signs of life for requests that take long, so that no other daemon takes them for abandoned."""
        while True:
            await self._some.wait()
            await trio.sleep(_RENEWAL)
            if not self._running:
                self._some = trio.Event()
                continue
            slots = tuple(self._running)
            alive = (
                update(idempotency_keys)
                .where(idempotency_keys.c.slot.in_(slots), idempotency_keys.c.worker == self._worker)
                .values(claimed_at=utcnow())
            )
            try:
                await self._execute(alive)
            except AnvilError as error:
                log.warning("idempotency_not_renewed", reason=error.message)

    async def sweep(self) -> None:
        """Forget the answers that are older than they are kept."""
        old = delete(idempotency_keys).where(idempotency_keys.c.expires_at <= utcnow())
        await self._execute(old)

    async def _claimed(
        self, slot: str, fingerprint: str, handler: Callable[[], Awaitable[StoredAnswer]]
    ) -> StoredAnswer:
        claim = await self._store.write(lambda connection: self._claim(connection, slot, fingerprint))
        if isinstance(claim, StoredAnswer):
            return claim
        answer: StoredAnswer | None = None
        refused = False
        before = _object_id.set(claim)
        try:
            answer = await handler()
            refused = answer.status >= 400
        except AnvilError as error:
            refused = error.http < 500
            raise
        finally:
            _object_id.reset(before)
            with trio.CancelScope(shield=True):
                await self._settle(slot, None if refused else answer, forget=refused)
        return answer

    def _claim(self, connection: Connection, slot: str, fingerprint: str) -> StoredAnswer | str:
        """Return the stored answer, or the object id for a try that begins now."""
        now = utcnow()
        mine = idempotency_keys.c.slot == slot
        connection.execute(delete(idempotency_keys).where(mine, idempotency_keys.c.expires_at <= now))
        row = connection.execute(select(idempotency_keys).where(mine)).one_or_none()
        if row is None:
            made = new_id()
            connection.execute(
                insert(idempotency_keys).values(
                    slot=slot,
                    fingerprint=fingerprint,
                    worker=self._worker,
                    claimed_at=now,
                    object_id=made,
                    expires_at=now + _KEPT,
                )
            )
            return made
        if row.fingerprint != fingerprint:
            raise KeyReused("this idempotency key was used for another request; choose a new one")
        if row.status is not None:
            sealed = msgspec.msgpack.decode(self._box.open(row.answer, _SEALED_AS), type=_Sealed)
            return StoredAnswer(row.status, sealed.headers, sealed.body, replayed=True)
        elsewhere = row.worker not in (None, self._worker) and self._store.dialect != "sqlite"
        if elsewhere and row.claimed_at > now - _ABANDONED:
            left = (row.claimed_at + _ABANDONED - now).total_seconds()
            raise StillRunning("another daemon works on the first request with this key", retry_after=left)
        connection.execute(update(idempotency_keys).where(mine).values(worker=self._worker, claimed_at=now))
        object_id_: str = row.object_id
        return object_id_

    async def _settle(self, slot: str, answer: StoredAnswer | None, *, forget: bool) -> None:
        """Store the answer; or forget the key; or, when it is not known what happened, leave it to be tried again."""
        mine = (idempotency_keys.c.slot == slot, idempotency_keys.c.worker == self._worker)
        statement = update(idempotency_keys).where(*mine)
        settled: Update | Delete
        if forget:
            settled = delete(idempotency_keys).where(*mine)
        elif answer is None:
            settled = statement.values(worker=None)
        else:
            plain = msgspec.msgpack.encode(_Sealed(answer.headers, answer.body))
            settled = statement.values(worker=None, status=answer.status, answer=self._box.seal(plain, _SEALED_AS))
        try:
            await self._execute(settled)
        except AnvilError as error:
            log.warning("idempotent_answer_not_stored", reason=error.message)

    async def _execute(self, statement: Update | Delete) -> None:
        await self._store.write(lambda connection: connection.execute(statement))
