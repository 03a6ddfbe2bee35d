"""Encryption of the secrets that the daemon must be able to read again: signing keys, provider credentials.

The key is 32 bytes. systemd hands it over as the credential ``anvild.key`` when the unit has one; else it is a file in
the data directory that only the daemon's user can read, made at the first start. All daemons on one database need the
same key.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["SecretBox", "SecretBoxError", "load_secret_box"]

CREDENTIAL = "anvild.key"
KEY_FILE = "secret.key"
_KEY_SIZE = 32
_NONCE_SIZE = 12


class SecretBoxError(Exception):
    """A sealed text cannot be opened, or the key cannot be used. The message says what to mend."""


class SecretBox:
    """Seals texts with AES-256-GCM under one key.

    ``context`` says what a sealed text is for (``signing_keys.private``); a text that was sealed for another purpose
    does not open, so that nobody with write access to the database can move it elsewhere.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != _KEY_SIZE:
            raise SecretBoxError(f"the key of the secret box has {len(key)} bytes and needs {_KEY_SIZE}")
        self._cipher = AESGCM(key)

    def seal(self, plain: bytes, context: str) -> str:
        """Return the sealed text: nonce and ciphertext in base64."""
        nonce = os.urandom(_NONCE_SIZE)
        return base64.b64encode(nonce + self._cipher.encrypt(nonce, plain, context.encode())).decode("ascii")

    def open(self, sealed: str, context: str) -> bytes:
        """Return what was sealed. Raises SecretBoxError for another key, another context or a changed text."""
        try:
            raw = base64.b64decode(sealed, validate=True)
            return self._cipher.decrypt(raw[:_NONCE_SIZE], raw[_NONCE_SIZE:], context.encode())
        except (ValueError, InvalidTag):
            raise SecretBoxError(
                f"a sealed {context} does not open: it was sealed with another key. Give this daemon the {KEY_FILE} "
                "that it had before, or the one of the other daemons on the same database"
            ) from None


def load_secret_box(data_dir: Path, environ: Mapping[str, str] = os.environ) -> SecretBox:
    """Return the box of this daemon; make its key file where there is neither a credential nor a file.

    Raises SecretBoxError when the key is of the wrong size or the file can be read by others. It does file I/O: call
    it in a thread.
    """
    credentials = environ.get("CREDENTIALS_DIRECTORY")
    if credentials is not None and (path := Path(credentials, CREDENTIAL)).is_file():
        return SecretBox(_decoded(path))
    path = data_dir / KEY_FILE
    if not path.exists():
        _make(path)
    if path.stat().st_mode & 0o077:
        raise SecretBoxError(f"{path} can be read by others: chmod 600 {path}")
    return SecretBox(_decoded(path))


def _decoded(path: Path) -> bytes:
    try:
        return bytes.fromhex(path.read_text("ascii").strip())
    except ValueError:
        raise SecretBoxError(f"{path} must hold {_KEY_SIZE} bytes as {2 * _KEY_SIZE} hex digits") from None


def _make(path: Path) -> None:
    """Write a new key beside the file and link it into place, so that two starters agree on whichever was first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(os.urandom(_KEY_SIZE).hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return
    finally:
        draft.unlink()
