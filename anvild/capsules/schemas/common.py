"""What the wire shapes of all subjects share."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec

__all__ = ["Moment"]

Moment = Annotated[datetime, msgspec.Meta(tz=True)]
"""A time with its zone. One that is not known is left out, not null."""
