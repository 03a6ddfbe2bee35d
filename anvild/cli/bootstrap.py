"""``anvil bootstrap``: the first user, as administrator and owner of a team, with a key for each interface."""

from __future__ import annotations

import os
from typing import Annotated

import msgspec
from cyclopts import Parameter

from anvild.core.identity import bootstrap as make_first_user
from anvild.core.store import open_store

from .context import Ctx
from .machine import ConfigFile, DataDir, own_data_dir, settings_of
from .profiles import DEFAULT_PROFILE, Profile, save_profile
from .prompt import ask

__all__ = ["bootstrap"]


async def bootstrap(
    *,
    email: str,
    password: Annotated[
        str | None, Parameter(help="Asked for, or read from standard input, when not given.", show_default=False)
    ] = None,
    team: Annotated[str | None, Parameter(help="Name of the team that is made for a new account.")] = None,
    data_dir: DataDir = None,
    config: ConfigFile = None,
    save: Annotated[bool, Parameter(negative="", help="Keep the key in the credentials file too.")] = False,
    context: Ctx,
) -> None:
    """Make, or find, the first user as administrator of the lab and owner of a team, and print two new keys.

    It works on the data directory itself, before the first start and while the daemon runs. Called again, it needs
    the same password, and revokes the keys that it made before.
    """
    settings = settings_of(config, data_dir)
    own_data_dir(settings.data_dir)
    secret = password if password is not None else ask(f"Password for {email}: ")
    async with open_store(settings.store_url) as store:
        made = await make_first_user(store, email=email, password=secret, team=team)
    answer = msgspec.to_builtins(made)
    if save:
        name = context.profile or DEFAULT_PROFILE
        path = save_profile(
            os.environ, name, Profile(key=answer["api_key"], data_dir=str(settings.data_dir.absolute()))
        )
    if context.output.json:
        context.output.document(answer)
        return
    context.output.table(["what", "value"], list(answer.items()), empty="")
    if save:
        context.output.say(f"The key is kept in {path} as profile {name!r}.")
