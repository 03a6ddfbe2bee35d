"""What a connection counts."""

from __future__ import annotations

import msgspec

__all__ = ["Statistics"]


class Statistics(msgspec.Struct, kw_only=True):
    """The state of a connection at one moment, and what has gone over it since it began.

    ``requests`` are in flight, ``abandoned`` were cancelled and are still unanswered. ``buffered`` bytes are held for
    readers of streams, ``unsent`` ones wait to be sent. ``dropped`` counts messages that came for a stream that nobody
    wants any more; ``lost_lines`` is how many lines of its log the driver could not send; ``faults`` counts the
    breaches of the protocol.
    """

    sessions: int = 0
    requests: int = 0
    abandoned: int = 0
    streams: int = 0
    buffered: int = 0
    peak_buffered: int = 0
    unsent: int = 0
    peak_unsent: int = 0
    messages_sent: int = 0
    messages_received: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    dropped: int = 0
    lost_lines: int = 0
    faults: int = 0
