"""Another machine joins: it registers, keeps what it got, renews it, lends its drivers, and is forgotten."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from anvild.capsules.ids import from_wire
from anvild.capsules.plugin import anvil_routes
from anvild.core.data_dir import DaemonError
from anvild.core.hosts import Hosts, Pulse
from anvild.core.identity import SYSTEM
from anvild.core.settings import PluginSettings, Settings
from anvild.devicetests import plugin as devicetests
from anvild.joining import Forgotten, join
from tests.support.capsules import Lab, served_lab

QUICK = Pulse(pause=0.05, longest_pause=0.2)


@pytest.fixture
async def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lab]:
    """Both wings, with no driver of their own: hosts come by one, and are seen by the other."""
    mounts = lambda services: [*anvil_routes(services), *devicetests.anvil_routes(services)]  # noqa: E731
    monkeypatch.setattr("tests.support.capsules.anvil_routes", mounts)
    async with served_lab(tmp_path / "lab") as found:
        yield found


@pytest.fixture
def machine(tmp_path: Path) -> Settings:
    """A machine that has sandboxes to lend."""
    return Settings(
        host="far",
        data_dir=tmp_path / "far",
        config_dir=tmp_path / "etc",
        plugins=PluginSettings(allow=("sandbox",)),
        drivers={"sandbox": {"slots": 1}},
    )


@asynccontextmanager
async def joined(lab: Lab, machine: Settings, token: str | None = None, **times: Any) -> AsyncIterator[None]:
    """The machine, while the block runs."""
    async with trio.open_nursery() as nursery:
        start = partial(join, machine, lab.wing.url, token, pulse=QUICK, **times)
        assert await nursery.start(start) == lab.wing.url
        yield
        nursery.cancel_scope.cancel()


async def invited(lab: Lab, team_id: str | None = None) -> tuple[str, str]:
    hosts = lab.wing.services.get(Hosts)
    host, secret = await hosts.create("regular" if team_id is None else "byoc", team_id=team_id, by=SYSTEM)
    return host.id, secret


async def until(look: Callable[[], Awaitable[Any]]) -> Any:
    with trio.fail_after(60):
        while not (found := await look()):  # noqa: ASYNC110  # what is waited for is seen over HTTP alone
            await trio.sleep(0.02)
        return found


async def lent(lab: Lab) -> None:
    """Wait until the machine's driver takes work."""

    async def there() -> bool:
        return any(each.name == "sandbox@far" and each.state == "running" for each in lab.wing.engine.drivers())

    await until(there)


def credentials(machine: Settings) -> dict[str, str]:
    found: dict[str, str] = json.loads((machine.data_dir / "joined.json").read_text())
    return found


async def test_what_is_kept_is_enough_for_a_later_start(both: Lab, machine: Settings) -> None:
    host, secret = await invited(both)
    async with joined(both, machine, secret):
        kept = credentials(machine)
        assert (machine.data_dir / "joined.json").stat().st_mode & 0o777 == 0o600
        assert from_wire("host", kept["host_id"]) == host
        assert json.loads((machine.data_dir / "ready.json").read_text())["url"] == both.wing.url
        await lent(both)
        told = await both.wing.services.get(Hosts).get(host)
        assert (told.status, told.name, told.drivers) == ("online", "far", ("sandbox",))
        assert told.address == "127.0.0.1:0"
        assert told.memory_mb
        assert told.disk_gb
    async with joined(both, machine):
        await lent(both)
    assert credentials(machine) == kept


async def test_a_token_that_is_not_taken_any_more_is_renewed(both: Lab, machine: Settings) -> None:
    host, secret = await invited(both)
    async with joined(both, machine, secret):
        pass
    kept = credentials(machine)
    stale = {**kept, "token": kept["token"][:-4] + "AAAA"}
    (machine.data_dir / "joined.json").write_text(json.dumps(stale))
    async with joined(both, machine):
        await lent(both)
        renewed = credentials(machine)
        assert renewed["token"] != stale["token"]
        assert renewed["refresh_token"] != kept["refresh_token"]
    assert (await both.wing.services.get(Hosts).get(host)).status == "online"


async def test_a_token_is_renewed_before_its_end_and_the_connection_goes_on(
    both: Lab, machine: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, secret = await invited(both)
    async with joined(both, machine, secret, heartbeat=0.05):
        await lent(both)
        lives = both.wing.engine.driver("sandbox@far").info.faults
        first = credentials(machine)["token"]
        monkeypatch.setattr("anvild.joining.RENEW_BEFORE", float("inf"))

        async def another() -> bool:
            return credentials(machine)["token"] != first

        await until(another)
        monkeypatch.undo()
        assert both.wing.engine.driver("sandbox@far").info.state == "running"
        assert both.wing.engine.driver("sandbox@far").info.faults == lives


async def test_a_machine_that_was_deleted_drops_its_credentials_and_says_so(both: Lab, machine: Settings) -> None:
    host, secret = await invited(both)
    with pytest.RaisesGroup(pytest.RaisesExc(Forgotten, match="were removed")):
        async with joined(both, machine, secret, heartbeat=0.05):
            await lent(both)
            await both.wing.services.get(Hosts).delete(host, by=SYSTEM)
            await trio.sleep_forever()
    assert not (machine.data_dir / "joined.json").exists()


async def test_what_cannot_join(both: Lab, machine: Settings) -> None:
    _, secret = await invited(both)
    with pytest.raises(DaemonError, match="http address"):
        await join(machine, "ftp://lab", secret)
    for token, error in ((None, DaemonError), ("0" * 64, Forgotten)):
        with pytest.raises(error):
            await join(machine, both.wing.url, token)
    (machine.data_dir / "joined.json").write_text("{")
    with pytest.raises(DaemonError, match="remove the file"):
        await join(machine, both.wing.url, secret)


async def test_a_team_that_brings_hosts_has_its_capsules_there_and_nobody_else_has(
    both: Lab, machine: Settings
) -> None:
    team, other = both.wing.first.team_id, both.by_key(await _other_team(both))
    await both.identity.teams.set_byoc(team, True, by=SYSTEM)
    mine = both.by_key()
    order = {"json": {"template": "host"}}
    _, secret = await invited(both, team)
    for nobody in (mine, other):
        await nobody("POST", "/v1/capsules", 404, promised=False, **order)
    async with joined(both, machine, secret):
        await lent(both)
        made = await mine("POST", "/v1/capsules", 202, **order)

        async def runs() -> bool:
            found = await mine("GET", "/v1/capsules/{id}", 200, values={"id": made["id"]})
            return bool(found["status"] == "running")

        await until(runs)
        assert (await both.wing.engine.leases.list())[0].driver == "sandbox@far"
        await mine("POST", "/v1/capsules", 503, promised=False, **order)
        await other("POST", "/v1/capsules", 404, promised=False, **order)
        await mine("DELETE", "/v1/capsules/{id}", 202, values={"id": made["id"]})

        async def gone() -> bool:
            return not await both.wing.engine.leases.list()

        await until(gone)


async def _other_team(lab: Lab) -> str:
    user = await lab.user("other@example.org")
    team = await lab.identity.teams.create("Other", owner_id=user.id, by=SYSTEM)
    key = await lab.identity.api_keys.create(by=SYSTEM, team_id=team.id, name="k", style="wrn")
    return key.plaintext
