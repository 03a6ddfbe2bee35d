"""Who is asking and what they may do: accounts, teams, credentials, policy, limits, idempotency, audit."""

from __future__ import annotations

from .accounts import Accounts, SignUp
from .audit import Audit, AuditCursor, AuditPage, Doer
from .bootstrap import Bootstrapped, bootstrap
from .cache import CredentialCache
from .idempotency import Idempotency, KeyReused, StillRunning, StoredAnswer, object_id
from .identity import Identity
from .passwords import Passwords
from .people import Person
from .policy import POLICY, Rule, check_scopes, covers, may, require
from .rate_limits import LimitResult, Limits
from .secret_box import SecretBox, SecretBoxError, load_secret_box
from .sessions import NewSession, SessionInfo
from .teams import Member
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
    "Accounts",
    "ApiKey",
    "Audit",
    "AuditCursor",
    "AuditPage",
    "Bootstrapped",
    "CredentialCache",
    "Credentials",
    "Doer",
    "Idempotency",
    "Identity",
    "KeyReused",
    "LabRole",
    "LimitResult",
    "Limits",
    "Member",
    "Membership",
    "NewSession",
    "Origin",
    "Owned",
    "Passwords",
    "Person",
    "Principal",
    "Role",
    "Rule",
    "SecretBox",
    "SecretBoxError",
    "SessionInfo",
    "SignUp",
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
