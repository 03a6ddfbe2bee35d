"""Posts notices as JSON, signed in two ways."""

from __future__ import annotations

import secrets
import uuid
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated
from urllib.parse import urlsplit

import msgspec

from anvild.sdk import Notice, Notifier

from .signing import plain_signature, standard_signature

__all__ = ["WebhookConfig", "WebhookNotifier"]

_GONE = frozenset({HTTPStatus.GONE})

Secret = Annotated[str, msgspec.Meta(min_length=8, max_length=256)]


class WebhookConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where to post to, and what with to sign."""

    url: Annotated[str, msgspec.Meta(max_length=2048)]
    secret: Secret = msgspec.field(default_factory=lambda: secrets.token_hex(32))

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected a URL that begins with http:// or https://")


class WebhookNotifier(Notifier):
    """Posts to a URL of the channel's own."""

    name = "webhook"
    config_type = WebhookConfig

    async def send(self, config: WebhookConfig, notice: Notice) -> str:
        body = msgspec.json.encode(notice.body)
        now = datetime.now(UTC).replace(microsecond=0)
        seconds, text = str(int(now.timestamp())), now.isoformat().replace("+00:00", "Z")
        headers = {
            "content-type": "application/json",
            "webhook-id": notice.id,
            "webhook-timestamp": seconds,
            "webhook-signature": standard_signature(config.secret, notice.id, seconds, body),
            "X-WRENN-SIGNATURE": plain_signature(config.secret, text, body),
            "X-Wrenn-Timestamp": text,
            "X-Wrenn-Delivery": str(uuid.uuid4()),
        }
        reply = await self.outbound.request("POST", config.url, headers=headers, content=body)
        return reply.check(refused=_GONE)
