"""The texts that act as credentials: how each kind is made, told apart, and kept as a hash.

All are random with at least 128 bits, so a plain SHA-256 is enough at rest: there is nothing to guess.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string
from typing import Literal

__all__ = ["KeyStyle", "digest", "is_api_key", "new_api_key", "new_secret", "same"]

KeyStyle = Literal["wrn", "live"]

_ALPHANUMERIC = string.ascii_letters + string.digits
_API_KEY = re.compile(r"wrn_[0-9a-f]{32}|anvil_live_[A-Za-z0-9]{32}")


def digest(secret: str) -> str:
    """Return the form in which a secret is stored and looked up: its SHA-256 in hex."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def same(one: str, other: str) -> bool:
    """Compare two secrets in a time that does not tell where they differ."""
    return secrets.compare_digest(digest(one), digest(other))


def new_secret() -> str:
    """Return 256 random bits as 64 hex characters."""
    return secrets.token_hex(32)


def new_api_key(style: KeyStyle) -> str:
    """Return a new API key: ``wrn_`` and 32 hex digits, or ``anvil_live_`` and 32 letters and digits."""
    if style == "wrn":
        return "wrn_" + secrets.token_hex(16)
    return "anvil_live_" + "".join(secrets.choice(_ALPHANUMERIC) for _ in range(32))


def is_api_key(text: str) -> bool:
    """Say whether a text has the form of an API key. What has not is refused without asking the store."""
    return _API_KEY.fullmatch(text) is not None
