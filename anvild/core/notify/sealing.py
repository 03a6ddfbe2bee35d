"""What channels are configured with, at rest: sealed for that one channel."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from anvild.core.identity import SecretBox

__all__ = ["sealed", "unsealed"]


def sealed(box: SecretBox, channel_id: str, config: Mapping[str, str]) -> str:
    """Return the text that the store keeps."""
    return box.seal(msgspec.json.encode(config), _context(channel_id))


def unsealed(box: SecretBox, channel_id: str, text: str) -> Mapping[str, str]:
    """Return the configuration that was sealed for a channel. Raises SecretBoxError."""
    config: Mapping[str, str] = msgspec.json.decode(box.open(text, _context(channel_id)))
    return config


def _context(channel_id: str) -> str:
    return f"channels.config:{channel_id}"
