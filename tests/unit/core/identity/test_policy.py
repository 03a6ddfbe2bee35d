"""The policy: every action, for every kind of principal, on own, foreign and shared objects."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from anvild.core.errors import Forbidden, InvalidRequest
from anvild.core.identity import POLICY, SYSTEM, Principal, Role, check_scopes, covers, may, require
from anvild.core.identity.values import LAB_ROLES, ROLES
from anvild.sdk import NotFound

TEAM, FOREIGN = "team-one", "team-two"


class Thing(msgspec.Struct, frozen=True):
    team_id: str | None


OWN, THEIRS, SHARED = Thing(TEAM), Thing(FOREIGN), Thing(None)

PEOPLE = {
    f"{role or 'nobody'}/{lab or 'none'}/{'admin' if is_admin else 'user'}": Principal(
        kind="user", id="u", team_id=TEAM, role=role, lab_role=lab, is_admin=is_admin
    )
    for role, lab, is_admin in itertools.product((None, *ROLES), (None, *LAB_ROLES), (False, True))
}
MACHINES = {
    "device": Principal(kind="device", id="d", team_id=TEAM, device_udid="d"),
    "host": Principal(kind="host", id="h", team_id=TEAM),
    "key": Principal(kind="api_key", id="k", team_id=TEAM, role="member"),
}
# What each role may do beyond the one before it, written down once more and by hand: a change of the policy that
# widens a role must be made in two places.
TEAM_GRANTS: dict[Role, set[str]] = {
    "member": {
        "artifacts:read",
        "artifacts:write",
        "audit:read",
        "capsules:read",
        "capsules:write",
        "channels:read",
        "devices:connect",
        "devices:read",
        "devices:use",
        "devices:write",
        "events:read",
        "hosts:read",
        "keys:read",
        "keys:write",
        "members:read",
        "runs:read",
        "runs:write",
        "team:read",
        "templates:read",
        "templates:write",
    },
    "admin": {"channels:write", "hosts:write", "members:write", "team:write"},
    "owner": {"team:delete"},
}
LAB_GRANTS = {"viewer": {"lab:read"}, "operator": {"lab:operate"}, "admin": {"lab:admin"}}
ADMIN_GRANTS = {"admin:read", "admin:write"}
KIND_GRANTS = {"device": {"devices:connect"}, "host": {"hosts:connect"}}


def expected_actions(principal: Principal) -> set[str]:
    actions = set(KIND_GRANTS.get(principal.kind, set()))
    if principal.role is not None:
        for role in ROLES[: ROLES.index(principal.role) + 1]:
            actions |= TEAM_GRANTS[role]
    lab = "admin" if principal.is_admin else principal.lab_role
    if lab is not None:
        for lab_role in LAB_ROLES[: LAB_ROLES.index(lab) + 1]:
            actions |= LAB_GRANTS[lab_role]
    return actions | (ADMIN_GRANTS if principal.is_admin else set())


@pytest.mark.parametrize("name", [*PEOPLE, *MACHINES])
def test_matrix(name: str) -> None:
    principal = (PEOPLE | MACHINES)[name]
    allowed = expected_actions(principal)
    operator = principal.is_admin or principal.lab_role in ("operator", "admin")
    for action in POLICY:
        assert may(principal, action) == (action in allowed), action
        assert may(principal, action, OWN) == (action in allowed), action
        across = action in allowed and POLICY[action].team is None
        assert may(principal, action, THEIRS) == across, action
        reads = action.endswith((":read", ":use"))
        assert may(principal, action, SHARED) == (action in allowed and (reads or operator)), action


@pytest.mark.parametrize("action", POLICY)
def test_the_error_says_missing_for_foreign_and_forbidden_for_own(action: str) -> None:
    member = PEOPLE["member/none/user"]
    with pytest.raises(NotFound):
        require(member, action, THEIRS)
    if may(member, action):
        require(member, action, OWN)
    else:
        with pytest.raises(Forbidden):
            require(member, action, OWN)
        with pytest.raises(Forbidden):
            require(member, action)


@pytest.mark.parametrize("action", POLICY)
def test_the_system_may_do_everything_everywhere(action: str) -> None:
    for thing in (None, OWN, THEIRS, SHARED):
        require(SYSTEM, action, thing)


def test_every_action_is_named_in_the_expectations() -> None:
    named = set().union(*TEAM_GRANTS.values(), *LAB_GRANTS.values(), *KIND_GRANTS.values(), ADMIN_GRANTS)
    assert named == set(POLICY)


def test_an_unknown_action_is_a_defect_of_the_caller() -> None:
    with pytest.raises(LookupError, match="runs:fly"):
        may(SYSTEM, "runs:fly")
    with pytest.raises(LookupError, match="runs:fly"):
        require(PEOPLE["owner/admin/admin"], "runs:fly", OWN)


@pytest.mark.parametrize("action", POLICY)
def test_scopes_narrow_and_never_widen(action: str) -> None:
    noun = action.partition(":")[0]
    for person in (PEOPLE["owner/admin/admin"], PEOPLE["member/none/user"]):
        for scopes, held in (
            ({"*"}, True),
            ({f"{noun}:*"}, True),
            ({action}, True),
            ({f"{noun}:other"}, False),
            ({"other:*"}, False),
            (set[str](), False),
        ):
            narrowed = msgspec.structs.replace(person, scopes=frozenset(scopes))
            assert may(narrowed, action) == (held and may(person, action))


def test_a_scope_does_not_cover_a_wider_one() -> None:
    assert covers(["runs:*"], "runs:*")
    assert not covers(["runs:read"], "runs:*")
    assert not covers(["runs:*"], "*")
    assert not covers(["run"], "runs:read")


def test_unknown_scopes_are_refused_with_the_known_ones() -> None:
    assert check_scopes(["runs:*", "devices:read", "runs:*"]) == ("runs:*", "devices:read")
    with pytest.raises(InvalidRequest, match=r"'runs:fly'.*devices:read") as caught:
        check_scopes(["runs:read", "runs:fly"])
    assert caught.value.problems[0].field == "body.scopes"


def test_the_actor_names_kind_and_id() -> None:
    assert MACHINES["device"].actor == "device:d"
    assert SYSTEM.actor == "system"
