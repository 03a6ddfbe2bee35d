"""anvild notifiers that apprise speaks for: discord, slack, teams, googlechat, telegram, matrix."""
