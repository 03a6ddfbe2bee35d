"""An SMTP server on loopback that keeps what it is given."""

from __future__ import annotations

import base64
import email
import email.policy
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from email.message import EmailMessage
from functools import partial

import trio


@dataclass
class Letter:
    """A mail as it came in."""

    sender: str
    to: list[str]
    message: EmailMessage

    @property
    def text(self) -> str:
        text: str = self.message.get_content()
        return text.replace("\r\n", "\n")


@dataclass
class PostOffice:
    """The server. ``login`` is the only name and password that it takes; None takes mail from anybody. With
    ``starttls`` it takes none before the way is protected. While ``closed`` is set it takes none at all."""

    login: tuple[str, str] | None = None
    starttls: ssl.SSLContext | None = None
    closed: bool = False
    address: str = ""
    letters: list[Letter] = field(default_factory=list)
    _came: trio.Condition = field(default_factory=trio.Condition)

    async def next(self, count: int = 1) -> Letter:
        """Wait until there are so many letters, and return the last of them."""
        async with self._came:
            while len(self.letters) < count:
                await self._came.wait()
        return self.letters[count - 1]

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Talk to one client (RFC 5321)."""
        lines = _Lines(stream)
        known, protected = self.login is None, self.starttls is None
        sender, to = "", []
        await stream.send_all(b"220 here\r\n")
        while (line := await lines.next()) is not None:
            verb, _, rest = line.partition(" ")
            answer = "250 fine"
            match verb.upper():
                case "EHLO":
                    answer = "250-here\r\n250-STARTTLS\r\n250 AUTH PLAIN"
                case "AUTH":
                    _, user, password = base64.b64decode(rest.split()[1]).decode().split("\0")
                    known = (user, password) == self.login
                    answer = "235 welcome" if known else "535 no"
                case "STARTTLS" if self.starttls is not None:
                    await stream.send_all(b"220 go on\r\n")
                    stream = trio.SSLStream(stream, self.starttls, server_side=True)
                    lines, protected = _Lines(stream), True
                    continue
                case "MAIL" if self.closed or not known or not protected:
                    answer = "550 not now"
                case "MAIL":
                    sender, to = _address(rest), []
                case "RCPT":
                    to.append(_address(rest))
                case "DATA":
                    await stream.send_all(b"354 go on\r\n")
                    message = email.message_from_bytes(await lines.data(), policy=email.policy.default)
                    assert isinstance(message, EmailMessage)
                    async with self._came:
                        self.letters.append(Letter(sender, to, message))
                        self._came.notify_all()
                case "QUIT":
                    answer = "221 bye"
            await stream.send_all(answer.encode() + b"\r\n")
            if verb.upper() == "QUIT":
                return


class _Lines:
    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._buffer = b""

    async def next(self) -> str | None:
        line = await self._until(b"\r\n")
        return None if line is None else line.decode()

    async def data(self) -> bytes:
        found = await self._until(b"\r\n.\r\n")
        assert found is not None
        return found.replace(b"\r\n..", b"\r\n.") + b"\r\n"

    async def _until(self, end: bytes) -> bytes | None:
        while end not in self._buffer:
            more = await self._stream.receive_some()
            if not more:
                return None
            self._buffer += more
        found, _, self._buffer = self._buffer.partition(end)
        return found


def _address(text: str) -> str:
    return text[text.index("<") + 1 : text.index(">")]


@asynccontextmanager
async def post_office(
    *, login: tuple[str, str] | None = None, starttls: ssl.SSLContext | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[PostOffice]:
    """Run a server on a free port while the block runs; with ``tls`` it speaks that from the first byte on."""
    office = PostOffice(login, starttls)

    async def serve(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):  # the client went, or did not trust us
            await office.serve(stream if tls is None else trio.SSLStream(stream, tls, server_side=True))

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        office.address = f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        try:
            yield office
        finally:
            nursery.cancel_scope.cancel()
