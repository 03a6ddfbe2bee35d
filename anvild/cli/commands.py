"""The built-in commands of ``anvil``, registered through the same hook as a stranger's.

Each is named by its import path, so that a module is imported when its command is called and not before.
"""

from __future__ import annotations

import structlog
from cyclopts import App, CommandCollisionError, Group

from anvild.sdk import hookimpl

ANVIL_API = "1.0"

log = structlog.get_logger(part="cli")

WORK = Group.create_ordered("Work")
LAB = Group.create_ordered("Lab")
MACHINE = Group.create_ordered("This machine")

COMMANDS: tuple[tuple[str, str, Group, str], ...] = (
    ("run", "anvild.cli.run:run", WORK, "Run a pipeline and follow it to its end."),
    ("runs", "anvild.cli.runs:app", WORK, "List runs, look into one, cancel, pause, fetch what it left."),
    ("devices", "anvild.cli.devices:app", WORK, "List devices, make them, use them by hand."),
    ("capsules", "anvild.cli.capsules:app", WORK, "Make capsules, run programs in them, pause, fork, end them."),
    ("events", "anvild.cli.events:events", WORK, "Show what happened, and follow what happens."),
    ("pipelines", "anvild.cli.pipeline:app", LAB, "List the pipelines that can be run, check files of them."),
    ("drivers", "anvild.cli.drivers:app", LAB, "List the drivers and how they are, rearm one."),
    ("plugins", "anvild.cli.lab:plugins", LAB, "List the plugins that the daemon found."),
    ("keys", "anvild.cli.keys:app", LAB, "List, create and revoke API keys."),
    ("login", "anvild.cli.login:login", LAB, "Save the address and the key of a daemon."),
    ("logout", "anvild.cli.login:logout", LAB, "Forget a saved connection."),
    ("bootstrap", "anvild.cli.bootstrap:bootstrap", MACHINE, "Make the first user, team and keys of a daemon."),
    ("user", "anvild.cli.user:app", MACHINE, "Make accounts for people."),
    ("image", "anvild.cli.image:app", MACHINE, "Build the images that devices are made from."),
    ("driver", "anvild.cli.driver:app", MACHINE, "Write a driver, check it, drive it by hand."),
    ("backup", "anvild.cli.maintenance:backup", MACHINE, "Write everything that must be kept to one file."),
    ("restore", "anvild.cli.maintenance:restore", MACHINE, "Bring a backup back into an empty data directory."),
    ("check-config", "anvild.cli.checkconfig:check_config", MACHINE, "Check the configuration and show it."),
    ("completion", "anvild.cli.completion:app", MACHINE, "Complete words in your shell."),
)

ALIASES = {"capsules": "capsule", "devices": "device", "pipelines": "pipeline"}


@hookimpl
def anvil_commands(app: App) -> None:
    """Add the commands of our own. A name that another plugin took first stays with it, and is said to be."""
    for name, path, group, help_text in COMMANDS:
        try:
            app.command(path, name=name, alias=ALIASES.get(name), group=group, help=help_text)
        except CommandCollisionError:
            log.warning("command_taken", command=name, reason="another plugin registered it first")
