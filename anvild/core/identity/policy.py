"""Who may do what: one table, and two functions that read it.

An action is ``noun:verb``. A rule says from which role on it is allowed, and to which other kinds of principals. The
scopes of an API key and the abilities of a personal token are actions too; they narrow the role and never widen it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import msgspec

from anvild.core.errors import FieldProblem, Forbidden, InvalidRequest
from anvild.sdk import NotFound

from .values import LAB_ROLES, ROLES, LabRole, Owned, Principal, PrincipalKind, Role

__all__ = ["POLICY", "Rule", "check_scopes", "covers", "may", "require"]


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """What one action needs: a role in the team, or a role in the lab, or to be the platform's admin.

    ``team`` and ``lab`` are the least role that will do; either is enough. ``kinds`` names principals beside people
    and keys that may do it whatever their role.
    """

    team: Role | None = None
    lab: LabRole | None = None
    kinds: tuple[PrincipalKind, ...] = ()


_MEMBER = Rule(team="member")
_MANAGER = Rule(team="admin")
_OWNER = Rule(team="owner")
_ADMIN = Rule()

POLICY: Mapping[str, Rule] = MappingProxyType(
    {
        "runs:read": _MEMBER,
        "runs:write": _MEMBER,
        "artifacts:read": _MEMBER,
        "artifacts:write": _MEMBER,
        "events:read": _MEMBER,
        "devices:read": _MEMBER,
        "devices:write": _MEMBER,
        "devices:use": _MEMBER,
        "devices:connect": Rule(team="member", kinds=("device",)),
        "capsules:read": _MEMBER,
        "capsules:write": _MEMBER,
        "templates:read": _MEMBER,
        "templates:write": _MEMBER,
        "keys:read": _MEMBER,
        "keys:write": _MEMBER,
        "audit:read": _MEMBER,
        "team:read": _MEMBER,
        "team:write": _MANAGER,
        "team:delete": _OWNER,
        "members:read": _MEMBER,
        "members:write": _MANAGER,
        "channels:read": _MEMBER,
        "channels:write": _MANAGER,
        "hosts:read": _MEMBER,
        "hosts:write": _MANAGER,
        "hosts:connect": Rule(kinds=("host",)),
        "lab:read": Rule(lab="viewer"),
        "lab:operate": Rule(lab="operator"),
        "lab:admin": Rule(lab="admin"),
        "admin:read": _ADMIN,
        "admin:write": _ADMIN,
    }
)
"""All actions. Asking for one that is not here is a defect of the caller."""

_READING = ("read", "use")


def covers(scopes: Iterable[str], action: str) -> bool:
    """Say whether one of the scopes holds the action: by its name, as ``noun:*``, or as ``*``."""
    noun = action.partition(":")[0]
    return any(scope in ("*", action, f"{noun}:*") for scope in scopes)


def check_scopes(scopes: Iterable[str], *, field: str = "body.scopes") -> tuple[str, ...]:
    """Return the scopes without repetitions, in their order.

    Raises InvalidRequest naming an unknown one and all that are known.
    """
    wanted = tuple(dict.fromkeys(scopes))
    nouns = dict.fromkeys(action.partition(":")[0] for action in POLICY)
    known = ("*", *(f"{noun}:*" for noun in nouns), *POLICY)
    for scope in wanted:
        if scope not in known:
            raise InvalidRequest(
                f"there is no scope {scope!r}; the known ones are {', '.join(known)}",
                (FieldProblem(field, f"one of {', '.join(known)}"),),
            )
    return wanted


def may(principal: Principal, action: str, obj: Owned | None = None) -> bool:
    """Say whether the principal may do the action, and to this object when one is given.

    Raises LookupError for an action that the table lacks.
    """
    return _role_allows(principal, action) and (obj is None or _reaches(principal, action, obj))


def require(principal: Principal, action: str, obj: Owned | None = None) -> None:
    """Return when the principal may do the action.

    Raises Forbidden when it may not do such a thing at all, NotFound when the object belongs to another team: what is
    foreign looks missing.
    """
    if obj is not None and not _sees(principal, action, obj):
        raise NotFound("there is no such object")
    if not may(principal, action, obj):
        reason = {"reason": "no_team"} if principal.team_id is None and POLICY[action].team is not None else {}
        raise Forbidden(f"this credential may not do {action}", action=action, **reason)


def _role_allows(principal: Principal, action: str) -> bool:
    try:
        rule = POLICY[action]
    except KeyError:
        raise LookupError(f"the policy has no action {action!r}") from None
    if principal.kind == "system":
        return True
    if principal.scopes is not None and not covers(principal.scopes, action):
        return False
    if principal.kind in rule.kinds:
        return True
    if rule.team is not None and principal.role is not None:
        return ROLES.index(principal.role) >= ROLES.index(rule.team)
    if rule.lab is not None:
        return _lab_rank(principal) >= LAB_ROLES.index(rule.lab)
    return rule.team is None and not rule.kinds and principal.is_admin


def _lab_rank(principal: Principal) -> int:
    if principal.is_admin:
        return len(LAB_ROLES) - 1
    return -1 if principal.lab_role is None else LAB_ROLES.index(principal.lab_role)


def _sees(principal: Principal, action: str, obj: Owned) -> bool:
    """Whether the object exists for this principal: it is its team's own, or shared, or the question is the lab's."""
    rule = POLICY[action] if action in POLICY else Rule()
    across = principal.kind == "system" or (rule.team is None and _role_allows(principal, action))
    return across or obj.team_id is None or obj.team_id == principal.team_id


def _reaches(principal: Principal, action: str, obj: Owned) -> bool:
    """What a team owns, the team changes. What the lab shares, all may read and use, and operators change."""
    if not _sees(principal, action, obj):
        return False
    if obj.team_id is not None or action.partition(":")[2] in _READING:
        return True
    return _lab_rank(principal) >= LAB_ROLES.index("operator") or principal.kind == "system"
