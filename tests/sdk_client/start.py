"""Drives the published SDK against a daemon, by ``WRENN_BASE_URL`` and ``WRENN_API_KEY``: ``start.py sync|async PART``.

It prints the names of the SDK's public methods that it has called, as a JSON list; for the part ``methods`` those that
there are. What does not do as the SDK says ends it with a traceback. It runs on the SDK's own Python, without ours.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from clients import KINDS, resolve_local_names
from driven import public_methods, recorded


def main(kind: str, part: str, *_: str) -> None:
    """Drive a part with one of the two clients."""
    methods = public_methods()
    if part == "methods":
        print(json.dumps(list(methods)))
        return
    resolve_local_names()
    with recorded() as called:
        asyncio.run(importlib.import_module(part).drive(KINDS[kind]))
    print(json.dumps([name for name, code in methods.items() if code in called]))


if __name__ == "__main__":
    main(*sys.argv[1:])
