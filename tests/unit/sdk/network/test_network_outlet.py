"""What an outlet counts and tells."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from anvild.sdk import InvalidArgument, NetworkPolicy, NetworkUse, PermissionDenied, Unavailable
from anvild.sdk.network.outlet import BURST, LOG_SECONDS, RATE, Outlet, proxy_environment

Logged = list[tuple[str, str, dict[str, object]]]


def outlet(logged: Logged, *allow: str) -> Outlet:
    async def nobody(name: str) -> list[str]:
        await trio.lowlevel.checkpoint()
        raise OSError(f"no {name}")

    def log(level: str, event: str, **values: object) -> None:
        logged.append((level, event, values))

    return Outlet(NetworkPolicy(allow=allow), device="box", log=log, resolve=nobody)


async def denied(found: Outlet, host: str) -> None:
    with pytest.raises(PermissionDenied):
        await found._let_out(host, 80)


async def test_denials_are_counted_and_logged_now_and_then(autojump_clock: trio.testing.MockClock) -> None:
    logged: Logged = []
    found = outlet(logged, "example.org")
    for _ in range(1000):
        await denied(found, "169.254.169.254")
    reason = "169.254.169.254:80 is link-local or a metadata service"
    assert logged == [("warning", "network.denied", {"device": "box", "reason": reason, "denied": 1})]
    await trio.sleep(LOG_SECONDS)
    await denied(found, "evil.example")
    await denied(found, "evil.example")
    reason = "evil.example:80 is not on the allow-list"
    assert logged[1:] == [("warning", "network.denied", {"device": "box", "reason": reason, "denied": 1001})]
    assert found.use() == NetworkUse(denied=1002)


async def test_failures_are_counted_and_not_logged() -> None:
    logged: Logged = []
    found = outlet(logged, "example.org")
    with pytest.raises(Unavailable):
        await found._let_out("example.org", 80)
    with pytest.raises(InvalidArgument):
        await found._let_out("\x1b[31m", 80)
    assert found.use() == NetworkUse(failed=2)
    assert logged == []


async def test_connections_without_a_pause_are_slowed_down(autojump_clock: trio.testing.MockClock) -> None:
    found = outlet([], "example.org")
    begun = trio.current_time()
    for number in range(BURST + 500):
        if number == BURST:
            assert trio.current_time() == begun, "so many at once are no flood"
        await found._pace()
    assert trio.current_time() - begun == pytest.approx(500 / RATE, abs=0.1)
    await trio.sleep(10)
    rested = trio.current_time()
    for _ in range(BURST):
        await found._pace()
    assert trio.current_time() == rested


def test_a_policy_that_cannot_be() -> None:
    with pytest.raises(InvalidArgument):
        outlet([], "not a host")


def test_the_environment_is_in_both_spellings() -> None:
    found = proxy_environment()
    assert {name for name in found if name.islower()} == {"http_proxy", "https_proxy", "all_proxy", "no_proxy"}
    assert all(found[name.upper()] == found[name] for name in found)
