"""Loading and calling plugins: a broken one is named and the others go on."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import cyclopts
import pytest

from anvild.core.plugins import MUTED_AFTER, Plugins, PluginState
from anvild.sdk import (
    AnvilSpecs,
    Description,
    DeviceFact,
    Driver,
    Event,
    Health,
    HealthState,
    Lease,
    Mount,
    Report,
    Services,
    Session,
    hookimpl,
)


class LampDriver(Driver):
    name = "lamp"

    async def describe(self) -> Description:
        return Description(
            name="lamp",
            version="1",
            platforms=("lamp",),
            capabilities=(),
            health=Health(state=HealthState.HEALTHY, reason="lit"),
        )

    async def watch(self, report: Report) -> NoReturn:
        raise NotImplementedError

    def open(self, device: DeviceFact, lease: Lease) -> AbstractAsyncContextManager[Session]:
        raise NotImplementedError


def plugin(**members: object) -> SimpleNamespace:
    return SimpleNamespace(**{name: hookimpl(each) if callable(each) else each for name, each in members.items()})


@pytest.fixture
def plugins() -> Plugins:
    return Plugins(allow=["good", "bad", "worse"])


def info(plugins: Plugins, name: str) -> Mapping[str, object]:
    found = next(each for each in plugins.listing() if each.name == name)
    return {"state": found.state, "reason": found.reason, "hooks": found.hooks}


def test_a_driver_is_found_by_name(plugins: Plugins) -> None:
    plugins.register("good", plugin(anvil_drivers=lambda: [LampDriver]))
    assert plugins.drivers() == {"lamp": LampDriver}
    assert info(plugins, "good") == {"state": PluginState.LOADED, "reason": None, "hooks": ("anvil_drivers",)}


def test_a_plugin_that_raises_is_broken_and_the_rest_go_on(plugins: Plugins) -> None:
    def explode() -> Iterable[type[Driver]]:
        raise RuntimeError("no such bus")

    plugins.register("bad", plugin(anvil_drivers=explode))
    plugins.register("good", plugin(anvil_drivers=lambda: [LampDriver]))
    assert plugins.drivers() == {"lamp": LampDriver}
    assert info(plugins, "bad")["state"] is PluginState.BROKEN
    assert info(plugins, "bad")["reason"] == "anvil_drivers failed with RuntimeError: no such bus"


def test_a_plugin_that_exits_at_import_is_broken(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text("ANVIL_API = '1.0'\n")
    (tmp_path / "quits.py").write_text("raise SystemExit('I will not')\n")
    plugins = Plugins(allow=["good", "quits"], drop_ins=tmp_path)
    assert info(plugins, "good")["state"] is PluginState.LOADED
    assert info(plugins, "quits")["state"] is PluginState.BROKEN
    assert info(plugins, "quits")["reason"] == "SystemExit: I will not"


def test_a_misspelt_hook_is_an_error(plugins: Plugins) -> None:
    plugins.register("bad", plugin(anvil_driver=lambda: [LampDriver]))
    assert info(plugins, "bad")["state"] is PluginState.BROKEN
    assert "anvil_driver" in str(info(plugins, "bad")["reason"])


def test_a_newer_major_is_refused_with_one_sentence(plugins: Plugins) -> None:
    plugins.register("bad", plugin(ANVIL_API="2.0", anvil_drivers=lambda: [LampDriver]))
    assert plugins.drivers() == {}
    assert info(plugins, "bad")["state"] is PluginState.REFUSED
    assert info(plugins, "bad")["reason"] == "it was written for API 2.0 and this anvild offers 1.0: upgrade anvild"


def test_a_newer_minor_is_taken(plugins: Plugins) -> None:
    plugins.register("good", plugin(ANVIL_API="1.9", anvil_drivers=lambda: [LampDriver]))
    assert plugins.drivers() == {"lamp": LampDriver}


def test_two_drivers_of_one_name(plugins: Plugins) -> None:
    plugins.register("good", plugin(anvil_drivers=lambda: [LampDriver]))
    plugins.register("worse", plugin(anvil_drivers=lambda: [LampDriver]))
    assert plugins.drivers() == {"lamp": LampDriver}
    assert info(plugins, "worse")["reason"] == "anvil_drivers offers 'lamp', which plugin 'good' offers already"


def test_a_wrong_type_is_named(plugins: Plugins) -> None:
    plugins.register("bad", plugin(anvil_drivers=lambda: ["lamp"]))
    assert plugins.drivers() == {}
    assert "'lamp'" in str(info(plugins, "bad")["reason"])


def test_the_allow_list(plugins: Plugins) -> None:
    plugins.register("other", plugin(anvil_drivers=lambda: [LampDriver]))
    assert plugins.drivers() == {}
    assert info(plugins, "other")["state"] is PluginState.DISABLED


def test_an_isolated_plugin_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "lamp.py").write_text("raise AssertionError('this must not be run')\n")
    (tmp_path / "good.py").write_text("ANVIL_API = '1.0'\n")
    plugins = Plugins(allow=["good", "lamp"], drop_ins=tmp_path, isolated=["lamp", "none"])
    assert plugins.apart() == {"lamp": str(tmp_path / "lamp.py")}
    assert info(plugins, "lamp") == {
        "state": PluginState.LOADED,
        "reason": "its driver runs in a process of its own",
        "hooks": (),
    }
    assert info(plugins, "good")["state"] is PluginState.LOADED


def test_an_isolated_plugin_may_be_disabled(tmp_path: Path) -> None:
    (tmp_path / "lamp.py").write_text("raise AssertionError('this must not be run')\n")
    plugins = Plugins(allow=["good"], drop_ins=tmp_path, isolated=["lamp"])
    assert (plugins.apart(), info(plugins, "lamp")["state"]) == ({}, PluginState.DISABLED)


def test_an_observer_that_keeps_failing_is_muted(plugins: Plugins) -> None:
    heard: list[int] = []

    def fail(event: Event) -> None:
        raise ValueError("deaf")

    plugins.register("bad", plugin(anvil_event=fail))
    plugins.register("good", plugin(anvil_event=lambda event: heard.append(event.id)))
    for number in range(MUTED_AFTER + 2):
        plugins.event(Event(id=number, at=datetime.now(UTC), kind="lamp.lit", subject_type="lamp", subject_id="1"))
    assert heard == list(range(MUTED_AFTER + 2))
    assert info(plugins, "bad")["state"] is PluginState.MUTED
    assert "ValueError: deaf" in str(info(plugins, "bad")["reason"])


async def nothing(scope: object, receive: object, send: object) -> None:
    """An application that answers nothing."""


def test_routes_and_commands_are_collected(plugins: Plugins) -> None:
    mount = Mount(name="lamp", prefix="/lamp", app=nothing)
    app = cyclopts.App(name="anvil")
    plugins.register(
        "good",
        plugin(
            anvil_routes=lambda services: [mount],
            anvil_commands=lambda app: app.command(lambda: None, name="light"),
        ),
    )
    assert plugins.mounts(Services()) == [mount]
    plugins.commands(app)
    assert "light" in app


def test_every_installed_plugin_of_ours_loads() -> None:
    for each in Plugins().listing():
        assert each.state is PluginState.LOADED, f"{each.name}: {each.reason}"


HOOKS = [name for name in vars(AnvilSpecs) if name.startswith("anvil_")]


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_documented(hook: str) -> None:
    text = inspect.getdoc(getattr(AnvilSpecs, hook)) or ""
    for part in (":raises:", "Time limit:", "Cancellation:", ".. versionadded::", "Example::"):
        assert part in text, f"{hook} lacks {part}"
    for parameter in list(inspect.signature(getattr(AnvilSpecs, hook)).parameters)[1:]:
        assert f":param {parameter}:" in text, f"{hook} does not document {parameter}"
    if inspect.signature(getattr(AnvilSpecs, hook)).return_annotation != "None":
        assert ":return:" in text
