"""A client of the adb server, spoken to by its own socket protocol: no adb process per command."""
