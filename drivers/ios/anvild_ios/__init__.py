"""The driver of iPhones and iPads."""
