"""Channels: where a team hears of what happens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

from msgspec import UNSET

from anvild.core.driver_context import host_name
from anvild.core.events import EventLog
from anvild.core.identity import Identity
from anvild.core.notify import Channel, Delivery, GuardedOutbound, Letter, Notifiers
from anvild.core.plugins import Plugins
from anvild.core.settings import Settings
from anvild.core.store import Store
from anvild.sdk import NotFound, Services
from anvild.web.api import Api
from anvild.web.metrics import Metrics
from anvild.web.request import Answer, Request

from ..channels import Channels
from ..ids import to_wire
from ..notices import Notices
from ..schemas import channels as wire
from .common import SESSION, actor_of, id_in_path, team_of

__all__ = ["add_channels"]

TAGS = ("channels",)
ABSENT = {404: "Channel not found"}
WRONG = {400: "The name, the provider, its configuration or the events are not as expected."}
TAKEN = {409: "The team has a channel of this name."}


def add_channels(api: Api, services: Services) -> Callable[[], Awaitable[None]]:
    """Add the operations on channels, and return what delivers behind them."""
    settings, store, box = services.get(Settings), services.get(Store), services.get(Identity).box
    notifiers = Notifiers(services.get(Plugins).notifiers(), GuardedOutbound(settings.notify.networks))
    notices = Notices(store)
    delivery = Delivery(store, services.get(EventLog), notifiers, box, notices.of, sender=host_name(settings))
    services.get(Metrics).watch("notify", delivery.statistics)
    channels = Channels(store, notifiers, box, notices)
    _add_channels(api, channels)
    _add_deliveries(api, channels)
    return delivery.run


def _add_channels(api: Api, channels: Channels) -> None:
    @api.post(
        "/channels",
        summary="Create a notification channel",
        description=(
            "It tells of what happens from now on to the team, or to the whole lab. Beside the events of the contract "
            "there are `run.passed`, `run.failed`, `device.lost` and `driver.quarantined`. The secret that its "
            "messages are signed with is in this answer and nowhere else."
        ),
        tags=TAGS,
        answers={201: wire.ChannelResponse},
        errors={**WRONG, **TAKEN},
        body=wire.CreateChannelRequest,
        action="channels:write",
        accepts=SESSION,
    )
    async def create_channel(request: Request) -> Answer:
        body: wire.CreateChannelRequest = request.body
        channel, secret = await channels.create(
            team_of(request), body.name, body.provider, body.config, body.events, actor_of(request)
        )
        return Answer(201, _shape(channel, secret), headers=[("cache-control", "no-store")])

    @api.get(
        "/channels",
        summary="List notification channels",
        tags=TAGS,
        answers={200: list[wire.ChannelResponse]},
        action="channels:read",
        accepts=SESSION,
    )
    async def list_channels(request: Request) -> list[wire.ChannelResponse]:
        return [_shape(channel) for channel in await channels.list(team_of(request))]

    @api.post(
        "/channels/test",
        summary="Test a channel configuration",
        description="Sends one notification and keeps nothing. An error says what the provider answered.",
        tags=TAGS,
        answers={200: wire.TestResult},
        errors={400: "The configuration is not as expected, or the provider did not take the notification."},
        body=wire.TestChannelRequest,
        action="channels:write",
        accepts=SESSION,
    )
    async def test_channel(request: Request) -> wire.TestResult:
        body: wire.TestChannelRequest = request.body
        await channels.test(body.provider, body.config)
        return wire.TestResult(status="ok")

    @api.get(
        "/channels/{id}",
        summary="Get a notification channel",
        tags=TAGS,
        answers={200: wire.ChannelResponse},
        errors=ABSENT,
        action="channels:read",
        accepts=SESSION,
    )
    async def get_channel(request: Request) -> wire.ChannelResponse:
        return _shape(await channels.get(team_of(request), id_in_path(request, "ch")))

    @api.patch(
        "/channels/{id}",
        summary="Update a notification channel",
        description="Other events are told of from now on; what has happened before is still delivered.",
        tags=TAGS,
        answers={200: wire.ChannelResponse},
        errors={**WRONG, **ABSENT, **TAKEN},
        body=wire.UpdateChannelRequest,
        action="channels:write",
        accepts=SESSION,
    )
    async def update_channel(request: Request) -> wire.ChannelResponse:
        body: wire.UpdateChannelRequest = request.body
        id_ = id_in_path(request, "ch")
        return _shape(await channels.update(team_of(request), id_, body.name, body.events, actor_of(request)))

    @api.delete(
        "/channels/{id}",
        summary="Delete a notification channel",
        description="With all that it has not delivered. One that is not there is gone as well.",
        tags=TAGS,
        answers={204: None},
        action="channels:write",
        accepts=SESSION,
    )
    async def delete_channel(request: Request) -> Answer:
        with suppress(NotFound):
            await channels.delete(team_of(request), id_in_path(request, "ch"), actor_of(request))
        return Answer(204)

    @api.put(
        "/channels/{id}/config",
        summary="Rotate channel secrets",
        description="What waits in the channel is sent at once, as it is configured now.",
        tags=TAGS,
        answers={200: wire.ChannelResponse},
        errors={**WRONG, **ABSENT},
        body=wire.RotateConfigRequest,
        action="channels:write",
        accepts=SESSION,
    )
    async def rotate_channel_config(request: Request) -> wire.ChannelResponse:
        body: wire.RotateConfigRequest = request.body
        id_ = id_in_path(request, "ch")
        return _shape(await channels.rotate(team_of(request), id_, body.config, actor_of(request)))


def _add_deliveries(api: Api, channels: Channels) -> None:
    @api.get(
        "/channels/{id}/deliveries",
        summary="List what a channel has not delivered",
        description="Newest event first: what waits to be sent, for the first time or again, and what was given up.",
        tags=TAGS,
        answers={200: list[wire.Delivery]},
        errors=ABSENT,
        query=wire.DeliveryQuery,
        action="channels:read",
        accepts=SESSION,
        contract=False,
    )
    async def list_deliveries(request: Request) -> list[wire.Delivery]:
        query: wire.DeliveryQuery = request.query
        id_ = id_in_path(request, "ch")
        found = await channels.undelivered(team_of(request), id_, state=query.state, limit=query.limit)
        return [_delivery(letter) for letter in found]

    @api.post(
        "/channels/{id}/deliveries/{delivery}/replay",
        summary="Send a delivery anew",
        description="At once, and then again for three days; one that was given up as well.",
        tags=TAGS,
        answers={202: wire.Delivery},
        errors={404: "Channel or delivery not found"},
        action="channels:write",
        accepts=SESSION,
        contract=False,
    )
    async def replay_delivery(request: Request) -> wire.Delivery:
        channel, letter = id_in_path(request, "ch"), id_in_path(request, "dlv", "delivery")
        return _delivery(await channels.replay(team_of(request), channel, letter, actor_of(request)))


def _shape(channel: Channel, secret: str | None = None) -> wire.ChannelResponse:
    return wire.ChannelResponse(
        id=to_wire("ch", channel.id),
        team_id=to_wire("team", channel.team_id),
        name=channel.name,
        provider=channel.provider,
        events=list(channel.kinds),
        created_at=channel.created_at,
        updated_at=channel.updated_at,
        secret=UNSET if secret is None else secret,
    )


def _delivery(letter: Letter) -> wire.Delivery:
    return wire.Delivery(
        id=to_wire("dlv", letter.id),
        event=letter.event.kind,
        timestamp=letter.event.at,
        state=letter.state,
        attempts=letter.attempts,
        taken_at=letter.taken_at,
        answer=UNSET if letter.answer is None else letter.answer,
        tried_at=UNSET if letter.tried_at is None else letter.tried_at,
        due_at=UNSET if letter.state == "dead" else letter.due_at,
    )
