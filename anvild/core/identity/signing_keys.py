"""The keys that sign tokens, and the tokens themselves as JWTs.

Each purpose has keys of its own, so a token for one thing is never good for another: ``device`` tokens are RS256, so
that devices and others can check them with the public key alone; ``login`` and ``host`` tokens are HS256, as only the
daemons check them. Keys are made at the first start and replaced when they are old; a retired key still verifies
until the last token that it signed has ended.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Literal

import jwt
import msgspec
import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from jwt.algorithms import RSAAlgorithm
from sqlalchemy import Connection, delete, insert, select, update

from anvild.core.clock import utcnow
from anvild.core.errors import Unauthenticated
from anvild.core.store import Store

from .journal import note
from .secret_box import SecretBox
from .tables import signing_keys
from .values import NOWHERE, SYSTEM, Principal

__all__ = ["ISSUER", "Purpose", "SignedToken", "SigningKeys"]

Purpose = Literal["device", "login", "host"]

ISSUER = "anvil"
_SEALED_AS = "signing_keys.sealed"
_RSA_BITS = 2048
_MAX_AGE = timedelta(days=90)
_MARGIN = timedelta(hours=1)


class _Kind(msgspec.Struct, frozen=True):
    algorithm: Literal["RS256", "HS256"]
    lifetime: timedelta


_KINDS: Mapping[Purpose, _Kind] = MappingProxyType(
    {
        "device": _Kind("RS256", timedelta(hours=24)),
        "login": _Kind("HS256", timedelta(hours=12)),
        "host": _Kind("HS256", timedelta(days=7)),
    }
)


class SignedToken(msgspec.Struct, frozen=True):
    """A JWT that was just signed."""

    token: str
    expires_at: datetime


class _Key(msgspec.Struct, frozen=True):
    kid: str
    purpose: Purpose
    algorithm: str
    jwk: dict[str, str] | None
    created_at: datetime
    retired_at: datetime | None
    signing: RSAPrivateKey | bytes
    verifying: Any


class SigningKeys:
    """Signs and verifies. Call :meth:`open` once before all else."""

    def __init__(self, store: Store, box: SecretBox) -> None:
        self._store = store
        self._box = box
        self._keys: dict[str, _Key] = {}
        self._read_at = float("-inf")

    async def open(self) -> None:
        """Read the keys, and make what is missing. Raises SecretBoxError when they were sealed with another key."""
        await self.refresh()
        for purpose in _KINDS:
            if self._current(purpose) is None:
                await self._replace(purpose, None)

    async def refresh(self) -> None:
        """Read the keys again: another daemon has made or retired one."""
        statement = select(signing_keys).order_by(signing_keys.c.created_at)
        rows = await self._store.read(lambda connection: connection.execute(statement).all())
        keys = await trio.to_thread.run_sync(lambda: [self._opened(row) for row in rows])
        self._keys = {key.kid: key for key in keys}
        self._read_at = trio.current_time()

    async def sign(
        self, purpose: Purpose, claims: Mapping[str, object], *, lifetime: timedelta | None = None
    ) -> SignedToken:
        """Return a JWT with these claims beside ``iss``, ``iat`` and ``exp``. The default lifetime is the purpose's,
        which is also the longest."""
        kind = _KINDS[purpose]
        key = self._current(purpose)
        assert key is not None, "the signing keys are not open"
        now = utcnow().replace(microsecond=0)
        expires_at = now + min(lifetime or kind.lifetime, kind.lifetime)
        body = {**claims, "iss": ISSUER, "iat": now, "exp": expires_at}
        token = await trio.to_thread.run_sync(
            lambda: jwt.encode(body, key.signing, algorithm=key.algorithm, headers={"kid": key.kid})
        )
        return SignedToken(token, expires_at)

    async def verify(self, token: str, *purposes: Purpose) -> tuple[Purpose, dict[str, Any]]:
        """Return what the token is for and its claims. The algorithm is the key's, whatever the token says.

        Raises Unauthenticated for a token that is expired, changed, for another purpose, or signed by nobody.
        """
        try:
            kid = jwt.get_unverified_header(token).get("kid")
            key = await self._find(kid) if isinstance(kid, str) else None
            if key is None or key.purpose not in purposes:
                raise Unauthenticated("this token is not good here")
            claims: dict[str, Any] = jwt.decode(
                token,
                key.verifying,
                algorithms=[key.algorithm],
                issuer=ISSUER,
                options={"require": ["iss", "iat", "exp", "sub"]},
            )
        except jwt.PyJWTError:
            raise Unauthenticated("this token is not good here") from None
        return key.purpose, claims

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """Return the public keys of device tokens as a JSON Web Key Set, retired ones included."""
        return {"keys": [key.jwk for key in self._keys.values() if key.jwk is not None]}

    async def rotate(self, purpose: Purpose, *, by: Principal = SYSTEM) -> None:
        """Retire the present key of a purpose and make a new one."""
        await self._replace(purpose, self._current(purpose), by=by)

    async def maintain(self) -> None:
        """Replace keys that are older than 90 days, and delete those whose last token has ended."""
        now = utcnow()
        for key in list(self._keys.values()):
            if key.retired_at is None and key.created_at < now - _MAX_AGE:
                await self._replace(key.purpose, key)
        await self._store.write(
            lambda connection: connection.execute(delete(signing_keys).where(signing_keys.c.expires_at < now))
        )
        await self.refresh()

    async def _find(self, kid: str) -> _Key | None:
        if kid not in self._keys and self._read_at + 1 < trio.current_time():
            await self.refresh()
        return self._keys.get(kid)

    def _current(self, purpose: Purpose) -> _Key | None:
        return next((key for key in self._keys.values() if key.purpose == purpose and key.retired_at is None), None)

    async def _replace(self, purpose: Purpose, old: _Key | None, *, by: Principal = SYSTEM) -> None:
        """Make a key in place of the old one, unless another daemon was faster."""
        kind = _KINDS[purpose]
        kid, secret, jwk = await trio.to_thread.run_sync(_generated, kind.algorithm)
        sealed = self._box.seal(secret, _SEALED_AS)
        replaces = None if old is None else old.kid

        def job(connection: Connection) -> None:
            now = utcnow()
            mine = (signing_keys.c.purpose == purpose, signing_keys.c.retired_at.is_(None))
            present = connection.execute(select(signing_keys.c.kid).where(*mine)).scalar_one_or_none()
            if present != replaces:
                return
            expires_at = now + kind.lifetime + _MARGIN
            connection.execute(update(signing_keys).where(*mine).values(retired_at=now, expires_at=expires_at))
            connection.execute(
                insert(signing_keys).values(
                    kid=kid, purpose=purpose, algorithm=kind.algorithm, sealed=sealed, jwk=jwk, created_at=now
                )
            )
            data = {"purpose": purpose, "replaces": replaces}
            note(connection, "signing_key.created", ("signing_key", kid), None, by.actor, NOWHERE, **data)

        await self._store.write(job)
        await self.refresh()

    def _opened(self, row: Any) -> _Key:
        known = self._keys.get(row.kid)
        if known is not None:
            return msgspec.structs.replace(known, retired_at=row.retired_at)
        secret = self._box.open(row.sealed, _SEALED_AS)
        signing: RSAPrivateKey | bytes = secret
        verifying: Any = secret
        if row.algorithm == "RS256":
            loaded = serialization.load_der_private_key(secret, None, unsafe_skip_rsa_key_validation=True)
            # The box has shown that it is as we made it, so there is no need to check the arithmetic.
            assert isinstance(loaded, RSAPrivateKey)
            signing, verifying = loaded, loaded.public_key()
        return _Key(row.kid, row.purpose, row.algorithm, row.jwk, row.created_at, row.retired_at, signing, verifying)


def _generated(algorithm: str) -> tuple[str, bytes, dict[str, str] | None]:
    """Make a key: its id, its secret as it is sealed, and its public part for the key set."""
    kid = secrets.token_hex(8)
    if algorithm == "HS256":
        return kid, secrets.token_bytes(32), None
    private = generate_private_key(65537, _RSA_BITS)
    secret = private.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = RSAAlgorithm.to_jwk(private.public_key(), as_dict=True)
    jwk = {"kid": kid, "kty": "RSA", "use": "sig", "alg": algorithm, "n": public["n"], "e": public["e"]}
    return kid, secret, jwk
