"""Forwarding of requests and WebSockets to a server that is reached by a byte stream, and speaks HTTP/1.1.

Nothing is held up or gathered: bodies flow both ways at once, each as fast as its reader takes it.
"""

from __future__ import annotations

from .headers import Route
from .request import forward_request
from .server import NoAnswer
from .socket import forward_socket

__all__ = ["NoAnswer", "Route", "forward_request", "forward_socket"]
