"""Loads plugins and calls their hooks: a typed façade over pluggy that adds what pluggy leaves out.

Entry points are loaded one by one in name order. A plugin that cannot be imported, was written for another major
version of the interface, implements a hook that does not exist, or raises in a hook is recorded as broken with its
reason, and the rest go on. No other module touches ``pluggy``.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import msgspec
import pluggy
import structlog

from anvild.core.settings import Settings, driver_hosting
from anvild.sdk import (
    API_VERSION,
    ENTRY_POINT_GROUP,
    PROJECT,
    AgentProvider,
    AnvilSpecs,
    Driver,
    EnvironmentCheck,
    Event,
    Mount,
    Notifier,
    ReportExporter,
    Services,
    Workload,
    incompatibility,
)

if TYPE_CHECKING:
    import cyclopts

__all__ = ["PluginInfo", "PluginState", "Plugins"]

MUTED_AFTER = 10
"""Errors in a row in ``anvil_event`` after which a plugin hears no more events until the next start."""

HOOK_SECONDS = 5.0
"""How long a hook may take. It cannot be stopped, so a slower one is only named in the log."""

log = structlog.get_logger(__name__)


class PluginState(StrEnum):
    """LOADED works; BROKEN failed with a reason; REFUSED was written for another version; DISABLED is left out by
    the allow-list; MUTED failed too often as an observer."""

    LOADED = "loaded"
    BROKEN = "broken"
    REFUSED = "refused"
    DISABLED = "disabled"
    MUTED = "muted"


class PluginInfo(msgspec.Struct, kw_only=True):
    """One plugin as ``anvil plugins`` shows it. ``grade`` is the result of its last conformance run, if any."""

    name: str
    distribution: str
    version: str
    api: str
    state: PluginState
    reason: str | None = None
    hooks: tuple[str, ...] = ()
    grade: str | None = None


class Plugins:
    """All plugins of this process.

    :param allow: names of entry points to load; empty means all.
    :param drop_ins: a directory of single-file plugins (``NAME.py``); they are loaded after the installed ones.
    :param isolated: names of plugins that offer a driver which runs in a process of its own. They are not imported
        here, so of their hooks that driver alone counts.

    Loading imports foreign code and reads files: do it before the loop runs.
    """

    def __init__(
        self, *, allow: Sequence[str] = (), drop_ins: Path | None = None, isolated: Collection[str] = ()
    ) -> None:
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(AnvilSpecs)
        self._infos: dict[str, PluginInfo] = {}
        self._event_errors: dict[str, int] = {}
        self._allow = frozenset(allow)
        self._isolated = frozenset(isolated)
        self._apart: dict[str, str] = {}
        for name, distribution, version, load in sorted(_installed(), key=lambda found: found[0]):
            self._load(name, distribution, version, load, target=name)
        for path in sorted(drop_ins.glob("*.py")) if drop_ins is not None else ():
            self._load(path.stem, str(path), "drop-in", _file_loader(path), target=str(path))

    @classmethod
    def of(cls, settings: Settings) -> Plugins:
        """Load what the settings allow and leave in this process, with the drop-ins of the configuration's folder.

        :raises SettingsError: for a wrong value of the daemon's own keys in a driver's table.
        """
        isolated = [name for name in settings.drivers if driver_hosting(settings, name).isolated]
        return cls(allow=settings.plugins.allow, drop_ins=settings.drop_ins, isolated=isolated)

    def register(self, name: str, module: object) -> None:
        """Add a plugin that is already imported. Used by tests and by hosts that embed the daemon."""
        self._load(name, "embedded", "-", lambda: module)

    def listing(self) -> list[PluginInfo]:
        """All plugins that were found, in the order in which they were loaded."""
        return list(self._infos.values())

    def drivers(self) -> dict[str, type[Driver]]:
        """Driver classes by name. The second of two drivers with one name is refused."""
        return {driver.name: driver for driver in self._named("anvil_drivers", _is_subclass(Driver))}

    def apart(self) -> dict[str, str]:
        """What ``python -m anvild.sdk.protocol`` is told to run each driver that is not imported here, by name."""
        return dict(self._apart)

    def notifiers(self) -> dict[str, type[Notifier]]:
        """Notifier classes by name."""
        return {notifier.name: notifier for notifier in self._named("anvil_notifiers", _is_subclass(Notifier))}

    def agent_providers(self) -> dict[str, type[AgentProvider]]:
        """Agent provider classes by name."""
        return {
            provider.name: provider for provider in self._named("anvil_agent_providers", _is_subclass(AgentProvider))
        }

    def environment_checks(self) -> dict[str, type[EnvironmentCheck]]:
        """Environment check classes by name."""
        return {check.name: check for check in self._named("anvil_environment_checks", _is_subclass(EnvironmentCheck))}

    def report_exporters(self) -> dict[str, type[ReportExporter]]:
        """Report exporter classes by name."""
        return {each.name: each for each in self._named("anvil_report_exporters", _is_subclass(ReportExporter))}

    def workloads(self, services: Services) -> dict[str, Workload]:
        """Workloads by the kind of run that they execute."""
        found = self._named("anvil_workloads", lambda each: isinstance(each, Workload), "kind", services=services)
        return {workload.kind: workload for workload in found}

    def mounts(self, services: Services) -> list[Mount]:
        """The HTTP applications of all wings."""
        return list(self._named("anvil_routes", lambda each: isinstance(each, Mount), services=services))

    def commands(self, app: cyclopts.App) -> None:
        """Let every plugin add its commands to the client."""
        for _ in self._call("anvil_commands", app=app):
            pass

    def event(self, event: Event) -> None:
        """Tell every observer of one event. Errors are logged; a plugin that keeps failing is muted."""
        for implementation in list(self._manager.hook.anvil_event.get_hookimpls()):
            name = implementation.plugin_name
            try:
                _invoke(implementation, {"event": event})
            except Exception as error:
                self._event_errors[name] = self._event_errors.get(name, 0) + 1
                log.warning("plugin_event_error", plugin=name, event_kind=event.kind, error=repr(error))
                if self._event_errors[name] >= MUTED_AFTER:
                    reason = f"anvil_event failed {MUTED_AFTER} times in a row, last with {_sentence(error)}"
                    self._give_up(name, PluginState.MUTED, reason)
            else:
                self._event_errors.pop(name, None)

    def _load(
        self, name: str, distribution: str, version: str, load: Callable[[], object], *, target: str | None = None
    ) -> None:
        info = PluginInfo(name=name, distribution=distribution, version=version, api="-", state=PluginState.LOADED)
        if name in self._infos:
            other = self._infos[name].distribution
            log.error("plugin_name_taken", plugin=name, distribution=distribution, taken_by=other)
            return
        self._infos[name] = info
        if self._allow and name not in self._allow:
            info.state, info.reason = PluginState.DISABLED, "it is not in the setting plugins.allow"
            return
        if name in self._isolated and target is not None:
            info.reason = "its driver runs in a process of its own"
            self._apart[name] = target
            return
        try:
            module = load()
            info.api = str(getattr(module, "ANVIL_API", API_VERSION))
            unfit = incompatibility(info.api)
            if unfit is not None:
                info.state, info.reason = PluginState.REFUSED, unfit
                log.error("plugin_refused", plugin=name, reason=unfit)
                return
            self._manager.register(module, name=name)
            self._manager.check_pending()
        except (Exception, SystemExit) as error:
            self._give_up(name, PluginState.BROKEN, _sentence(error))
            return
        callers = self._manager.get_hookcallers(module) or []
        info.hooks = tuple(sorted(caller.name for caller in callers))

    def _give_up(self, name: str, state: PluginState, reason: str) -> None:
        info = self._infos[name]
        info.state, info.reason = state, reason
        if self._manager.has_plugin(name):
            self._manager.unregister(name=name)
        log.error("plugin_" + state.value, plugin=name, reason=reason)

    def _call(self, hook: str, **arguments: object) -> Iterator[tuple[str, Any]]:
        """Call one hook of every plugin in load order. A plugin that raises is broken from then on."""
        # pluggy calls the last registered first; its list is in the order of registration, which is ours.
        for implementation in getattr(self._manager.hook, hook).get_hookimpls():
            name = implementation.plugin_name
            began = time.monotonic()
            try:
                answer = _invoke(implementation, arguments)
            except (Exception, SystemExit) as error:
                self._give_up(name, PluginState.BROKEN, f"{hook} failed with {_sentence(error)}")
                continue
            if (took := time.monotonic() - began) > HOOK_SECONDS:
                log.warning("plugin_hook_slow", plugin=name, hook=hook, seconds=round(took, 1))
            yield name, answer

    def _named(self, hook: str, fits: Callable[[Any], bool], key: str = "name", **arguments: object) -> Iterable[Any]:
        """Collect what the plugins offer; what is of the wrong type or takes a used name breaks its plugin."""
        taken: dict[str, str] = {}
        for plugin, offered in self._call(hook, **arguments):
            items = list(offered or ())
            reason = next(
                (
                    f"{hook} returned {each!r}, which is not what the hook is documented to return"
                    for each in items
                    if not fits(each)
                ),
                None,
            ) or next(
                (
                    f"{hook} offers {getattr(each, key)!r}, which plugin {taken[getattr(each, key)]!r} offers already"
                    for each in items
                    if getattr(each, key) in taken
                ),
                None,
            )
            if reason is not None:
                self._give_up(plugin, PluginState.BROKEN, reason)
                continue
            taken.update({getattr(each, key): plugin for each in items})
            yield from items


def _installed() -> Iterator[tuple[str, str, str, Callable[[], object]]]:
    for distribution in importlib.metadata.distributions():
        for entry in distribution.entry_points.select(group=ENTRY_POINT_GROUP):
            yield entry.name, distribution.name, distribution.version, entry.load


def _file_loader(path: Path) -> Callable[[], ModuleType]:
    def load() -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"anvild_dropin_{path.stem}", path)
        if spec is None or spec.loader is None:
            raise ImportError(f"{path} is not a Python module")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # as an import does: settings and dataclasses look their types up there
        spec.loader.exec_module(module)
        return module

    return load


def _invoke(implementation: pluggy.HookImpl, arguments: dict[str, object]) -> Any:
    return implementation.function(*(arguments[name] for name in implementation.argnames))


def _is_subclass(base: type[Any]) -> Callable[[Any], bool]:
    return lambda each: isinstance(each, type) and issubclass(each, base)


def _sentence(error: BaseException) -> str:
    """The last line of a traceback: type and message, which is what an operator can use."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[-1]}" if text else type(error).__name__
