"""What this interface says of errors: its own errors, and its codes for those of the floors below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import msgspec

from anvild.sdk import AnvilError
from anvild.web.errors import ErrorShape
from anvild.web.request import Answer

__all__ = [
    "AccountDisabled",
    "AccountNotActivated",
    "Errors",
    "HostHasCapsules",
    "InvalidState",
    "NameReserved",
    "ProviderNotFound",
    "TemplateNameTaken",
    "WrongPassword",
]

_CODES: Mapping[str, tuple[int, str]] = MappingProxyType(
    {
        "unauthenticated": (401, "unauthorized"),
        "permission_denied": (403, "forbidden"),
        "invalid_argument": (400, "invalid_request"),
        "unsupported_media_type": (400, "invalid_request"),
        "wrong_state": (409, "invalid_state"),
        "stale_lease": (409, "invalid_state"),
        "unavailable": (503, "host_unavailable"),
        "resource_exhausted": (503, "host_unavailable"),
        "capability_missing": (501, "agent_error"),
        "deadline_exceeded": (502, "agent_error"),
        "device_lost": (502, "agent_error"),
        "driver_fault": (502, "agent_error"),
        "internal": (500, "internal_error"),
    }
)

# Errors of the identity floor say in their detail ``reason`` what this interface has codes for.
_REASONS: Mapping[object, tuple[int, str]] = MappingProxyType(
    {
        "account_not_activated": (403, "account_deactivated"),
        "account_disabled": (403, "account_deactivated"),
        "already_activated": (400, "already_activated"),
        "email_taken": (409, "email_taken"),
        "invalid_token": (400, "invalid_token"),
        "last_login_method": (400, "last_login_method"),
        "no_team": (403, "no_team"),
        "owner": (403, "forbidden"),
        "owns_team_with_members": (409, "owns_team_with_members"),
        "signup_cooldown": (409, "signup_cooldown"),
    }
)


class Errors(ErrorShape):
    """The wing's errors: ``{"error": {"code", "message"}}``, by the codes of its contract."""

    def __init__(self) -> None:
        super().__init__("envelope", codes=_CODES)

    def status_and_code(self, error: AnvilError | type[AnvilError]) -> tuple[int, str]:
        reason = error.details.get("reason") if isinstance(error, AnvilError) else None
        return _REASONS.get(reason) or super().status_and_code(error)

    def render(self, error: AnvilError, *, instance: str = "") -> Answer:
        answer = super().render(error, instance=instance)
        if isinstance(error, HostHasCapsules):
            # The contract has the ids inside the error, and the published client looks for them beside it.
            told = {"code": error.code, "message": error.message, "sandbox_ids": error.capsules}
            answer.body = msgspec.json.encode({"error": told, "sandbox_ids": error.capsules})
        return answer


class AccountNotActivated(AnvilError):
    """The password is right, but the link in the mail has not been followed yet."""

    code = "account_not_activated"
    http = 403


class AccountDisabled(AnvilError):
    """The password is right, but an administrator has disabled the account."""

    code = "account_disabled"
    http = 403


class ProviderNotFound(AnvilError):
    """People cannot log in by this provider."""

    code = "provider_not_found"
    http = 404


class WrongPassword(AnvilError):
    """The current password, which confirms a change, is wrong."""

    code = "wrong_password"
    http = 401


class HostHasCapsules(AnvilError):
    """Capsules keep a host from being deleted; ``capsules`` are their ids as the interface shows them."""

    code = "host_has_sandboxes"
    http = 409

    def __init__(self, message: str, capsules: Sequence[str]) -> None:
        super().__init__(message)
        self.capsules = tuple(capsules)


class InvalidState(AnvilError):
    """What the operation is about is not in the state that it needs."""

    code = "invalid_state"
    http = 409


class NameReserved(AnvilError):
    """The name is that of a template that all teams see."""

    code = "name_reserved"
    http = 409


class TemplateNameTaken(AnvilError):
    """The team has a template of this name."""

    code = "template_name_taken"
    http = 409
