"""The six notifiers. Each knows the form of its configuration and which service of apprise it is."""

from __future__ import annotations

import re
from abc import abstractmethod
from typing import Annotated, Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import msgspec

from anvild.sdk import Notice, Notifier

from .bridge import deliver

__all__ = ["NOTIFIERS"]

LONGEST = 1500
"""Characters of a text. No service splits one of this length, so that a notice is one message."""

Short = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]


class _Link(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Configuration by the URL that the provider shows for an incoming webhook."""

    webhook_url: Annotated[str, msgspec.Meta(max_length=2048)]

    form: ClassVar[re.Pattern[str]]
    expected: ClassVar[str]

    def __post_init__(self) -> None:
        if not self.form.fullmatch(self.webhook_url):
            raise ValueError(f"expected {self.expected}")

    @property
    def parts(self) -> dict[str, str]:
        """The parts of the URL that the form names, and its query."""
        match = self.form.fullmatch(self.webhook_url)
        assert match is not None
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.webhook_url).query).items()}
        return {**query, **match.groupdict(default="")}


class DiscordConfig(_Link, frozen=True):
    """A webhook of a Discord channel."""

    form = re.compile(
        r"https://(?:(?:ptb|canary)\.)?discord(?:app)?\.com/api(?:/v\d+)?/webhooks/(?P<id>\d+)/(?P<token>[\w-]+)/?"
    )
    expected = "https://discord.com/api/webhooks/ID/TOKEN"


class SlackConfig(_Link, frozen=True):
    """An incoming webhook of Slack."""

    form = re.compile(r"https://hooks\.slack\.com/services/(?P<a>[A-Z0-9]+)/(?P<b>[A-Z0-9]+)/(?P<c>[A-Za-z0-9]+)/?")
    expected = "https://hooks.slack.com/services/T…/B…/…"


class TeamsConfig(_Link, frozen=True):
    """A webhook of a Workflow of Microsoft Teams: the older connectors are no more."""

    form = re.compile(
        r"https://[\w.-]+(?::\d+)?(?:/powerautomate/automations/direct(?:/cu/\d+)?)?/workflows/[\w-]+"
        r"/triggers/manual/paths/invoke/?\?\S*\bsig=\S+"
    )
    expected = "https://HOST/workflows/ID/triggers/manual/paths/invoke?…&sig=SIGNATURE"


class GoogleChatConfig(_Link, frozen=True):
    """A webhook of a space of Google Chat."""

    form = re.compile(
        r"https://chat\.googleapis\.com/v1/spaces/(?P<space>[\w-]+)/messages\?(?=\S*\bkey=)\S*\btoken=\S+"
    )
    expected = "https://chat.googleapis.com/v1/spaces/SPACE/messages?key=KEY&token=TOKEN"


class TelegramConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A bot of Telegram and the chat that it writes to."""

    bot_token: Annotated[str, msgspec.Meta(pattern=r"^\d+:[\w-]{10,100}$")]
    chat_id: Annotated[str, msgspec.Meta(pattern=r"^(-?\d{1,32}|@[A-Za-z]\w{3,64})$")]


class MatrixConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A user of a Matrix server, by token, and the room that they write to."""

    homeserver_url: Annotated[str, msgspec.Meta(pattern=r"^https?://[\w.-]+(:\d{1,5})?/?$")]
    access_token: Short
    room_id: Annotated[str, msgspec.Meta(pattern=r"^[!#][\w.=-]{1,200}(:[\w.-]{1,200})?$")]


class _AppriseNotifier(Notifier):
    """What the six share."""

    async def send(self, config: Any, notice: Notice) -> str:
        def make(apprise: Any) -> Any:
            return self.service(apprise, config, notice)

        return await deliver(self.outbound, make, _plain(notice.title), _plain(notice.text))

    @abstractmethod
    def service(self, apprise: Any, config: Any, notice: Notice) -> Any:
        """Make the service that writes the message. Called in a thread."""


class DiscordNotifier(_AppriseNotifier):
    """Writes into a Discord channel."""

    name = "discord"
    config_type = DiscordConfig

    def service(self, apprise: Any, config: DiscordConfig, notice: Notice) -> Any:
        parts = config.parts
        kind = apprise.plugins.discord.NotifyDiscord
        return kind(webhook_id=parts["id"], webhook_token=parts["token"], avatar=False)


class SlackNotifier(_AppriseNotifier):
    """Writes into a Slack channel."""

    name = "slack"
    config_type = SlackConfig

    def service(self, apprise: Any, config: SlackConfig, notice: Notice) -> Any:
        parts = config.parts
        tokens = {f"token_{part}": parts[part] for part in ("a", "b", "c")}
        return apprise.plugins.slack.NotifySlack(
            **tokens, targets=None, include_image=False, include_footer=False, use_blocks=True
        )


class TeamsNotifier(_AppriseNotifier):
    """Writes into a channel or chat of Microsoft Teams, as an adaptive card."""

    name = "teams"
    config_type = TeamsConfig

    def service(self, apprise: Any, config: TeamsConfig, notice: Notice) -> Any:
        kind = apprise.plugins.workflows.NotifyWorkflows
        return kind(**{**kind.parse_native_url(config.webhook_url), "include_image": False})


class GoogleChatNotifier(_AppriseNotifier):
    """Writes into a space of Google Chat."""

    name = "googlechat"
    config_type = GoogleChatConfig

    def service(self, apprise: Any, config: GoogleChatConfig, notice: Notice) -> Any:
        parts = config.parts
        return apprise.plugins.google_chat.NotifyGoogleChat(
            workspace=parts["space"], webhook_key=parts["key"], webhook_token=parts["token"]
        )


class TelegramNotifier(_AppriseNotifier):
    """Writes into a Telegram chat."""

    name = "telegram"
    config_type = TelegramConfig

    def service(self, apprise: Any, config: TelegramConfig, notice: Notice) -> Any:
        kind = apprise.plugins.telegram.NotifyTelegram
        return kind(bot_token=config.bot_token, targets=[config.chat_id], detect_owner=False, include_image=False)


class MatrixNotifier(_AppriseNotifier):
    """Writes into a Matrix room. The server takes the same notice once."""

    name = "matrix"
    config_type = MatrixConfig

    def service(self, apprise: Any, config: MatrixConfig, notice: Notice) -> Any:
        server = urlsplit(config.homeserver_url)
        service = apprise.plugins.matrix.NotifyMatrix(
            host=server.hostname,
            port=server.port,
            secure=server.scheme == "https",
            password=config.access_token,
            targets=[config.room_id],
            discovery=False,
            e2ee=False,
            include_image=False,
        )
        # By the token from the start, and a repetition under the same id: the server then knows it for one.
        service.access_token = config.access_token
        service.transaction_id = notice.id
        return service


NOTIFIERS: list[type[Notifier]] = [
    DiscordNotifier,
    SlackNotifier,
    TeamsNotifier,
    GoogleChatNotifier,
    TelegramNotifier,
    MatrixNotifier,
]


def _plain(text: str) -> str:
    """Return a text that calls nobody: what users named must not become a mention."""
    short = text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
    return short.replace("@", "@\u200b").replace("<", "<\u200b")
