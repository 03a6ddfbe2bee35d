"""The event log: every fact that has happened, in commit order. All that is shown outside only reads it."""

from anvild.core.events.filter import ALL, EventFilter
from anvild.core.events.follower import Follower, SlowReader
from anvild.core.events.log import EventLog, EventLogStatistics, append

__all__ = ["ALL", "EventFilter", "EventLog", "EventLogStatistics", "Follower", "SlowReader", "append"]
