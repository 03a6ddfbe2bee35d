"""The command lines that run on a Mac: words in, one line for its shell out, nothing unquoted.

A line is run by the login shell of the account (zsh, bash) and does no more than to start bash with a fixed script;
what a caller names is passed to it as separate quoted words. The scripts keep to bash 3.2, which every Mac has.
"""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Mapping, Sequence

from anvild.sdk import InvalidArgument

BASH = "/bin/bash"
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# $1 a folder or nothing; then the program. The first line of output says what became of it.
JOB = """\
[ -z "$1" ] || cd -- "$1" 2>/dev/null || { echo folder; exit 127; }
shift
case $1 in */*) program=$1;; *) program=$(type -P -- "$1") || { echo missing; exit 127; };; esac
[ -e "$program" ] || { echo missing; exit 127; }
[ -d "$program" ] && { echo denied; exit 126; }
[ -x "$program" ] || { echo denied; exit 126; }
echo "pid $$"
[ -z "$ANVILD_WAIT" ] || { unset ANVILD_WAIT; read -r go; [ "$go" = go ] || exit 125; }
exec -- "$@"
"""

# $1 a folder to make and to remove, or nothing; then the job. Standard input is the line of life: when it ends, the
# job's process group ends. Whatever the job has left in its group ends with it, too.
HOLD = """\
made=$1; shift
[ -z "$made" ] || mkdir -m 700 -- "$made" || exit 125
exec 3>&2 2>/dev/null
set -m
"$@" </dev/null 2>&3 3>&- & job=$!
{ cat; kill -TERM -- "-$job"; sleep 2; kill -KILL -- "-$job"; } >/dev/null 3>&- & watcher=$!
set +m
wait "$job"; status=$?
kill -KILL -- "-$watcher" "-$job"
[ -z "$made" ] || rm -rf -- "$made"
exit "$status"
"""

# The job has standard input for itself. It begins when it reads the line `go`: by then its end is provided for.
FED = """\
exec 3>&2 2>/dev/null 4<&0 </dev/null
export ANVILD_WAIT=1
set -m
"$@" <&4 2>&3 3>&- 4<&- & job=$!
exec 4<&-
set +m
wait "$job"; status=$?
kill -KILL -- "-$job"
exit "$status"
"""
GO = b"go\n"

# Runs a program that writes its answer into a file, and hands that file over as its own output. $1 a word in the
# arguments that stands for the file, $2 a folder to make for it.
INTO_FILE = """\
slot=$1; folder=$2; shift 2
trap 'trap "" TERM; rm -rf -- "$folder"' EXIT
trap 'exit 143' TERM
mkdir -m 700 -- "$folder" || exit 125
words=()
for word; do [ "$word" = "$slot" ] && word=$folder/answer; words+=("$word"); done
"${words[@]}" >"$folder/said" 2>&1 & wait $!; status=$?
[ "$status" = 0 ] || cat -- "$folder/said" >&2
[ ! -e "$folder/answer" ] || cat -- "$folder/answer"
exit "$status"
"""
SLOT = "@answer@"


def job(argv: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: str | None = None) -> list[str]:
    """Return the words that start ``argv`` and say first what became of it. Raises InvalidArgument."""
    pairs = []
    for name, value in (env or {}).items():
        if not NAME.fullmatch(name):
            raise InvalidArgument(f"{name!r} is no name of an environment variable: use letters, digits and _")
        pairs.append(f"{name}={value}")
    for word in (*argv, *pairs, cwd or ""):
        if "\0" in word:
            raise InvalidArgument(f"{word!r} holds a NUL character, which no program can be given")
    prefix = ["/usr/bin/env", *pairs] if pairs else []
    return [*prefix, BASH, "-c", JOB, "anvild", cwd or "", *argv]


def held(words: Sequence[str], *, folder: str | None = None) -> list[str]:
    """Return the words that run ``words`` until they end or their standard input does."""
    return [BASH, "-c", HOLD, "anvild", folder or "", *words]


def fed(words: Sequence[str]) -> list[str]:
    """Return the words that run ``words`` with their standard input, after the line :data:`GO`."""
    return [BASH, "-c", FED, "anvild", *words]


def into_file(argv: Sequence[str]) -> list[str]:
    """Return the words that run ``argv``, in which :data:`SLOT` stands for a file, and output that file."""
    return [BASH, "-c", INTO_FILE, "anvild", SLOT, unknown_folder(), *argv]


def unknown_folder() -> str:
    """Return a path on a Mac for a folder of the moment, which nobody can know before."""
    return f"/tmp/anvild.{secrets.token_hex(12)}"  # noqa: S108 not guessable, and made for its owner alone


def script(text: str, *words: str) -> list[str]:
    """Return the words that run a fixed script with ``words`` as its arguments."""
    return [BASH, "-c", text, "anvild", *words]


def line(words: Sequence[str]) -> str:
    """Return one line for a login shell."""
    return "exec " + shlex.join(words)
