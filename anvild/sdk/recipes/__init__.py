"""Recipes: how a device is prepared before a template is made of it, in a few words.

Each line begins with one of them:

``RUN [--timeout=TIME] COMMAND``
    Run a command by ``sh -c`` on the device; it must end well within the time (30 s).
``START COMMAND``
    Start a command and leave it running.
``ENV NAME=VALUE ...``
    Set variables for what follows, and for the processes of what is made from the template. ``$NAME`` and ``${NAME}``
    stand for what was set before, or is set on the device; ``$$`` is a dollar sign.
``WORKDIR PATH``
    Work in this directory from now on; it is made if need be.
``USER NAME``
    Be this account from now on; it is that of the processes of what is made from the template, too.
``COPY SOURCE ... TARGET``
    Copy files and directories that came with the recipe. The target is a directory when it ends with a slash, or when
    there are several sources; of a directory, what is in it is copied.

Empty lines, and those that begin with ``#``, say nothing. A time is a number of seconds, or one with ``ms``, ``s``,
``m`` or ``h`` behind it.

A **health check** is a command that ends well once the device is ready, with flags before it: ``--interval`` (3 s) is
the time between two attempts, ``--timeout`` (10 s) that of one; failures in the ``--start-period`` (0 s) do not count,
and after ``--retries`` others it is given up (0: never).
"""

from __future__ import annotations

from .cook import Cook, Step, StepFailed, Tree, TreeEntry
from .words import Copy, Env, HealthCheck, Instruction, Run, Start, User, Workdir, parse_health_check, parse_recipe

__all__ = [
    "Cook",
    "Copy",
    "Env",
    "HealthCheck",
    "Instruction",
    "Run",
    "Start",
    "Step",
    "StepFailed",
    "Tree",
    "TreeEntry",
    "User",
    "Workdir",
    "parse_health_check",
    "parse_recipe",
]
