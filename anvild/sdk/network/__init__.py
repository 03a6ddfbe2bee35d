"""The network of devices that have none of their own: a filter that decides by a policy, and a proxy in front of it.

A driver whose devices have a guest agent makes an :class:`Outlet` of ``DeviceRequest.network``, serves it on the
connection with the agent, and adds :func:`proxy_environment` to the environment of the device's programs.
"""

from __future__ import annotations

from .addresses import Reach, is_own, parse_address, reach_of
from .filter import Filter, Resolve
from .outlet import PROXY_PORT, Outlet, proxy_environment
from .proxy import serve_program
from .rules import Rules, check_private
from .way import Client, Way

__all__ = [
    "PROXY_PORT",
    "Client",
    "Filter",
    "Outlet",
    "Reach",
    "Resolve",
    "Rules",
    "Way",
    "check_private",
    "is_own",
    "parse_address",
    "proxy_environment",
    "reach_of",
    "serve_program",
]
