"""Tokens that let whoever holds one fetch one artifact for a while, without another credential."""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import struct
import time
from pathlib import Path
from uuid import UUID

from anvild.core.errors import Forbidden

__all__ = ["Signer", "load_key"]

_BODY = struct.Struct(">16sQ")  # the id, and when it expires in Unix seconds
_MAC_BYTES = 24  # with the body 48, which is 64 letters without padding
_PURPOSE = b"artifact:"


class Signer:
    """Makes and checks the tokens: id and expiry in clear, under an HMAC-SHA-256."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def sign(self, artifact_id: str, *, lifetime: float) -> str:
        """Return a token for this artifact that is good for ``lifetime`` seconds. It fits into a URL as it is."""
        body = _BODY.pack(UUID(artifact_id).bytes, int(time.time() + lifetime))
        return base64.urlsafe_b64encode(body + self._mac(body)).decode()

    def verify(self, token: str) -> str:
        """Return the id of the artifact that a token is good for. Raises Forbidden for any that is not."""
        try:
            raw = base64.b64decode(token.encode(), altchars=b"-_", validate=True)
            body, mac = raw[: _BODY.size], raw[_BODY.size :]
            raw_id, expires = _BODY.unpack(body)
        except (binascii.Error, struct.error):
            raise Forbidden("the link to the artifact is not valid") from None
        if not hmac.compare_digest(mac, self._mac(body)):
            raise Forbidden("the link to the artifact is not valid")
        if time.time() >= expires:
            raise Forbidden("the link to the artifact has expired; ask for a new one")
        return str(UUID(bytes=raw_id))

    def _mac(self, body: bytes) -> bytes:
        return hmac.digest(self._key, _PURPOSE + body, "sha256")[:_MAC_BYTES]


def load_key(path: Path) -> bytes:
    """Return the key in the file, made with mode 0600 if it is not there. Blocks."""
    temporary = path.with_suffix(f".{os.getpid()}")
    if not path.exists():
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.urandom(32))
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    return path.read_bytes()
