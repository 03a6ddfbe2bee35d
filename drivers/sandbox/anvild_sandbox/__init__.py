"""The sandbox driver."""
