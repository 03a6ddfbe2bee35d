"""The hooks: where a plugin joins in.

Write an implementation as a module-level function with the hook's name and the :data:`hookimpl` mark, and name the
module in an entry point of the group ``anvil``. State the API version in the module::

    from anvild.sdk import hookimpl

    ANVIL_API = "1.0"

    @hookimpl
    def anvil_drivers():
        return [MyDriver]

Hooks are called once, at start-up, in the name order of the entry points, except ``anvil_event``. They must return
within 5 s and may not await: heavy work belongs into what they return. An exception in a hook marks the plugin broken
with its reason; the daemon and the other plugins go on. A function with the mark and no hook of its name is an error.
Parameters are only ever added; an implementation names those that it wants.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

from .driver import Driver
from .events import Event
from .extensions import AgentProvider, EnvironmentCheck, Notifier, ReportExporter
from .services import Mount, Services
from .workload import Workload

if TYPE_CHECKING:
    import cyclopts

PROJECT = "anvil"
ENTRY_POINT_GROUP = "anvil"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class AnvilSpecs:
    """The hook specifications. All have been there since API 1.0."""

    @hookspec
    def anvil_drivers(self) -> Iterable[type[Driver]]:  # type: ignore[empty-body]
        """Offer drivers.

        :return: the driver classes of this plugin. The daemon makes an instance of each that the settings enable.
        :raises: anything; the plugin is then recorded as broken.
        Time limit: 5 s. Cancellation: not cancelled; do no I/O here.

        .. versionadded:: 1.0

        Example::

            @hookimpl
            def anvil_drivers():
                return [BenchSupplyDriver]
        """

    @hookspec
    def anvil_notifiers(self) -> Iterable[type[Notifier]]:  # type: ignore[empty-body]
        """Offer notification providers.

        :return: notifier classes. Their ``name`` is what a channel's ``provider`` says.
        :raises: anything; the plugin is then recorded as broken.
        Time limit: 5 s. Cancellation: not cancelled; do no I/O here.

        .. versionadded:: 1.0

        Example::

            @hookimpl
            def anvil_notifiers():
                return [PagerNotifier]
        """

    @hookspec
    def anvil_workloads(self, services: Services) -> Iterable[Workload]:  # type: ignore[empty-body]
        """Offer workloads: the code that executes a kind of run.

        :param services: the daemon's services.
        :return: workload instances, one for each kind. A kind offered twice is an error of the second plugin.
        :raises: anything; the plugin is then recorded as broken.
        Time limit: 5 s. Cancellation: not cancelled; do no I/O here.

        .. versionadded:: 1.0

        Example::

            @hookimpl
            def anvil_workloads(services):
                return [SoakWorkload()]
        """

    @hookspec
    def anvil_agent_providers(self) -> Iterable[type[AgentProvider]]:  # type: ignore[empty-body]
        """Offer agent programs.

        :return: provider classes.
        :raises: anything; the plugin is then recorded as broken.
        Time limit: 5 s. Cancellation: not cancelled; do no I/O here.

        .. versionadded:: 1.0

        Example::

            @hookimpl
            def anvil_agent_providers():
                return [MyAgentProvider]
        """

    @hookspec
    def anvil_routes(self, services: Services) -> Iterable[Mount]:  # type: ignore[empty-body]
        """Offer HTTP applications: a wing.

        :param services: the daemon's services.
        :return: ASGI applications with the path prefixes that they serve.
        :raises: anything; the plugin is then recorded as broken.
        Time limit: 5 s. Cancellation: not cancelled; requests are, when their client goes away.

        .. versionadded:: 1.0

        Example::

            @hookimpl
            def anvil_routes(services):
                return [Mount(name="hello", prefix="/hello", app=hello_app)]
        """

    @hookspec
    def anvil_event(self, event: Event) -> None:
        """Observe the event log: called for every event after its commit, in order of its id, from the daemon's loop.

        :param event: the event.
        :raises: anything; it is logged with the plugin's name and the event goes on to the others. Ten errors in a
            row mute the plugin until the next start.
        Time limit: 10 ms, because the loop waits; hand longer work to a queue of your own.
        Cancellation: not cancelled.

        .. versionadded:: 1.0

        Example::

            @hookimpl
            def anvil_event(event):
                if event.kind == "device.lost":
                    alarms.put_nowait(event)
        """

    @hookspec
    def anvil_environment_checks(self) -> Iterable[type[EnvironmentCheck]]:  # type: ignore[empty-body]
        """Offer checks of the host that are run before a measurement.

        :return: check classes.
        :raises: anything; the plugin is then recorded as broken.
        Time limit: 5 s. Cancellation: not cancelled; do no I/O here.

        .. versionadded:: 1.0

        Example::

            @hookimpl
            def anvil_environment_checks():
                return [GovernorCheck]
        """

    @hookspec
    def anvil_report_exporters(self) -> Iterable[type[ReportExporter]]:  # type: ignore[empty-body]
        """Offer forms in which a run can be written as a document.

        :return: exporter classes.
        :raises: anything; the plugin is then recorded as broken.
        Time limit: 5 s. Cancellation: not cancelled; do no I/O here.

        .. versionadded:: 1.0

        Example::

            @hookimpl
            def anvil_report_exporters():
                return [JUnitExporter]
        """

    @hookspec
    def anvil_commands(self, app: cyclopts.App) -> None:
        """Add commands to the client ``anvil``.

        :param app: the client's application; register commands or sub-applications on it.
        :raises: anything; the plugin is then recorded as broken and the client goes on without its commands.
        Time limit: 5 s. Cancellation: not cancelled; do no I/O here.

        .. versionadded:: 1.0

        Example::

            @hookimpl
            def anvil_commands(app):
                app.command(calibrate, name="calibrate")
        """
