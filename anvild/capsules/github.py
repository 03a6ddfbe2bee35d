"""Logging in with GitHub: OAuth 2, the web application flow."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import httpx2
import msgspec

from anvild.core.settings import GithubSettings
from anvild.sdk import AnvilError

__all__ = ["ExchangeFailed", "Github", "Profile"]

_SECONDS = 10.0
_SCOPE = "read:user user:email"


class ExchangeFailed(AnvilError):
    """GitHub did not say who somebody is."""

    code = "exchange_failed"
    http = 502


class Profile(msgspec.Struct, frozen=True):
    """Who somebody is there. ``email`` is their primary address, which GitHub has checked."""

    subject: str
    name: str
    email: str


class Github:
    """What GitHub is asked. ``callback`` is the address that it sends people back to."""

    name = "github"

    def __init__(self, settings: GithubSettings, *, callback: str) -> None:
        self._settings = settings
        self._callback = callback

    @property
    def configured(self) -> bool:
        """Whether there is an app to log in through."""
        return bool(self._settings.client_id)

    def authorization_url(self, state: str) -> str:
        """Return the page where a person allows the login. It sends them back with ``state`` and a code."""
        query = {
            "client_id": self._settings.client_id,
            "redirect_uri": self._callback,
            "scope": _SCOPE,
            "state": state,
        }
        return f"{self._settings.url.rstrip('/')}/login/oauth/authorize?{urlencode(query)}"

    async def profile(self, code: str) -> Profile:
        """Return who somebody is who came back with this code. It is good once. Raises ExchangeFailed."""
        settings, api = self._settings, self._settings.api_url.rstrip("/")
        try:
            async with httpx2.AsyncClient(timeout=_SECONDS, headers={"Accept": "application/json"}) as client:
                answer = await client.post(
                    f"{settings.url.rstrip('/')}/login/oauth/access_token",
                    data={
                        "client_id": settings.client_id,
                        "client_secret": settings.client_secret,
                        "code": code,
                        "redirect_uri": self._callback,
                    },
                )
                # A code that is not good is answered with 200 and an error in the place of the token.
                token = _json(answer, _Token).access_token
                client.headers["Authorization"] = f"Bearer {token}"
                user = _json(await client.get(f"{api}/user"), _User)
                addresses = _json(await client.get(f"{api}/user/emails"), list[_Address])
        except (httpx2.HTTPError, msgspec.MsgspecError) as error:
            raise ExchangeFailed(f"GitHub did not say who this is: {type(error).__name__}") from error
        email = next((each.email for each in addresses if each.primary and each.verified), None)
        if email is None:
            raise ExchangeFailed("this account at GitHub has no address that is checked")
        name = "".join(each for each in user.name or "" if each.isprintable()).strip()
        return Profile(subject=str(user.id), name=name[:100] or user.login, email=email)


class _Token(msgspec.Struct):
    access_token: str


class _User(msgspec.Struct):
    id: int
    login: str
    name: str | None = None


class _Address(msgspec.Struct):
    email: str
    primary: bool
    verified: bool


def _json(answer: httpx2.Response, kind: Any) -> Any:
    answer.raise_for_status()
    return msgspec.json.decode(answer.content, type=kind)
