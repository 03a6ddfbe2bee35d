"""The operator's and the client's guide tell the truth: their tables are the code's, their commands exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from anvild.cli import client
from anvild.cli.exits import EXIT_TABLE
from anvild.core.settings import DriverHosting, Settings

DOCS = Path(__file__).resolve().parents[2] / "docs"
OPERATOR, CLIENT = ((DOCS / name).read_text() for name in ("operator.md", "client.md"))


def settings_rows(kind: type[msgspec.Struct] = Settings, at: tuple[str, ...] = ()) -> Iterator[str]:
    for field in msgspec.structs.fields(kind):
        path = (*at, field.name)
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            yield from settings_rows(field.type, path)
            continue
        metas = [each for each in get_args(field.type)[1:] if isinstance(each, msgspec.Meta)]
        told = next((meta.description for meta in metas if meta.description), None)
        if told is not None:
            short = path == ("identity", "bearer_token")
            variable = "ANVIL_BEARER_TOKEN" if short else "ANVIL_" + "_".join(path).upper()
            default = msgspec.json.encode(field.default, enc_hook=str).decode()
            yield f"| `{'.'.join(path)}` | `{variable}` | `{default}` | {told} |"


def test_the_settings_are_those_of_the_code() -> None:
    rows = list(settings_rows())
    told = [line for line in OPERATOR.splitlines() if line.startswith("| `") and "| `ANVIL_" in line]
    assert told == rows, "the table of docs/operator.md should be:\n" + "\n".join(rows)


def test_the_settings_of_every_driver_are_those_of_the_code() -> None:
    rows = []
    for field in msgspec.structs.fields(DriverHosting):
        told = next(each.description for each in get_args(field.type)[1:] if isinstance(each, msgspec.Meta))
        rows.append(f"| `drivers.NAME.{field.name}` | `{msgspec.json.encode(field.default).decode()}` | {told} |")
    assert [line for line in OPERATOR.splitlines() if line.startswith("| `drivers.NAME.")] == rows


@pytest.mark.parametrize("text", [OPERATOR, CLIENT], ids=["operator", "client"])
def test_the_exit_codes_are_those_of_the_code(text: str) -> None:
    rows = [f"| {int(code)} | {meaning} |" for code, meaning in EXIT_TABLE.items()]
    told = [line for line in text.splitlines() if re.match(r"\| \d+ \| [A-Z]", line)]
    assert told == rows, "the table should be:\n" + "\n".join(rows)


def commands(text: str) -> Iterator[list[str]]:
    """Every call of ``anvil`` in the fenced blocks and in the running text."""
    for block in re.findall(r"```(?:console|text)\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            for call in re.findall(r"(?:^|\$\(|\bsudo -u anvild )(?:\$ )?(anvil .*?)(?:\)$|#|$)", line.strip()):
                yield shlex.split(call)
    for call in re.findall(r"`(anvil [a-z][^`…]*)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        yield shlex.split(call)


@pytest.mark.parametrize(
    "call", [*commands(OPERATOR), *commands(CLIENT)], ids=lambda call: " ".join(call)[:60].replace("/", "|")
)
def test_the_commands_exist(call: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    own = call[1 : call.index("--")] if "--" in call else call[1:]
    app = client.build()
    chain, _, _ = app.parse_commands(own)
    assert chain, f"{' '.join(call)}: there is no such command"
    app.meta([*chain, "--help"])
    told = capsys.readouterr().out
    options = [word.partition("=")[0] for word in own if word.startswith("--")]
    assert [option for option in options if option not in told] == []


def test_the_check_finds_commands() -> None:
    assert len(list(commands(OPERATOR))) > 10
    assert len(list(commands(CLIENT))) > 20


@pytest.mark.parametrize("text", [OPERATOR, CLIENT], ids=["operator", "client"])
def test_the_links_inside_lead_somewhere(text: str) -> None:
    heads = {re.sub(r"[^\w\- ]", "", head).lower().replace(" ", "-") for head in re.findall(r"^#+ (.+)$", text, re.M)}
    assert [link for link in re.findall(r"\]\(#([^)]+)\)", text) if link not in heads] == []
