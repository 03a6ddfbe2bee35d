"""The mails that people get about their accounts."""

from __future__ import annotations

import trio

from anvild.core.identity import Identity, SignUp
from anvild.core.identity.accounts import ACTIVATION_LIFETIME, RESET_LIFETIME
from anvild.core.logging import get_logger
from anvild.core.mail import Mail
from anvild.sdk import AnvilError

__all__ = ["Letters"]

_WAITING = 100

log = get_logger("letters")

# Whoever signed up may be somebody else than who reads this, so the letter holds no word of theirs.
WELCOME = """Hello,

to activate your account, open this page within {minutes} minutes:

{link}

If you did not sign up, do nothing: the account will not come to be.
"""

FORGOTTEN = """Hello {name},

somebody asked for a new password for your account. To set one, open this page within {minutes} minutes:

{link}

If that was not you, do nothing: your password stays as it is.
"""


class Letters:
    """Writes the letters and hands them to the mail server. ``pages`` is where their links lead to."""

    def __init__(self, mail: Mail, identity: Identity, *, pages: str) -> None:
        self._mail = mail
        self._identity = identity
        self._pages = pages
        self._asked, self._asking = trio.open_memory_channel[str](_WAITING)

    @property
    def possible(self) -> bool:
        """Whether mail can be sent at all."""
        return self._mail.configured

    async def welcome(self, new: SignUp) -> None:
        """Send the link that activates an account. Raises InvalidRequest, MailNotSent."""
        await self._send(new, "Activate your account", WELCOME, "activate", ACTIVATION_LIFETIME.total_seconds())

    def forgotten(self, email: str) -> None:
        """Send the link to a new password, if there is such an account.

        All that takes time is done later, by :meth:`run`, so that the answer does not tell whether there is one. When
        too many wait already it is not sent: people ask again.
        """
        try:
            self._asked.send_nowait(email)
        except trio.WouldBlock:
            log.warning("letter_dropped", reason="too many wait to be sent")

    async def run(self) -> None:
        """Send what :meth:`forgotten` was asked for, until cancelled. What waits then is not sent."""
        async for email in self._asking:
            try:
                found = await self._identity.accounts.forgot_password(email)
                if found is not None:
                    seconds = RESET_LIFETIME.total_seconds()
                    await self._send(found, "A new password", FORGOTTEN, "reset-password", seconds)
            except AnvilError as error:
                log.warning("letter_not_sent", reason=error.message)

    async def _send(self, to: SignUp, subject: str, text: str, page: str, seconds: float) -> None:
        assert to.user.email is not None
        link = f"{self._pages}/{page}?token={to.token}"
        await self._mail.send(
            to.user.email, subject, text.format(name=to.user.name, minutes=round(seconds / 60), link=link)
        )
