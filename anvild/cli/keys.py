"""``anvil keys``: list, create and revoke the API keys of your team."""

from __future__ import annotations

from typing import Annotated

import msgspec
from cyclopts import App, Parameter

from .api import connect
from .context import Ctx
from .output import ago
from .wire import Key, NewKey, read_all

__all__ = ["app"]

app = App(name="keys")


@app.default
@app.command(name="list")
async def list_keys(*, context: Ctx) -> None:
    """List keys with their scopes and last use. The text of a key is never shown again."""
    async with connect(context) as api:
        answer = await api.get("/org/api-keys")
    if context.output.json:
        context.output.document(answer)
        return
    context.output.table(
        ["id", "name", "prefix", "scopes", "last used", "state"],
        [
            (
                key.id,
                key.name,
                key.prefix,
                " ".join(key.scopes) or "all",
                ago(key.last_used_at),
                "revoked" if key.revoked_at else "valid",
            )
            for key in read_all(answer, "keys", Key)
        ],
        empty="There are no keys.",
    )


@app.command
async def create(
    name: str,
    /,
    *,
    scope: Annotated[
        tuple[str, ...], Parameter(negative="", help="What the key may do, such as runs:write; all when none is given.")
    ] = (),
    context: Ctx,
) -> None:
    """Make a key and print its text, which is shown this once."""
    body = {"name": name} | ({"scopes": list(scope)} if scope else {})
    async with connect(context) as api:
        answer = await api.post("/org/api-keys", body)
    if context.output.json:
        context.output.document(answer)
    else:
        context.output.say(msgspec.convert(answer, NewKey).plaintext)


@app.command
async def revoke(key: str, /, *, context: Ctx) -> None:
    """Revoke a key by its id. It is refused from the next request on."""
    async with connect(context) as api:
        await api.delete(f"/org/api-keys/{key}")
    if context.output.json:
        context.output.document({"id": key, "revoked": True})
    else:
        context.output.say(f"{key} revoked")
