"""Where the driver joins the daemon."""

ANVIL_API = "1.0"
