"""anvild notifier: signed webhooks."""
