"""Programs with a tag: they outlive the connection, and their output is kept in files on the device.

A small wrapper runs on the device in a session of its own. It cuts each stream of output into files that are named by
the place of their first byte, and removes the oldest beyond the limit; a reader follows the files. A device has no
pipes with names for its shell, so the reader looks for more five times a second.
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Sequence

import trio

from anvild.sdk import DeviceLost, DriverFault, NotFound, Output, Stream, TerminalSize, Unavailable, WrongState

from ..adb.errors import from_device
from ..adb.shell import Shell
from ..link import Link
from ..scripts import FOLDER
from .process import ShellProcess, check_head, read_head

__all__ = ["KEPT_OUTPUT", "attach_tagged", "list_tags", "start_tagged"]

KEPT_OUTPUT = 4 * 2**20
"""Bytes of each stream that are kept for a reader, in files of at most 1 MiB."""

RUNS = f"{FOLDER}/run"
LET_GO_SECONDS = 0.8

WRAPPER = f"""
cd {RUNS}/"$0" || exit 1
keep() {{
  at=0
  while :; do
    dd bs=1024 count=1024 of="$1.$at" 2>/dev/null
    size=$(stat -c %s "$1.$at")
    [ "${{size:-0}}" -gt 0 ] || break
    at=$((at+size))
    for each in "$1".*; do
      [ $((at-${{each#"$1".}})) -le {KEPT_OUTPUT} ] || rm -f "$each"
    done
  done
}}
( ( setsid sh -c 'echo "$$" >pid; cd -- "$PLACE" && unset PLACE && exec "$@"' anvil "$@" </dev/null 2>&1 >&3 3>&-
    echo $? >code ) | keep e 3>&- ) 3>&1 >/dev/null | keep o
mv code exit
"""

START = """
tag=$1; shift
{find}
mkdir -p {runs} || {{ echo "!failed"; exit 0; }}
mkdir {runs}/"$tag" 2>/dev/null || {{ echo "!taken"; exit 0; }}
export PLACE="$PWD"
setsid sh -c {wrapper} "$tag" "$@" </dev/null >/dev/null 2>&1 &
while [ ! -s {runs}/"$tag"/pid ] && [ ! -e {runs}/"$tag"/exit ]; do sleep 0.05; done
cat {runs}/"$tag"/pid
"""

FOLLOW = f"""
cd {RUNS}/"$1" 2>/dev/null || {{ echo "!missing"; exit 0; }}
out=0; err=0
if [ "$2" != replay ] && [ -s place ]; then read -r out err <place; fi
read -r pid <pid
echo "$pid $out $err"
give() {{
  at=$2
  while :; do
    best=; next=
    for each in "$1".*; do
      start=${{each#"$1".}}
      [ "$start" != '*' ] || continue
      if [ "$start" -le "$at" ]; then
        if [ -z "$best" ] || [ "$start" -gt "$best" ]; then best=$start; fi
      elif [ -z "$next" ] || [ "$start" -lt "$next" ]; then next=$start; fi
    done
    if [ -n "$best" ]; then
      more=$(($(stat -c %s "$1.$best" 2>/dev/null || echo 0)+best-at))
      if [ "$more" -gt 0 ]; then
        tail -c "+$((at-best+1))" "$1.$best" | head -c "$more"
        at=$((at+more))
        continue
      fi
    fi
    [ -n "$next" ] || return 0
    at=$next
  done
}}
while :; do
  ended=; [ ! -e exit ] || ended=1
  give o "$out"; out=$at
  give e "$err" >&2; err=$at
  [ -z "$ended" ] || break
  sleep 0.2
done
exit "$(cat exit)"
"""

TAGS = f"""
for each in {RUNS}/*/pid; do
  [ -e "$each" ] || continue
  read -r pid <"$each"
  each=${{each%/pid}}
  echo "$pid ${{each##*/}}"
done
"""

NOTE = f'cd {RUNS}/"$1" 2>/dev/null && echo "$2 $3" >place.new && mv place.new place'
FORGET = f'rm -rf {RUNS}/"$1"'


class TaggedProcess(ShellProcess):
    """A program with a tag, and the reader that follows its output.

    When it is let go of, the device notes how far the reader came; when the reader saw it end, it is forgotten.
    """

    def __init__(
        self, link: Link, shell: Shell, tag: str, *, pid: int, early: list[Output], places: dict[Stream, int]
    ) -> None:
        super().__init__(link, shell, pid=pid, early=early)
        self.tag: str = tag
        self._places = places

    async def receive(self) -> Output | None:
        received = await super().receive()
        if received is not None:
            self._places[received.stream] += len(received.data)
        return received

    async def send(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        raise WrongState("a process with a tag has no standard input on an android device")

    async def close_stdin(self) -> None:
        await trio.lowlevel.checkpoint()

    async def resize(self, size: TerminalSize) -> None:
        await trio.lowlevel.checkpoint()
        raise WrongState("a process with a tag has no terminal on an android device")

    async def _let_go(self) -> None:
        with contextlib.suppress(DeviceLost, Unavailable):  # what is noted nowhere is delivered once more
            if self.ended:
                await self._link.shell(FORGET, self.tag)
            else:
                places = (str(self._places[Stream.STDOUT]), str(self._places[Stream.STDERR]))
                await self._link.shell(NOTE, self.tag, *places)


async def start_tagged(link: Link, tag: str, find: str, arguments: Sequence[str]) -> TaggedProcess:
    """Start a program with a tag; ``find`` is a script that checks ``arguments`` and leaves the program's in ``$@``.

    Cancelling it may leave the program running, which :func:`attach_tagged` then finds. Raises AlreadyExists,
    NotFound, PermissionDenied.
    """
    text = START.format(find=find, runs=RUNS, wrapper=shlex.quote(WRAPPER))
    result = await link.shell(text, tag, *arguments)
    head = check_head(result.text, tag)
    if not head.isdecimal():
        raise from_device(result.said, f"the process {tag!r} cannot be started", DriverFault)
    return await attach_tagged(link, tag)


async def attach_tagged(link: Link, tag: str, *, replay: bool = False) -> TaggedProcess:
    """Follow a program with a tag from where the last reader stopped, or from as far back as its output is kept.

    Raises NotFound.
    """
    shell = await link.start(FOLLOW, tag, "replay" if replay else "")
    try:
        await shell.close_stdin()
        try:
            head, early = await read_head(shell, tag)
        except NotFound:
            raise NotFound(f"the device knows no process with the tag {tag!r}") from None
        pid, out, err = _numbers(head, tag)
    except BaseException:
        with trio.CancelScope(shield=True):
            await shell.aclose()
        raise
    return TaggedProcess(link, shell, tag, pid=pid, early=early, places={Stream.STDOUT: out, Stream.STDERR: err})


async def list_tags(link: Link) -> dict[int, str]:
    """Return the tags of the device's programs by process id."""
    listed = (await link.shell(TAGS)).text
    return {int(pid): tag for pid, _, tag in (line.partition(" ") for line in listed.splitlines()) if pid.isdecimal()}


def _numbers(head: str, tag: str) -> tuple[int, int, int]:
    """The process id and the two places with which the follower begins."""
    words = head.split()
    if len(words) != 3 or not all(word.isdecimal() for word in words):
        raise DriverFault(f"the device said {head!r} of the process {tag!r}")
    pid, out, err = map(int, words)
    return pid, out, err
