"""The two programs: ``anvild``, the service, and ``anvil``, the client."""
