"""The microvm driver."""
