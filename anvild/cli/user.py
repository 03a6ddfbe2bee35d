"""``anvil user``: accounts of people, made by the operator on this machine."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from anvild.core.identity import SYSTEM, Accounts, CredentialCache, Passwords
from anvild.core.store import open_store

from .context import Ctx
from .machine import ConfigFile, DataDir, own_data_dir, settings_of
from .prompt import ask

__all__ = ["app"]

app = App(name="user")


@app.command
async def add(
    email: str,
    /,
    *,
    name: Annotated[str | None, Parameter(help="What others see; the address up to its @ when not given.")] = None,
    password: Annotated[
        str | None, Parameter(help="Asked for, or read from standard input, when not given.", show_default=False)
    ] = None,
    admin: Annotated[bool, Parameter(negative="", help="Make it an administrator of the whole lab.")] = False,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    context: Ctx,
) -> None:
    """Make an account that can log in at once, with a team of its own; the first one of a lab is its administrator.

    It works on the data directory itself, also while the daemon runs. Where mail is configured, people can sign up
    on their own too.
    """
    settings = settings_of(config, data_dir)
    own_data_dir(settings.data_dir)
    secret = password if password is not None else ask(f"Password for {email}: ")
    async with open_store(settings.store_url) as store:
        user = await Accounts(store, Passwords(), CredentialCache()).add(
            email=email, password=secret, name=name or email.partition("@")[0][:100], admin=admin, by=SYSTEM
        )
    if context.output.json:
        context.output.document({"user_id": user.id, "email": user.email, "name": user.name, "admin": user.is_admin})
    else:
        context.output.say(f"{user.email} can log in" + (" and administers the lab" if user.is_admin else ""))
