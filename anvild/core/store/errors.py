"""The store's own error."""

from __future__ import annotations

from anvild.sdk import AnvilError

__all__ = ["StoreError"]


class StoreError(AnvilError):
    """The store cannot be used as it is: a newer schema, a damaged file, a wrong URL, a closed store.

    The message is one sentence for the operator. Trying again does not help.
    """

    code = "store_error"
    http = 500
