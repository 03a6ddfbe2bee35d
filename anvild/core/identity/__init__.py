"""Who is asking and what they may do: accounts, teams, credentials, policy, limits."""

from __future__ import annotations

from .bootstrap import Bootstrapped, bootstrap
from .identity import Identity
from .passwords import Passwords
from .policy import POLICY, Rule, check_scopes, covers, may, require
from .rate_limits import LimitResult, Limits
from .values import SYSTEM, ApiKey, Credentials, LabRole, Membership, Origin, Owned, Principal, Role, Team, User

__all__ = [
    "POLICY",
    "SYSTEM",
    "ApiKey",
    "Bootstrapped",
    "Credentials",
    "Identity",
    "LabRole",
    "LimitResult",
    "Limits",
    "Membership",
    "Origin",
    "Owned",
    "Passwords",
    "Principal",
    "Role",
    "Rule",
    "Team",
    "User",
    "bootstrap",
    "check_scopes",
    "covers",
    "may",
    "require",
]
