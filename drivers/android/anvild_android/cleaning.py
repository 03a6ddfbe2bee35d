"""How a device is brought back to a state that the next lease may start from."""

from __future__ import annotations

from anvild.sdk import Unavailable

from .adb.wire import Closed
from .link import Link
from .scripts import FOLDER, MARK
from .session.apps import APPS, BEFORE, INSTALLED
from .session.apptests import RUNNING
from .session.packages import parse_paths, uninstall_error

__all__ = ["clean"]

STEP_SECONDS = 30.0

END_TESTS = f'[ ! -e {RUNNING} ] || while read -r each; do am force-stop "$each"; done <{RUNNING}'
END_PROGRAMS = f"""
for turn in 1 2 3; do
  left=
  for each in /proc/[0-9]*/environ; do
    [ -r "$each" ] || continue
    pid=${{each#/proc/}}; pid=${{pid%/environ}}
    [ "$pid" != "$$" ] || continue
    tr '\\0' '\\n' <"$each" 2>/dev/null | grep -qxF "{MARK}=$1" || continue
    kill -9 "$pid" 2>/dev/null && left=1
  done
  [ -n "$left" ] || exit 0
done
"""
NOTED = f"""
for each in {APPS}/*; do [ ! -e "$each" ] || echo "installed ${{each##*/}}"; done
[ -e {BEFORE} ] || exit 0
sed 's/^package:/before package:/' {BEFORE}
{INSTALLED} | sed 's/^package:/now package:/'
"""
REMOVE = f"rm -rf {FOLDER} && [ ! -e {FOLDER} ]"


async def clean(link: Link) -> None:
    """End the programs and tests of runs, remove the apps that they installed, reversed ports and anvil's folder.

    Raises DeviceLost, DeadlineExceeded, PermissionDenied for an app that cannot be removed.
    """
    await link.shell(END_TESTS, seconds=STEP_SECONDS)
    await link.shell(END_PROGRAMS, link.identity, seconds=STEP_SECONDS)
    for app in _left(await link.succeed("what runs installed cannot be found", NOTED, seconds=STEP_SECONDS)):
        result = await link.shell('pm path "$1" >/dev/null || { echo Success; exit 0; }; pm uninstall "$1"', app)
        error = uninstall_error(app, result.text)
        if error is not None:
            raise error
    await _take_back_ports(link)
    await link.succeed(f"{FOLDER} cannot be removed", REMOVE, seconds=STEP_SECONDS)


def _left(noted: str) -> list[str]:
    """The apps that runs have left, by what the device has noted: their names, and, for an installation that was cut
    short, what was there before it and what is there now."""
    told: dict[str, list[str]] = {"installed": [], "before": [], "now": []}
    for line in noted.splitlines():
        word, _, rest = line.partition(" ")
        told.get(word, []).append(rest)
    before, now = (parse_paths("\n".join(told[word])) for word in ("before", "now"))
    return sorted({*told["installed"], *(now.keys() - before.keys())})


async def _take_back_ports(link: Link) -> None:
    """Remove all reversed ports of the device."""
    try:
        stream = await link.open("reverse:killforward-all")
    except Unavailable:
        return  # a device that cannot reverse ports
    try:
        await stream.receive_exactly(4)
    except Closed:
        return  # it has removed them, and says nothing of it
    finally:
        await stream.aclose()
