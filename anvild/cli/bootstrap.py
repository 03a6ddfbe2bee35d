"""``anvil bootstrap``: the first user, as administrator and owner of a team, with a key for each interface."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from anvild.core.identity import bootstrap as make_first_user
from anvild.core.settings import load_settings
from anvild.core.store import open_store

from .context import Ctx
from .exits import ExitCode, Failure
from .profiles import DEFAULT_PROFILE, Profile, save_profile
from .prompt import ask

__all__ = ["bootstrap", "own_data_dir"]


async def bootstrap(
    *,
    email: str,
    password: Annotated[
        str | None, Parameter(help="Asked for, or read from standard input, when not given.", show_default=False)
    ] = None,
    team: Annotated[str | None, Parameter(help="Name of the team that is made for a new account.")] = None,
    data_dir: Annotated[Path | None, Parameter(help="The daemon's data directory.")] = None,
    config: Annotated[Path | None, Parameter(help="Configuration file instead of /etc/anvild.")] = None,
    save: Annotated[bool, Parameter(negative="", help="Keep the key in the credentials file too.")] = False,
    context: Ctx,
) -> None:
    """Make, or find, the first user as administrator of the lab and owner of a team, and print two new keys.

    It works on the data directory itself, before the first start and while the daemon runs. Called again, it needs
    the same password, and revokes the keys that it made before.
    """
    settings = load_settings(config, {"data_dir": data_dir}, os.environ)
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


def own_data_dir(data_dir: Path) -> None:
    """Make the data directory where there is none, and refuse one of another user: its daemon could not go on."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        owner = data_dir.stat().st_uid
    except PermissionError:
        raise Failure(
            ExitCode.NOT_AUTHORISED,
            "permission_denied",
            f"{data_dir} cannot be used by this user; name another with --data-dir, or become its owner "
            "(sudo -u anvild ...)",
        ) from None
    if owner != os.geteuid():
        raise Failure(
            ExitCode.NOT_AUTHORISED,
            "foreign_data_dir",
            f"{data_dir} belongs to user {owner}; run this as that user, or the daemon could not use what it makes "
            "(sudo -u anvild ...)",
        )
