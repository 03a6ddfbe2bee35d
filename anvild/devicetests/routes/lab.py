"""What the lab can do: drivers, plugins, and the document of this interface."""

from __future__ import annotations

import trio

from anvild.core.grades import Grades
from anvild.core.plugins import Plugins
from anvild.web.api import Api
from anvild.web.documents import add_document
from anvild.web.request import Request

from .. import schemas as wire
from ..hands import Hands
from ..shapes import driver_shape, plugin_shape
from .common import actor_of

__all__ = ["add_lab"]

TAGS = ("Lab",)


def add_lab(api: Api, hands: Hands, plugins: Plugins, grades: Grades) -> None:
    """Add the operations that tell of the lab itself."""

    @api.get(
        "/drivers",
        summary="List the drivers with their health in words.",
        tags=TAGS,
        answers={200: wire.DriverList},
        action="devices:read",
        contract=False,
    )
    async def list_drivers(_: Request) -> wire.DriverList:
        return wire.DriverList(drivers=[driver_shape(info) for info in hands.drivers()])

    @api.post(
        "/drivers/{name}/rearm",
        summary="Take a driver out of quarantine: it is started again.",
        tags=TAGS,
        answers={200: wire.DriverAnswer},
        errors={404: "There is no such driver.", 409: "The driver is not in quarantine."},
        action="lab:operate",
        contract=False,
    )
    async def rearm_driver(request: Request) -> wire.DriverAnswer:
        return wire.DriverAnswer(driver=driver_shape(await hands.rearm_driver(request.path["name"], actor_of(request))))

    @api.get(
        "/plugins",
        summary="List the plugins that were found, and why one does not work.",
        tags=TAGS,
        answers={200: wire.PluginList},
        action="devices:read",
        contract=False,
    )
    async def list_plugins(_: Request) -> wire.PluginList:
        found = await trio.to_thread.run_sync(grades.shown, plugins.listing())
        return wire.PluginList(plugins=[plugin_shape(info) for info in found])

    add_document(api, api.openapi, tags=TAGS)
