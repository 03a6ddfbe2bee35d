"""Who is asking and what they may do: accounts, teams, credentials, policy, limits, idempotency, audit."""

from __future__ import annotations

from .audit import Audit, AuditCursor, AuditPage
from .bootstrap import Bootstrapped, bootstrap
from .idempotency import Idempotency, KeyReused, StillRunning, StoredAnswer, object_id
from .identity import Identity
from .passwords import Passwords
from .policy import POLICY, Rule, check_scopes, covers, may, require
from .rate_limits import LimitResult, Limits
from .secret_box import SecretBox, SecretBoxError, load_secret_box
from .values import (
    NOWHERE,
    SYSTEM,
    ApiKey,
    Credentials,
    LabRole,
    Membership,
    Origin,
    Owned,
    Principal,
    Role,
    Team,
    User,
)

__all__ = [
    "NOWHERE",
    "POLICY",
    "SYSTEM",
    "ApiKey",
    "Audit",
    "AuditCursor",
    "AuditPage",
    "Bootstrapped",
    "Credentials",
    "Idempotency",
    "Identity",
    "KeyReused",
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
    "SecretBox",
    "SecretBoxError",
    "StillRunning",
    "StoredAnswer",
    "Team",
    "User",
    "bootstrap",
    "check_scopes",
    "covers",
    "load_secret_box",
    "may",
    "object_id",
    "require",
]
