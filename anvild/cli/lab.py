"""What the lab is made of: ``anvil drivers``, ``anvil plugins``."""

from __future__ import annotations

from .api import connect
from .context import Ctx
from .wire import Plugin, read_all

__all__ = ["plugins"]


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
