"""The driver's settings: the table ``[drivers.macos]``."""

from __future__ import annotations

from typing import Annotated

import msgspec

from anvild.sdk import DriverSettings

Word = Annotated[str, msgspec.Meta(min_length=1, max_length=1000, pattern=r"^[^-\s][^\0\n]*$")]


class HostSettings(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One Mac that is reached over SSH: an entry ``[[drivers.macos.hosts]]``."""

    name: Annotated[
        str, msgspec.Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="What the Mac is called in messages.")
    ]
    address: Annotated[
        Word, msgspec.Meta(description="Its host name or address, or a name in the configuration of ssh.")
    ]
    user: Annotated[
        Word | None, msgspec.Meta(description="The account on the Mac; if left out, as ssh is configured.")
    ] = None
    port: Annotated[
        Annotated[int, msgspec.Meta(ge=1, le=65535)] | None,
        msgspec.Meta(description="The port of its sshd; if left out, as ssh is configured."),
    ] = None
    identity_file: Annotated[
        Word | None, msgspec.Meta(description="The private key; if left out, as ssh is configured.")
    ] = None
    ssh_config: Annotated[
        Word | None, msgspec.Meta(description="A configuration file for ssh in place of the user's own.")
    ] = None


class MacosSettings(DriverSettings):
    """What an operator may choose."""

    hosts: Annotated[tuple[HostSettings, ...], msgspec.Meta(description="The Macs that are reached over SSH.")] = ()
    local: Annotated[
        bool | None, msgspec.Meta(description="Offer the daemon's own host; if left out, where that is a Mac.")
    ] = None
    erase_simulators: Annotated[
        bool, msgspec.Meta(description="Erase a simulator with all its content when a lease of it has ended.")
    ] = False
