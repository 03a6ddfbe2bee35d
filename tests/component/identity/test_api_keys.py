"""API keys from the first call of bootstrap to their revocation."""

from __future__ import annotations

import pytest

from anvild.core.errors import Unauthenticated
from anvild.core.identity import Bootstrapped, Credentials, Identity, Principal


async def principal_of(identity: Identity, **credentials: str) -> Principal:
    found = await identity.authenticate(Credentials(**credentials))
    assert found is not None
    return found


async def test_both_keys_of_bootstrap_are_the_owner_of_the_keys_team(identity: Identity, lab: Bootstrapped) -> None:
    one = await principal_of(identity, api_key=lab.api_key)
    other = await principal_of(identity, authorization=f"Bearer {lab.live_key}")
    for principal in (one, other):
        assert (principal.kind, principal.team_id, principal.role) == ("api_key", lab.team_id, "admin")
        assert principal.scopes is None
        assert principal.user_id == lab.user_id


async def test_a_revoked_key_is_refused_at_once(identity: Identity, lab: Bootstrapped) -> None:
    principal = await principal_of(identity, api_key=lab.api_key)
    await identity.api_keys.revoke(principal.id, team_id=lab.team_id, by=principal)
    with pytest.raises(Unauthenticated):
        await principal_of(identity, api_key=lab.api_key)
