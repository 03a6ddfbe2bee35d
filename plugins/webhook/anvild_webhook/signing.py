"""The two signatures of a message."""

from __future__ import annotations

import base64
import binascii
import hmac

__all__ = ["plain_signature", "standard_signature"]

PREFIX = "whsec_"


def standard_signature(secret: str, id_: str, timestamp: str, body: bytes) -> str:
    """Return the signature of the Standard Webhooks specification."""
    signed = hmac.digest(_key(secret), b"%s.%s.%s" % (id_.encode(), timestamp.encode(), body), "sha256")
    return f"v1,{base64.b64encode(signed).decode('ascii')}"


def plain_signature(secret: str, timestamp: str, body: bytes) -> str:
    """Return the signature over time and body, with the secret as it stands."""
    return f"sha256={hmac.digest(secret.encode(), timestamp.encode() + b'.' + body, 'sha256').hex()}"


def _key(secret: str) -> bytes:
    """Return the key that libraries of the specification make of a secret; of what is no base64, its own bytes."""
    try:
        return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        return secret.encode()
