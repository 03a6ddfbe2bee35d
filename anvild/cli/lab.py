"""What the lab is made of: ``anvil drivers``, ``anvil plugins``."""

from __future__ import annotations

from .api import connect
from .context import Ctx
from .wire import DriverInfo, Plugin, read_all

__all__ = ["drivers", "plugins"]


async def drivers(*, context: Ctx) -> None:
    """List the drivers, what they offer, and how they are."""
    async with connect(context) as api:
        answer = await api.get("/drivers")
    if context.output.json:
        context.output.document(answer)
        return
    context.output.table(
        ["name", "version", "health", "devices", "slots", "capabilities", "reason"],
        [
            (
                each.name,
                each.version,
                each.health,
                each.devices,
                f"{each.slots_used}/{each.slots}" if each.slots else None,
                " ".join(each.capabilities),
                each.reason,
            )
            for each in read_all(answer, "drivers", DriverInfo)
        ],
        empty="There are no drivers.",
    )


async def plugins(*, context: Ctx) -> None:
    """List the plugins that the daemon found, and why one does not work."""
    async with connect(context) as api:
        answer = await api.get("/plugins")
    if context.output.json:
        context.output.document(answer)
        return
    context.output.table(
        ["name", "version", "api", "state", "hooks", "grade", "reason"],
        [
            (each.name, each.version, each.api, each.state, " ".join(each.hooks), each.grade, each.reason)
            for each in read_all(answer, "plugins", Plugin)
        ],
        empty="There are no plugins.",
    )
