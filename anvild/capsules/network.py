"""What network a capsule has: the one that its creation asks for, or else the one that the settings name."""

from __future__ import annotations

from typing import NoReturn

from anvild.core.engine import Engine
from anvild.core.errors import FieldProblem, InvalidRequest
from anvild.core.settings import CapsuleSettings
from anvild.sdk import CapabilityMissing, InvalidArgument, Network, NetworkPolicy
from anvild.sdk.network.rules import Rules

from .values import Allowed, Wish

__all__ = ["Networks"]

ALL_PUBLIC = ("*",)


class Networks:
    """Decides on the networks of capsules. A driver that can give none is not asked for the one of the settings."""

    def __init__(self, engine: Engine, settings: CapsuleSettings) -> None:
        self._engine = engine
        self._private = settings.network_private
        usual = settings.network
        self._usual: Wish = usual if isinstance(usual, str) else Allowed(allow=usual) if usual else "none"

    def choose(self, wish: Wish | None, driver: str) -> Wish | None:
        """Return what a new capsule of a driver gets, for a wish or for none; None is no network.

        Raises CapabilityMissing when the driver cannot do what was wished for.
        """
        if Network.capability not in self._engine.driver(driver).info.capabilities:
            if wish not in (None, "none"):
                raise CapabilityMissing(
                    f"the driver {driver!r} cannot give capsules a network: leave network out or take another template"
                )
            return None
        chosen = self._usual if wish is None else wish
        return None if chosen == "none" else chosen

    def policy(self, network: Wish | None) -> NetworkPolicy | None:
        """Return what a driver is told of a capsule's network. Raises InvalidRequest that names what cannot be."""
        if network is None or network == "none":
            return None
        allow = ALL_PUBLIC if network == "internet" else network.allow
        policy = NetworkPolicy(allow=allow, private=self._private)
        try:
            Rules(policy)
        except InvalidArgument as error:
            _refuse(str(error.details["field"]), error.message)
        return policy


def _refuse(field: str, message: str) -> NoReturn:
    raise InvalidRequest(f"network.{field}: {message}", (FieldProblem(f"body.network.{field}", message),))
