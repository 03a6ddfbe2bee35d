"""The version of the stable interface.

A plugin states the version that it was written for in a module attribute ``ANVIL_API = "1.0"``. The daemon takes any
minor version of its own major and refuses another major with one sentence; see :func:`incompatibility`.
"""

from __future__ import annotations

API_VERSION = "1.0"


def incompatibility(stated: str, offered: str = API_VERSION) -> str | None:
    """Say in one sentence why a plugin written for ``stated`` cannot run on ``offered``; None when it can.

    Only the major number decides: a minor version adds and never takes away, and a plugin that needs an addition
    finds it missing by name, which is a clearer error than a version number.
    """
    try:
        wanted, have = int(stated.split(".")[0]), int(offered.split(".")[0])
    except ValueError:
        return f"it states API version {stated!r}, which is not of the form MAJOR.MINOR"
    if wanted > have:
        return f"it was written for API {stated} and this anvild offers {offered}: upgrade anvild"
    if wanted < have:
        return f"it was written for API {stated} and this anvild offers {offered}: upgrade the plugin"
    return None
