"""``anvil login`` and ``anvil logout``: keep the address and the key of a daemon for later calls."""

from __future__ import annotations

import os
import socket
from typing import Annotated

import msgspec
from cyclopts import Parameter

from .api import connect
from .context import Context, Ctx
from .profiles import DEFAULT_PROFILE, Profile, remove_profile, save_profile
from .prompt import ask
from .wire import NewKey

__all__ = ["login", "logout"]


async def login(
    *,
    email: Annotated[str | None, Parameter(help="Log in with a password and make a new key.")] = None,
    context: Ctx,
) -> None:
    """Save the address and a key of a daemon, after trying them.

    Without --email, an API key is asked for (or read from standard input). With it, a password is, and a new key is
    made. The key is kept in a file that only you can read; --profile names the entry.
    """
    name = context.profile or DEFAULT_PROFILE
    bare = Context(url=context.url, output=context.output)
    url = bare.connection().url
    if email is not None:
        key = await _key_by_password(bare, email, ask(f"Password for {email}: "))
    else:
        key = context.key or ask("API key: ")
    async with connect(Context(url=url, key=key, output=context.output)) as api:
        me = await api.get("/auth/me")
    path = save_profile(os.environ, name, Profile(key=key, url=url))
    if context.output.json:
        context.output.document({"profile": name, "url": url, "file": str(path), "me": me})
    else:
        context.output.say(f"Connected to {url}; kept in {path} as profile {name!r}.")


def logout(*, context: Ctx) -> None:
    """Forget a saved connection. Its key stays valid; anvil keys revoke ends it."""
    name = context.profile or DEFAULT_PROFILE
    remove_profile(os.environ, name)
    if context.output.json:
        context.output.document({"profile": name, "removed": True})
    else:
        context.output.say(f"The profile {name!r} is forgotten.")


async def _key_by_password(context: Context, email: str, password: str) -> str:
    """Log in, make a key for this machine, and end the login again."""
    async with connect(context) as api:
        await api.log_in(email, password)
        answer = await api.post("/org/api-keys", {"name": f"anvil on {socket.gethostname()}"})
        await api.delete("/auth/session")
    return msgspec.convert(answer, NewKey).plaintext
