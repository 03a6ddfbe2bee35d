"""The sums that the artifacts' quotas are kept by."""

from __future__ import annotations

import pytest

from anvild.core.artifacts.quota import Usage
from anvild.core.errors import StorageFull


def test_what_comes_in_counts_before_it_is_stored() -> None:
    usage = Usage(lab_limit=100, team_limit=60)
    with usage.claim("one") as first, usage.claim("one") as second:
        first.extend(40)
        with pytest.raises(StorageFull, match="team"):
            second.extend(21)
        second.extend(20)
        first.keep()
    with usage.claim("one") as third:
        with pytest.raises(StorageFull):
            third.extend(21)  # 40 are stored, 20 were given up
        third.extend(20)


def test_the_lab_s_limit_is_for_all_and_the_team_s_not_for_the_lab() -> None:
    usage = Usage(lab_limit=100, team_limit=60)
    with usage.claim(None) as claim:
        claim.extend(90)
        claim.keep()
    with usage.claim("one") as claim, pytest.raises(StorageFull, match="lab"):
        claim.extend(11)


def test_room_is_made_when_it_is_nearly_used_up() -> None:
    usage = Usage(lab_limit=1000, team_limit=None)
    usage.replace({"one": 500, None: 450})
    assert usage.excess() == 0
    usage.replace({"one": 500, None: 451})
    assert usage.excess() == 51
    assert Usage(lab_limit=None, team_limit=None).excess() == 0
