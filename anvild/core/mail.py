"""Mail to people, handed to an SMTP server."""

from __future__ import annotations

import smtplib
import ssl
from email.errors import HeaderParseError
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from functools import partial

import trio

from anvild.sdk import AnvilError

from .errors import FieldProblem, InvalidRequest
from .settings import MailSettings

__all__ = ["Mail", "MailNotSent"]

_SECONDS = 20.0
_AT_A_TIME = 4
_PORTS = {"starttls": 587, "tls": 465, "none": 25}


class MailNotSent(AnvilError):
    """The mail server could not be reached, or did not take the mail."""

    code = "mail_not_sent"
    http = 502
    retry = True


class Mail:
    """Sends mail as the settings say, in threads."""

    def __init__(self, settings: MailSettings) -> None:
        self._settings = settings
        self._limiter = trio.CapacityLimiter(_AT_A_TIME)

    @property
    def configured(self) -> bool:
        """Whether there is a server to hand mail to."""
        return bool(self._settings.server)

    async def send(self, to: str, subject: str, text: str) -> None:
        """Hand one mail to the server; it returns when the server has taken it.

        Raises InvalidRequest for an address that no mail can go to, MailNotSent. Cancelling abandons the thread: the
        mail may go out nevertheless.
        """
        message = self._message(to, subject, text)
        try:
            await trio.to_thread.run_sync(
                partial(self._hand_over, message, to), limiter=self._limiter, abandon_on_cancel=True
            )
        except (smtplib.SMTPException, OSError) as error:
            raise MailNotSent(f"the mail server did not take the mail: {error}") from error

    def _message(self, to: str, subject: str, text: str) -> EmailMessage:
        message = EmailMessage()
        try:
            message["To"] = Address(addr_spec=to)
        except (HeaderParseError, ValueError, IndexError):
            expected = "an address that mail can be sent to"
            raise InvalidRequest(f"expected {expected}", (FieldProblem("body.email", expected),)) from None
        message["From"] = self._settings.sender
        message["Subject"] = subject
        message["Date"] = formatdate()
        message["Message-ID"] = make_msgid(domain="anvild")
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(text)
        return message

    def _hand_over(self, message: EmailMessage, to: str) -> None:
        settings = self._settings
        host, _, port = settings.server.partition(":")
        address = (host, int(port or _PORTS[settings.security]))
        server: smtplib.SMTP
        if settings.security == "tls":
            server = smtplib.SMTP_SSL(*address, timeout=_SECONDS, context=ssl.create_default_context())
        else:
            server = smtplib.SMTP(*address, timeout=_SECONDS)
        with server:
            if settings.security == "starttls":
                server.starttls(context=ssl.create_default_context())
            if settings.user:
                server.login(settings.user, settings.password)
            server.send_message(message, to_addrs=[to])
