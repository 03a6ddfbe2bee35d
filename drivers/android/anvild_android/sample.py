"""``anvil android``: what a person needs to try the driver."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from .simulator import TestSpec, build_apk

__all__ = ["app"]

PACKAGE = "org.example.notes"
TESTS = (
    TestSpec(name=f"{PACKAGE}.ListTest#adds", seconds=0.2),
    TestSpec(
        name=f"{PACKAGE}.ListTest#removes",
        seconds=0.1,
        outcome="failed",
        message="expected 0 notes but was 1",
        log=("NoteStore: remove(7): no such note",),
    ),
    TestSpec(name=f"{PACKAGE}.SyncTest#later", outcome="skipped", message="there is no account"),
)

app = App(name="android")


@app.command
def sample(directory: Path, /) -> None:
    """Write a small app and its tests, of which one fails, for simulated phones: app.apk and tests.apk.

    They are packages in the platform's own form, but hold no code: a real phone installs and does not run them.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "app.apk").write_bytes(build_apk(PACKAGE, label="Notes"))
    (directory / "tests.apk").write_bytes(build_apk(f"{PACKAGE}.test", target=PACKAGE, instrumentation=TESTS))
