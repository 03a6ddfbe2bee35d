"""Drivers in processes of their own: spawned, bounded, watched over, and ended with all that they started."""

from anvild.core.isolation.own_process import OwnProcess

__all__ = ["OwnProcess"]
