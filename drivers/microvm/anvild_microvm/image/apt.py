"""The host's own package sources: guests are built from what the operator already trusts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from anvild.sdk import Unavailable

__all__ = ["Source", "host_codename", "host_sources", "read_one_line", "read_stanzas"]

ETC_APT = Path("/etc/apt")
OPTIONS = {"signed-by": "Signed-By", "trusted": "Trusted", "arch": "Architectures"}
"""The options that matter, as the classic form names them and as deb822 does."""

OS_RELEASE = Path("/etc/os-release")


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """One place that binary packages come from. ``options`` are deb822 fields such as ``Signed-By``."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    options: dict[str, str] = {}

    def stanza(self) -> str:
        """Return it in deb822 form."""
        fields = {
            "Types": "deb",
            "URIs": " ".join(self.uris),
            "Suites": " ".join(self.suites),
            "Components": " ".join(self.components),
            **self.options,
        }
        return "".join(f"{key}: {value}\n" for key, value in fields.items() if value)


def host_codename(os_release: Path = OS_RELEASE) -> str:
    """Return the release name of the host's distribution. Raises Unavailable when the host has none."""
    for line in os_release.read_text().splitlines() if os_release.exists() else ():
        key, _, value = line.partition("=")
        if key == "VERSION_CODENAME":
            return value.strip("\"'")
    raise Unavailable(f"images are built from the packages of a Debian release, and {os_release} names none")


def host_sources(codename: str, etc: Path = ETC_APT) -> list[Source]:
    """Return the host's sources of the release ``codename`` with its updates.

    Sources of other makers (suites that are not of the release) are left out. Raises Unavailable when none is left.
    """
    found: list[Source] = []
    for path in (etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))):
        if path.suffix == ".sources":
            found += read_stanzas(path.read_text())
        elif path.suffix == ".list" and path.exists():
            found += read_one_line(path.read_text().splitlines())
    kept = []
    for source in found:
        suites = tuple(suite for suite in source.suites if suite == codename or suite.startswith(f"{codename}-"))
        if suites:
            kept.append(msgspec.structs.replace(source, suites=suites))
    if not kept:
        raise Unavailable(f"the host has no apt sources of its release {codename!r} in {etc}")
    return kept


def read_one_line(lines: Iterable[str]) -> Iterator[Source]:
    """Parse the classic form: ``deb [option=value ...] uri suite component ...``."""
    for line in lines:
        words = line.partition("#")[0].split()
        if not words or words[0] != "deb":
            continue
        options = {}
        rest = words[1:]
        if rest and rest[0].startswith("["):
            end = next((i for i, word in enumerate(rest) if word.endswith("]")), len(rest) - 1)
            pairs = " ".join(rest[: end + 1]).strip("[] ").split()
            named = (pair.partition("=") for pair in pairs)
            options = {
                OPTIONS[key.lower()]: value.replace(",", " ") for key, _, value in named if key.lower() in OPTIONS
            }
            rest = rest[end + 1 :]
        if len(rest) >= 2:
            yield Source(uris=(rest[0],), suites=(rest[1],), components=tuple(rest[2:]), options=options)


def read_stanzas(text: str) -> Iterator[Source]:
    """Parse the deb822 form. Disabled stanzas and source-only ones are left out."""
    for block in text.split("\n\n"):
        fields: dict[str, str] = {}
        key = ""
        for line in block.splitlines():
            if line.startswith("#") or not line.strip():
                continue
            if line[0] in " \t":
                fields[key] = f"{fields.get(key, '')}\n{line}"
            else:
                key, _, value = line.partition(":")
                key = key.strip().title()
                fields[key] = value.strip()
        if "deb" in fields.get("Types", "").split() and fields.get("Enabled", "yes").lower() not in ("no", "false"):
            yield Source(
                uris=tuple(fields.get("Uris", "").split()),
                suites=tuple(fields.get("Suites", "").split()),
                components=tuple(fields.get("Components", "").split()),
                options={k: v for k, v in fields.items() if k in OPTIONS.values()},
            )
