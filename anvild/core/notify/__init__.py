"""Channels: the events of a team, sent to where its people want to hear of them.

The room reads the event log and hands what it finds to notifiers, which are plugins; it knows none of them by name.
"""

from anvild.core.notify.book import Advance, Failure
from anvild.core.notify.delivery import Delivery, DeliveryStatistics, Tell
from anvild.core.notify.notifiers import Notifiers
from anvild.core.notify.outbound import GuardedOutbound
from anvild.core.notify.values import Channel, Letter, LetterState

__all__ = [
    "Advance",
    "Channel",
    "Delivery",
    "DeliveryStatistics",
    "Failure",
    "GuardedOutbound",
    "Letter",
    "LetterState",
    "Notifiers",
    "Tell",
]
