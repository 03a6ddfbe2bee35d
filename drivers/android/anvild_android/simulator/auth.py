"""Who may use a device: the keys of adb hosts, checked by signature and approved by the person who holds it."""

from __future__ import annotations

import base64
import binascii
import struct
from pathlib import Path

import trio
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

__all__ = ["TOKEN_SIZE", "KeyRing", "parse_key"]

TOKEN_SIZE = 20
WORDS = 64
KEY = struct.Struct(f"<II{WORDS * 4}s{WORDS * 4}sI")


def parse_key(line: str) -> rsa.RSAPublicKey:
    """Read a public key as hosts send it: base64 of the modulus and its helpers, then a name. Raises ValueError."""
    try:
        words, _inverse, modulus, _square, exponent = KEY.unpack(base64.b64decode(line.split()[0], validate=True))
    except (binascii.Error, struct.error, IndexError) as error:
        raise ValueError(f"not the public key of an adb host: {error}") from None
    if words != WORDS:
        raise ValueError(f"a key of {words * 32} bits; only 2048 are known")
    return rsa.RSAPublicNumbers(exponent, int.from_bytes(modulus, "little")).public_key()


class KeyRing:
    """The keys that were approved, kept in a file, and those that wait for it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = path.read_text().splitlines() if path.exists() else []
        self._waiting: set[str] = set()
        self._changed = trio.Event()

    @property
    def waiting(self) -> int:
        """How many keys wait to be approved."""
        return len(self._waiting)

    def accepts(self, token: bytes, signature: bytes) -> bool:
        """Tell whether an approved key has signed the token, which stands for a digest."""
        for line in self._known:
            try:
                parse_key(line).verify(signature, token, padding.PKCS1v15(), Prehashed(hashes.SHA1()))  # noqa: S303 adb's
            except InvalidSignature:
                continue
            return True
        return False

    async def offered(self, line: str) -> None:
        """Wait until a key is approved. Raises ValueError for what is no key. Cancelled, the key goes on waiting."""
        parse_key(line)
        self._waiting.add(line)
        while line not in self._known:
            await self._changed.wait()

    def approve(self) -> None:
        """Approve every key that has been offered, now and for later."""
        self._known += sorted(self._waiting - set(self._known))
        self._waiting.clear()
        self._path.write_text("".join(f"{line}\n" for line in self._known))
        self._changed.set()
        self._changed = trio.Event()
