"""The android driver."""
