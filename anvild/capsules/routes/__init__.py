"""The wing's HTTP surface. Each module adds the operations of one subject."""

from __future__ import annotations

from typing import Any

import trio

from anvild.core.identity import Identity, Limits
from anvild.core.mail import Mail
from anvild.core.settings import Settings
from anvild.sdk import Mount, Services
from anvild.web.api import Api
from anvild.web.documents import add_document
from anvild.web.openapi import merge
from anvild.web.request import CookieNames

from ..errors import Errors
from ..github import Github
from ..letters import Letters
from .account import add_account, add_signup
from .auth import add_auth
from .channels import add_channels
from .common import SECURITY
from .keys import add_keys
from .machines import add_machines
from .oauth import add_oauth, add_providers
from .teams import add_members, add_teams
from .users import add_users

__all__ = ["make_mounts"]

TITLE, VERSION = "Wrenn API", "0.2.0"
DESCRIPTION = """Capsules: machines made to order, and the people and teams that they belong to.

**Authentication.** A session, set by `POST /v1/auth/login`, or for capsules, snapshots and events an API key as
`X-API-Key`. Requests of a session that change something send the cookie `wrenn_csrf` again as `X-CSRF-Token`.
Operations marked `x-beyond-contract` are this daemon's own.
"""


def make_mounts(services: Services) -> list[Mount]:
    """Build the wing on the daemon's services. Raises LookupError where one of them is missing."""
    settings = services.get(Settings)
    identity = services.get(Identity)
    api, oauth = (_api(name, prefix, services) for name, prefix in (("capsules", "/v1"), ("oauth", "/auth/oauth")))
    letters = Letters(Mail(settings.mail), identity, pages=settings.frontend)
    add_auth(api, identity)
    add_signup(api, identity, letters)
    add_account(api, identity, services.get(Limits), letters)
    github = Github(settings.github, callback=f"{settings.address}{oauth.prefix}/github/callback")
    add_oauth(oauth, identity, github, pages=settings.frontend)
    add_providers(api, identity, github)
    add_teams(api, identity)
    add_members(api, identity)
    add_users(api, identity)
    add_keys(api, identity)
    machines, beside = add_machines(api, services)
    deliver = add_channels(api, services)
    add_document(api, lambda: _document(api, oauth), tags=("documents",))

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(letters.run)
            nursery.start_soon(machines)
            nursery.start_soon(deliver)

    return [api.mount(run=run), oauth.mount(), *beside]


def _api(name: str, prefix: str, services: Services) -> Api:
    return Api(
        name=name,
        prefix=prefix,
        title=TITLE,
        version=VERSION,
        description=DESCRIPTION,
        errors=Errors(),
        services=services,
        cookies=CookieNames(session="wrenn_sid", csrf="wrenn_csrf"),
        security=SECURITY,
        max_body=services.get(Settings).web.max_body,
    )


def _document(*apis: Api) -> dict[str, Any]:
    return merge({each.name: each.openapi() for each in apis}, title=TITLE, version=VERSION)
