"""anvild driver: Macs, their simulators and the devices paired with them."""
