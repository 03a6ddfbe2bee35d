"""The wire shapes of channels."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, UnsetType

from ..notices import KINDS
from .common import Moment

__all__ = [
    "ChannelResponse",
    "CreateChannelRequest",
    "Delivery",
    "DeliveryQuery",
    "RotateConfigRequest",
    "TestChannelRequest",
    "TestResult",
    "UpdateChannelRequest",
]

_PROVIDERS = ["discord", "slack", "teams", "googlechat", "telegram", "matrix", "webhook"]

# The document names what the contract does. Installed plugins may offer more providers, and there are more events: the
# service checks both.
Provider = Annotated[str, msgspec.Meta(extra_json_schema={"enum": _PROVIDERS})]
EventKind = Annotated[str, msgspec.Meta(extra_json_schema={"enum": list(KINDS)})]


class CreateChannelRequest(msgspec.Struct):
    """A new channel."""

    name: str
    provider: Provider
    config: dict[str, str]
    events: list[EventKind]


class UpdateChannelRequest(msgspec.Struct):
    """Another name and other events."""

    name: str
    events: list[EventKind]


class RotateConfigRequest(msgspec.Struct):
    """Another configuration in place of the one that is there."""

    config: dict[str, str]


class TestChannelRequest(msgspec.Struct):
    """A provider and how it is configured, to be tried."""

    provider: Provider
    config: dict[str, str]


class TestResult(msgspec.Struct):
    """The provider has taken a test."""

    status: str


class ChannelResponse(msgspec.Struct, omit_defaults=True):
    """A channel. ``secret`` is in the answer to its creation alone."""

    id: str
    team_id: str
    name: str
    provider: Provider
    events: list[str]
    created_at: Moment
    updated_at: Moment
    secret: str | UnsetType | None = UNSET


class DeliveryQuery(msgspec.Struct):
    """Which deliveries."""

    state: Literal["waiting", "dead"] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=200)] = 50


class Delivery(msgspec.Struct, omit_defaults=True):
    """An event that a channel has not delivered: it is sent at ``due_at``, or ``dead``. ``answer`` is what came of the
    last of the ``attempts``."""

    id: str
    event: str
    timestamp: Moment
    state: Literal["waiting", "dead"]
    attempts: int
    taken_at: Moment
    answer: str | UnsetType = UNSET
    tried_at: Moment | UnsetType = UNSET
    due_at: Moment | UnsetType = UNSET
