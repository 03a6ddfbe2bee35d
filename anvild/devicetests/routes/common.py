"""What the routes share: who asks, within which team, and the words for errors that have a meaning of their own."""

from __future__ import annotations

from anvild.core.engine import Actor
from anvild.core.errors import Forbidden, InvalidRequest
from anvild.core.identity import Identity, Origin
from anvild.sdk import AnvilError
from anvild.web.errors import ErrorShape
from anvild.web.request import Request

__all__ = ["Errors", "actor_of", "device_cap", "origin_of", "team_of"]

_PLACES = {"body": "invalid_body", "query": "invalid_query", "path": "invalid_id"}


class Errors(ErrorShape):
    """The wing's errors: ``{"error": {"code", "message"}}``; the code of a malformed request tells its bad part.

    The contract knows one status for a body that is not as expected, so one of the wrong content type has it too.
    """

    def __init__(self) -> None:
        codes = {"cap_reached": (402, "device_cap_reached"), "unsupported_media_type": (400, "invalid_body")}
        super().__init__("envelope", codes=codes)

    def status_and_code(self, error: AnvilError | type[AnvilError]) -> tuple[int, str]:
        status, code = super().status_and_code(error)
        if isinstance(error, InvalidRequest):
            place = error.problems[0].field.partition(".")[0].partition("[")[0] if error.problems else "body"
            return status, _PLACES.get(place, "invalid_body")
        return status, code


def team_of(request: Request) -> str:
    """Return the team within which the caller acts. Raises Forbidden for a credential that belongs to none."""
    team_id = request.principal.team_id
    if team_id is None:
        raise Forbidden("this credential belongs to no team")
    return team_id


def actor_of(request: Request) -> Actor:
    """Return who acts, in the form that the engine notes."""
    principal = request.principal
    return Actor(actor=principal.actor, team_id=principal.team_id, ip=request.ip, user_agent=request.user_agent)


def origin_of(request: Request) -> Origin:
    """Return where the request comes from, in the form that identity notes."""
    return Origin(ip=request.ip, user_agent=request.user_agent)


async def device_cap(identity: Identity, team_id: str, default: int) -> int:
    """Return how many devices the team's plan allows it to register."""
    team = await identity.teams.get(team_id)
    return default if team.device_cap is None else team.device_cap
