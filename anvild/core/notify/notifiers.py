"""The notifiers of this daemon: made once, called with a deadline, and kept from harm to each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import trio

from anvild.core.errors import FieldProblem, InvalidRequest
from anvild.core.logging import get_logger
from anvild.sdk import AnvilError, DriverFault, Notice, Notifier, Outbound, Unavailable

__all__ = ["SEND_SECONDS", "Notifiers"]

SEND_SECONDS = 10.0
"""How long a provider may take for one notice."""

_SHORTEST_SECRET = 8

log = get_logger("notify")


class Notifiers:
    """Notifiers by the name of their provider. One that cannot be made is left out, with a line in the log."""

    def __init__(self, kinds: Mapping[str, type[Notifier]], outbound: Outbound) -> None:
        self._notifiers: dict[str, Notifier] = {}
        for name, kind in kinds.items():
            try:
                self._notifiers[name] = kind(outbound)
            except Exception as error:
                log.exception("notifier_broken", notifier=name, reason=repr(error))

    def check(self, provider: str, config: Mapping[str, str]) -> Mapping[str, str]:
        """Return a channel's configuration with what its provider makes itself. Raises InvalidRequest."""
        notifier = self._notifiers.get(provider)
        if notifier is None:
            known = ", ".join(sorted(self._notifiers)) or "none"
            problem = FieldProblem("body.provider", f"one of those that are installed: {known}")
            raise InvalidRequest(f"there is no provider {provider!r}", (problem,))
        checked = _converted(notifier, config)
        values: dict[str, str] = msgspec.to_builtins(checked, str_keys=True)
        return values

    async def send(self, provider: str, config: Mapping[str, str], notice: Notice) -> str:
        """Hand a notice to a provider and return its answer in one line.

        Raises what :meth:`anvild.sdk.Notifier.send` does, and Unavailable for a provider that is not installed or
        does not answer within :data:`SEND_SECONDS`. No message holds a value of the configuration.
        """
        notifier = self._notifiers.get(provider)
        if notifier is None:
            raise Unavailable(f"the provider {provider!r} is not installed any more")
        try:
            with trio.fail_after(SEND_SECONDS):
                return _without(config, await notifier.send(_converted(notifier, config), notice))
        except trio.TooSlowError:
            raise Unavailable(f"the provider did not answer within {SEND_SECONDS:.0f} s") from None
        except AnvilError as error:
            error.message = _without(config, error.message)
            error.args = (error.message,)
            raise
        except Exception as error:
            log.exception("notifier_fault", notifier=provider)
            raise DriverFault(f"the notifier {provider!r} failed with {type(error).__name__}; see the log") from None


def _converted(notifier: Notifier, config: Mapping[str, str]) -> Any:
    try:
        return msgspec.convert(config, notifier.config_type, strict=False)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `$")
        problem = FieldProblem(f"body.config{where.rstrip('`')}", f"{message[0].lower()}{message[1:]}")
        raise InvalidRequest(f"this is not how {notifier.name!r} is configured", (problem,)) from None


def _without(config: Mapping[str, str], text: str) -> str:
    """Blot out what a provider repeats of its configuration."""
    for value in sorted(config.values(), key=len, reverse=True):
        if len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, "…")
    return text
