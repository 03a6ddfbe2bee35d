"""What arrives at each provider, held against what the provider documents; and what its answers mean."""

from __future__ import annotations

import html
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest
import trio
from jsonschema import Draft202012Validator

from anvild.core.errors import InvalidRequest
from anvild.core.notify import Notifiers
from anvild.sdk import InvalidArgument, Notice, Outbound, Unavailable
from anvild_apprise.notifiers import NOTIFIERS
from tests.support.receiver import Got, Receiver, Said

TITLE = "Capsule created"
TEXT = "sandbox: cl-1\ntemplate: a_b*c\nby: @everyone & <!channel>"
BOT = "123456789:AAabcdefghijklmnopqrstuvwxyz_123456"
WORKFLOW = (
    "https://prod-15.uksouth.logic.azure.com:443/workflows/3a5f/triggers/manual/paths/invoke"
    "?api-version=2016-06-01&sp=%2Ftriggers%2Fmanual%2Frun&sv=1.0&sig=abc-DEF_123"
)
CONFIGS = {
    "discord": {"webhook_url": "https://discord.com/api/webhooks/123456789012345678/abc-DEF_123"},
    "slack": {"webhook_url": "https://hooks.slack.com/services/T0000000/B0000000/abcDEF123abcDEF123abcDEF"},
    "teams": {"webhook_url": WORKFLOW},
    "googlechat": {"webhook_url": "https://chat.googleapis.com/v1/spaces/AAAA/messages?key=the-key&token=the_token"},
    "telegram": {"bot_token": BOT, "chat_id": "-100123456"},
    "matrix": {
        "homeserver_url": "https://matrix.example.org",
        "access_token": "syt_a_token",
        "room_id": "!room:example.org",
    },
}


def notice(number: int = 1, text: str = TEXT) -> Notice:
    return Notice(id=f"msg_{number}", kind="capsule.create", at=datetime.now(UTC), title=TITLE, text=text)


@pytest.fixture
def notifiers(outbound: Outbound) -> Notifiers:
    return Notifiers({each.name: each for each in NOTIFIERS}, outbound)


async def sent(notifiers: Notifiers, name: str, what: Notice | None = None) -> str:
    return await notifiers.send(name, notifiers.check(name, CONFIGS[name]), what or notice())


def fits(body: Any, schema: dict[str, Any]) -> None:
    Draft202012Validator(schema).validate(body)


def calls_nobody(text: str) -> None:
    for mention in ("@everyone", "<!channel>", "&lt;!channel&gt;"):
        assert mention not in text


async def test_discord(notifiers: Notifiers, provider: Receiver) -> None:
    """Execute Webhook: content of at most 2000 characters; 204 without a body."""
    provider.answer = Said(204, b"")
    assert await sent(notifiers, "discord") == "204 No Content"
    (got,) = provider.got
    assert (got.method, got.headers["host"]) == ("POST", "discord.com")
    assert got.path == "/api/webhooks/123456789012345678/abc-DEF_123"
    assert got.headers["content-type"].startswith("application/json")
    fits(
        got.json,
        {
            "type": "object",
            "required": ["content"],
            "properties": {
                "content": {"type": "string", "minLength": 1, "maxLength": 2000},
                "tts": {"const": False},
                "avatar_url": False,
            },
        },
    )
    assert TITLE in got.json["content"]
    assert "sandbox: cl-1" in got.json["content"]
    calls_nobody(got.json["content"])


async def test_slack(notifiers: Notifiers, provider: Receiver) -> None:
    """Incoming webhooks: blocks of plain text; the answer is the text ``ok``."""
    provider.answer = Said(200, b"ok", {"content-type": "text/html"})
    assert await sent(notifiers, "slack") == "200 OK: ok"
    (got,) = provider.got
    assert (got.method, got.headers["host"]) == ("POST", "hooks.slack.com")
    assert got.path == "/services/T0000000/B0000000/abcDEF123abcDEF123abcDEF"
    text = {
        "type": "object",
        "required": ["type", "text"],
        "properties": {"type": {"const": "plain_text"}, "text": {"type": "string", "minLength": 1, "maxLength": 3000}},
    }
    block = {
        "type": "object",
        "required": ["type", "text"],
        "properties": {"type": {"enum": ["header", "section"]}, "text": text},
    }
    (attachment,) = got.json["attachments"]
    fits(attachment, {"type": "object", "properties": {"blocks": {"type": "array", "minItems": 1, "items": block}}})
    head, body = attachment["blocks"]
    assert (head["type"], head["text"]["text"]) == ("header", TITLE)
    assert len(TITLE) <= 150
    assert "template: a_b*c" in body["text"]["text"]
    calls_nobody(body["text"]["text"])


async def test_teams(notifiers: Notifiers, provider: Receiver) -> None:
    """The trigger of a Workflow: a message with one adaptive card; 202 without a body."""
    provider.answer = Said(202, b"")
    assert await sent(notifiers, "teams") == "202 Accepted"
    (got,) = provider.got
    assert (got.method, got.headers["host"]) == ("POST", "prod-15.uksouth.logic.azure.com:443")
    assert got.path == "/workflows/3a5f/triggers/manual/paths/invoke"
    assert got.query == {
        "api-version": "2016-06-01",
        "sp": "/triggers/manual/run",
        "sv": "1.0",
        "sig": "abc-DEF_123",
    }
    element = {
        "type": "object",
        "required": ["type", "text"],
        "properties": {"type": {"const": "TextBlock"}, "text": {"type": "string", "minLength": 1}},
    }
    card = {
        "type": "object",
        "required": ["type", "version", "body"],
        "properties": {
            "type": {"const": "AdaptiveCard"},
            "version": {"enum": ["1.2", "1.3", "1.4", "1.5"]},
            "body": {"type": "array", "minItems": 2, "items": element},
        },
    }
    attachment = {
        "type": "object",
        "required": ["contentType", "content"],
        "properties": {"contentType": {"const": "application/vnd.microsoft.card.adaptive"}, "content": card},
    }
    fits(
        got.json,
        {
            "type": "object",
            "required": ["type", "attachments"],
            "properties": {
                "type": {"const": "message"},
                "attachments": {"type": "array", "minItems": 1, "maxItems": 1, "items": attachment},
            },
        },
    )
    head, body = got.json["attachments"][0]["content"]["body"]
    assert head["text"] == TITLE
    assert "sandbox:" in body["text"]
    assert len(got.body) < 28 * 1024


async def test_google_chat(notifiers: Notifiers, provider: Receiver) -> None:
    """spaces.messages.create by webhook: a text of at most 4096 bytes; the answer is the message."""
    provider.answer = Said(200, b'{"name": "spaces/AAAA/messages/1"}')
    await sent(notifiers, "googlechat")
    (got,) = provider.got
    assert (got.method, got.headers["host"], got.path) == ("POST", "chat.googleapis.com", "/v1/spaces/AAAA/messages")
    assert got.query == {"key": "the-key", "token": "the_token"}
    fits(
        got.json,
        {
            "type": "object",
            "required": ["text"],
            "additionalProperties": False,
            "properties": {"text": {"type": "string", "minLength": 1, "maxLength": 4096}},
        },
    )
    assert TITLE in got.json["text"]
    calls_nobody(got.json["text"])


class _Tags(HTMLParser):
    """The tags of a text and the text without them."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


async def test_telegram(notifiers: Notifiers, provider: Receiver) -> None:
    """sendMessage: a text of 1 to 4096 characters, in the HTML that the Bot API knows."""
    provider.answer = Said(200, b'{"ok": true, "result": {"message_id": 1}}')
    await sent(notifiers, "telegram")
    (got,) = provider.got
    assert (got.method, got.headers["host"], got.path) == ("POST", "api.telegram.org", f"/bot{BOT}/sendMessage")
    fits(
        got.json,
        {
            "type": "object",
            "required": ["chat_id", "text"],
            "properties": {
                "chat_id": {"const": -100123456},
                "text": {"type": "string", "minLength": 1, "maxLength": 4096},
                "parse_mode": {"const": "HTML"},
                "disable_notification": {"type": "boolean"},
            },
        },
    )
    tags = _Tags()
    tags.feed(got.json["text"])
    assert tags.tags <= {"b", "i", "u", "s", "a", "code", "pre"}
    assert TITLE in tags.text
    assert "template: a_b*c" in html.unescape(tags.text)


class Homeserver:
    """The parts of the client-server API that a message needs. It takes each transaction once."""

    def __init__(self) -> None:
        self.messages: dict[str, Any] = {}

    async def __call__(self, got: Got) -> Said:
        if got.headers.get("authorization") != "Bearer syt_a_token":
            return Said(401, b'{"errcode": "M_UNKNOWN_TOKEN", "error": "Unrecognised access token"}')
        if (got.method, got.path) == ("GET", "/_matrix/client/v3/account/whoami"):
            return Said(200, b'{"user_id": "@lab:example.org", "device_id": "LAB"}')
        if (got.method, got.path) == ("POST", "/_matrix/client/v3/join/!room:example.org"):
            return Said(200, b'{"room_id": "!room:example.org"}')
        head = "/_matrix/client/v3/rooms/!room:example.org/send/m.room.message/"
        if got.method == "PUT" and got.path.startswith(head):
            self.messages.setdefault(got.path.removeprefix(head), got.json)
            return Said(200, b'{"event_id": "$event"}')
        return Said(404, b'{"errcode": "M_NOT_FOUND", "error": "Unknown"}')


async def test_matrix(notifiers: Notifiers, provider: Receiver) -> None:
    """PUT …/send/m.room.message/TXN: a repetition has the same transaction, so the room sees it once."""
    server = provider.answer = Homeserver()
    await sent(notifiers, "matrix")
    await sent(notifiers, "matrix")
    await sent(notifiers, "matrix", notice(2))
    assert {got.headers["host"] for got in provider.got} == {"matrix.example.org"}
    assert list(server.messages) == ["msg_1", "msg_2"]
    message = {
        "type": "object",
        "required": ["msgtype", "body"],
        "properties": {"msgtype": {"enum": ["m.text", "m.notice"]}, "body": {"type": "string", "minLength": 1}},
    }
    for each in server.messages.values():
        fits(each, message)
        assert TITLE in each["body"]
        assert "sandbox: cl-1" in each["body"]


OK = {"slack": b"ok", "telegram": b'{"ok": true}', "googlechat": b"{}", "discord": b"{}", "teams": b""}


@pytest.mark.parametrize("name", OK)
async def test_a_long_text_is_one_message(name: str, notifiers: Notifiers, provider: Receiver) -> None:
    provider.answer = Said(200, OK[name])
    await sent(notifiers, name, notice(text="<*_&@>\n" * 5000))
    assert len(provider.got) == 1


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(
    ("status", "body", "headers", "wait"),
    [
        (500, b"broken", {}, None),
        (404, b'{"description": "chat not found"}', {}, None),
        (429, b"", {"retry-after": "17"}, 17.0),
        (429, b'{"message": "You are being rate limited.", "retry_after": 1.5, "global": false}', {}, 1.5),
        (429, b'{"ok": false, "error_code": 429, "parameters": {"retry_after": 35}}', {}, 35.0),
        (429, b'{"errcode": "M_LIMIT_EXCEEDED", "retry_after_ms": 2000}', {}, 2.0),
    ],
)
async def test_what_is_refused_for_now_is_told_with_the_answer(
    name: str,
    status: int,
    body: bytes,
    headers: dict[str, str],
    wait: float | None,
    notifiers: Notifiers,
    provider: Receiver,
) -> None:
    provider.answer = Said(status, body, headers)
    with pytest.raises(Unavailable, match=f"answered {status} ") as caught:
        await sent(notifiers, name)
    assert caught.value.details.get("retry_after") == wait
    assert len(provider.got) == 1


@pytest.mark.parametrize("name", CONFIGS)
async def test_what_is_never_taken_is_told_as_final(name: str, notifiers: Notifiers, provider: Receiver) -> None:
    provider.answer = Said(400, b"no such field")
    with pytest.raises(InvalidArgument, match="400 Bad Request: no such field"):
        await sent(notifiers, name)


async def test_a_no_with_status_200_is_a_no(notifiers: Notifiers, provider: Receiver) -> None:
    provider.answer = Said(200, b"no_service")
    with pytest.raises(Unavailable, match="answered 200 OK: no_service"):
        await sent(notifiers, "slack")


async def test_a_provider_that_hangs_is_left(notifiers: Notifiers, provider: Receiver) -> None:
    """The thread comes back with the cancelled task: none is left behind."""
    hanging = trio.Event()

    async def hang(got: Got) -> Said:
        hanging.set()
        await trio.sleep_forever()

    provider.answer = hang
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sent, notifiers, "discord")
        await hanging.wait()
        nursery.cancel_scope.cancel()


WRONG = {
    "discord": {"webhook_url": "https://discord.com.example.org/api/webhooks/1/a"},
    "slack": {"webhook_url": "http://hooks.slack.com/services/T0/B0/x"},
    "teams": {"webhook_url": "https://example.webhook.office.com/webhookb2/x"},
    "googlechat": {"webhook_url": "https://chat.googleapis.com/v1/spaces/A/messages?key=k"},
    "telegram": {"bot_token": "x", "chat_id": "1"},
    "matrix": {"homeserver_url": "https://matrix.example.org/path", "access_token": "t", "room_id": "!r:x"},
}


@pytest.mark.parametrize("name", WRONG)
async def test_a_wrong_configuration_is_refused_with_what_was_expected(name: str, notifiers: Notifiers) -> None:
    with pytest.raises(InvalidRequest) as caught:
        notifiers.check(name, WRONG[name])
    (problem,) = caught.value.problems
    assert problem.field.startswith("body.config")
    for field in CONFIGS[name]:
        less = {key: value for key, value in CONFIGS[name].items() if key != field}
        with pytest.raises(InvalidRequest):
            notifiers.check(name, less)
    with pytest.raises(InvalidRequest):
        notifiers.check(name, {**CONFIGS[name], "more": "x"})
    assert msgspec.json.encode(notifiers.check(name, CONFIGS[name])) == msgspec.json.encode(CONFIGS[name])
