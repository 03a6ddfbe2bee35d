"""Reading recipes: every word, every refusal in words, and no text that reading it breaks on."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anvild.sdk import InvalidArgument
from anvild.sdk.recipes import (
    Copy,
    Env,
    HealthCheck,
    Instruction,
    Run,
    Start,
    User,
    Workdir,
    parse_health_check,
    parse_recipe,
)

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
WORDS = st.text(st.characters(exclude_characters="$\0", exclude_categories=["Cs"]), max_size=20)
COMMANDS = st.text(min_size=1, max_size=60).map(str.strip).filter(lambda text: text and "\0" not in text)


def one(line: str) -> Instruction:
    (found,) = parse_recipe([line])
    return found


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("RUN echo a && echo b", Run(line="RUN echo a && echo b", command="echo a && echo b")),
        ("RUN --timeout=5m make", Run(line="RUN --timeout=5m make", command="make", timeout=300)),
        ("RUN --timeout 90 make", Run(line="RUN --timeout 90 make", command="make", timeout=90)),
        ("RUN\tcat <<E\n x\nE", Run(line="RUN\tcat <<E\n x\nE", command="cat <<E\n x\nE")),
        ("  START serve --port=1 ", Start(line="START serve --port=1", command="serve --port=1")),
        ("ENV A=1 B='x y' C=", Env(line="ENV A=1 B='x y' C=", values=(("A", "1"), ("B", "x y"), ("C", "")))),
        ("ENV P=${A}:$B$$", Env(line="ENV P=${A}:$B$$", values=(("P", "${A}:$B$$"),))),
        ("WORKDIR /srv/a", Workdir(line="WORKDIR /srv/a", path="/srv/a")),
        ("WORKDIR 'a b'", Workdir(line="WORKDIR 'a b'", path="a b")),
        ("USER app-1", User(line="USER app-1", name="app-1")),
        ("COPY a /b", Copy(line="COPY a /b", sources=("a",), target="/b", into=False)),
        ("COPY a /b/", Copy(line="COPY a /b/", sources=("a",), target="/b/", into=True)),
        ("COPY a 'b c' /d", Copy(line="COPY a 'b c' /d", sources=("a", "b c"), target="/d", into=True)),
    ],
)
def test_a_line_is_read(line: str, found: Instruction) -> None:
    assert one(line) == found


def test_lines_that_say_nothing() -> None:
    assert parse_recipe(["", "# RUN no", "  ", "RUN yes"]) == (Run(line="RUN yes", command="yes"),)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("FLY away", "'FLY' is no word of a recipe; those are RUN, START, ENV, WORKDIR, USER, COPY"),
        ("run true", "'run' is no word of a recipe"),
        ("RUN", "a command is missing"),
        ("RUN --timeout=1s", "a command is missing"),
        ("RUN --timeout=0 x", "--timeout is more than 0"),
        ("RUN --timeout=25h x", "--timeout is at most a day"),
        ("RUN --timeout=soon x", "a time such as 30s or 5m, and 'soon' is none"),
        ("RUN --timeout=1s --timeout=2s x", "--timeout is there twice"),
        ("RUN --fast=1 x", "--fast is not known; there are --timeout"),
        ("RUN --timeout", "the flag '--timeout' has no value"),
        ("START", "a command is missing"),
        ("ENV", "NAME=VALUE, once or more often"),
        ("ENV A", "'A' is not that"),
        ("ENV 1A=x", "'1A=x' is not that"),
        ("ENV A=5$", "stands before no name; write $$"),
        ("ENV A='x", "its quotes do not match"),
        ("WORKDIR", "WORKDIR takes a path"),
        ("WORKDIR a b", "WORKDIR takes a path"),
        ("USER", "USER takes the name"),
        ("USER a:b", "'a:b' is no name of an account"),
        ("COPY a", "one source or more, and a target"),
        ("COPY --chown=x a b", "COPY has no flag '--chown=x'"),
        ("RUN a\0b", "a NUL character"),
    ],
)
def test_a_wrong_line_is_refused_in_words(line: str, says: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_recipe(["RUN true", "", line])
    assert caught.value.message.startswith("line 3 of the recipe: ")
    assert says in caught.value.message


def test_a_health_check() -> None:
    assert parse_health_check("curl -f localhost") == HealthCheck(command="curl -f localhost")
    flags = "--interval=500ms --timeout 1.5s --start-period=1m --retries=7"
    assert parse_health_check(f"{flags} test -f /ready") == HealthCheck(
        command="test -f /ready", interval=0.5, timeout=1.5, start_period=60, retries=7
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "a command is missing"),
        ("--retries=-1 x", "--retries is a number"),
        ("--retries=1.5 x", "--retries is a number"),
        ("--timeout=0s x", "--timeout is more than 0"),
        ("--often=1 x", "--often is not known; there are --interval, --timeout, --start-period, --retries"),
    ],
)
def test_a_wrong_health_check_is_refused_in_words(text: str, says: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_health_check(text)
    assert caught.value.message.startswith("the health check: ")
    assert says in caught.value.message


@given(st.lists(st.text(max_size=80) | st.text("RUNSTAECOPYW-= '\"$\n", max_size=40), max_size=5))
def test_any_text_is_read_or_refused(lines: list[str]) -> None:
    refused = None
    try:
        assert len(parse_recipe(lines)) <= len(lines)
    except InvalidArgument as error:
        refused = error
    assert refused is None or " of the recipe: " in refused.message


@given(st.text(max_size=80))
def test_any_health_check_is_read_or_refused(text: str) -> None:
    refused = None
    try:
        found = parse_health_check(text)
        assert found == HealthCheck(command=text.strip()) or text.strip().startswith("--")
    except InvalidArgument as error:
        refused = error
    assert refused is None or refused.message.startswith("the health check: ")


@given(st.dictionaries(NAMES, WORDS, min_size=1, max_size=4))
def test_values_come_through_their_quotes(values: dict[str, str]) -> None:
    found = one("ENV " + " ".join(f"{name}={shlex.quote(value)}" for name, value in values.items()))
    assert isinstance(found, Env)
    assert dict(found.values) == values


@given(st.lists(WORDS.filter(bool), min_size=2, max_size=4))
def test_paths_come_through_their_quotes(paths: list[str]) -> None:
    if paths[0].startswith("--"):
        paths = ["./" + paths[0], *paths[1:]]
    found = one("COPY " + " ".join(map(shlex.quote, paths)))
    assert isinstance(found, Copy)
    assert [*found.sources, found.target] == paths


@given(COMMANDS.filter(lambda text: not text.startswith("--")), st.integers(1, 86400))
def test_commands_are_never_changed(command: str, seconds: int) -> None:
    for line in (f"RUN {command}", f"RUN --timeout={seconds} {command}", f"RUN --timeout={seconds * 1000}ms {command}"):
        found = one(line)
        assert isinstance(found, Run)
        assert found.command == command
