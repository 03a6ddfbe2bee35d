"""anvild, the daemon of a device lab."""

__version__ = "0.1.0"
