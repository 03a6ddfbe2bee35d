"""The version of the driver protocol, and which versions understand one another."""

from __future__ import annotations

import re

__all__ = ["PROTOCOL_VERSION", "protocol_incompatibility"]

PROTOCOL_VERSION = "1.0"

_FORM = re.compile(r"(\d{1,6})\.(\d{1,6})")


def protocol_incompatibility(host: str, driver: str) -> str | None:
    """Say in one sentence why a host and a driver of these versions cannot talk; None when they can.

    Only the major number decides. A minor version adds methods and fields; who does not know them ignores the fields
    and never calls the methods.
    """
    majors = []
    for side, version in (("host", host), ("driver", driver)):
        form = _FORM.fullmatch(version)
        if form is None:
            return f"the {side} states the protocol version {version[:40]!r}, which is not of the form MAJOR.MINOR"
        majors.append(int(form[1]))
    if majors[0] == majors[1]:
        return None
    older = "host" if majors[0] < majors[1] else "driver"
    return f"the driver speaks protocol {driver} and the host speaks {host}: upgrade the {older}"
