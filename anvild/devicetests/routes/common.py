"""What the routes share: who asks, within which team, and the words for errors that have a meaning of their own."""

from __future__ import annotations

from anvild.core.errors import InvalidRequest
from anvild.core.identity import Identity
from anvild.sdk import AnvilError
from anvild.web.callers import actor_of, origin_of, team_of
from anvild.web.errors import ErrorShape

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


async def device_cap(identity: Identity, team_id: str, default: int) -> int:
    """Return how many devices the team's plan allows it to register."""
    team = await identity.teams.get(team_id)
    return default if team.device_cap is None else team.device_cap
