"""Passwords: argon2id, in threads, a few at a time, and as slow for an unknown account as for a known one."""

from __future__ import annotations

import base64
import os
from functools import partial

import argon2
import trio
from argon2.exceptions import InvalidHashError, VerificationError

from anvild.core.errors import FieldProblem, InvalidRequest
from anvild.sdk import Unavailable

__all__ = ["Passwords", "check_password"]

MIN_BYTES = 8
MAX_BYTES = 1024
# One hash takes 64 MiB and a quarter of a second of one core.
_AT_A_TIME = 2
_WAITING = 32


def check_password(password: str, *, field: str = "body.password") -> None:
    """Raise InvalidRequest unless the password is long enough, and short enough to be one. Lengths are in bytes."""
    if not MIN_BYTES <= len(_encoded(password)) <= MAX_BYTES:
        expected = f"{MIN_BYTES} to {MAX_BYTES} bytes"
        raise InvalidRequest(f"a password must have {expected}", (FieldProblem(field, expected),))


def _encoded(password: str) -> bytes:
    return password.encode("utf-8", "surrogatepass")


class Passwords:
    """Hashes and verifies passwords off the loop.

    ``hasher`` sets the cost; the default is argon2-cffi's own. At most two hashes are computed at a time; when too
    many wait already, both verbs raise Unavailable. Cancelling either abandons its thread, which ends by itself.
    """

    def __init__(self, hasher: argon2.PasswordHasher | None = None) -> None:
        self._hasher = hasher or argon2.PasswordHasher()
        self._limiter = trio.CapacityLimiter(_AT_A_TIME)
        self._nobody = self._unmatched()

    async def hash(self, password: str) -> str:
        """Return the argon2id hash of a new password. Raises InvalidRequest for one of the wrong length."""
        check_password(password)
        self._refuse_when_crowded()
        return await trio.to_thread.run_sync(
            partial(self._hasher.hash, _encoded(password)), limiter=self._limiter, abandon_on_cancel=True
        )

    async def verify(self, stored: str | None, password: str) -> bool:
        """Say whether the password fits the stored hash. For None (no such account, or one without a password) the
        answer is no, after the same work."""
        self._refuse_when_crowded()
        return await trio.to_thread.run_sync(
            partial(self._verify, stored or self._nobody, password), limiter=self._limiter, abandon_on_cancel=True
        )

    def outdated(self, stored: str) -> bool:
        """Say whether a hash was made at another cost than today's, and should be made again."""
        return self._hasher.check_needs_rehash(stored)

    def _verify(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, _encoded(password))
        except (VerificationError, InvalidHashError):
            return False

    def _refuse_when_crowded(self) -> None:
        if self._limiter.statistics().tasks_waiting >= _WAITING:
            raise Unavailable("too many passwords are being checked; try again in a few seconds")

    def _unmatched(self) -> str:
        """A hash of today's cost that no password fits, made up of random bytes and so without the work."""
        hasher = self._hasher
        salt, tag = (
            base64.b64encode(os.urandom(size)).decode("ascii").rstrip("=")
            for size in (hasher.salt_len, hasher.hash_len)
        )
        return f"$argon2id$v=19$m={hasher.memory_cost},t={hasher.time_cost},p={hasher.parallelism}${salt}${tag}"
