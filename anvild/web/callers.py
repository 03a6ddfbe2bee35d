"""Who asks, in the forms that the services below take."""

from __future__ import annotations

from anvild.core.engine import Actor
from anvild.core.errors import Forbidden
from anvild.core.identity import Origin

from .request import Request

__all__ = ["actor_of", "origin_of", "team_of"]


def team_of(request: Request) -> str:
    """Return the team within which the caller acts. Raises Forbidden, with the detail ``reason`` ``no_team``, for a
    credential that belongs to none."""
    team_id = request.principal.team_id
    if team_id is None:
        raise Forbidden("this credential belongs to no team", reason="no_team")
    return team_id


def actor_of(request: Request) -> Actor:
    """Return who acts, in the form that the engine notes."""
    principal = request.principal
    return Actor(actor=principal.actor, team_id=principal.team_id, ip=request.ip, user_agent=request.user_agent)


def origin_of(request: Request) -> Origin:
    """Return where the request comes from, in the form that identity notes."""
    return Origin(ip=request.ip, user_agent=request.user_agent)
