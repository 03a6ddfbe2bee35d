"""What a pipeline file may say, and what the answer is when it says something else."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from anvild.devicetests.pipelines import (
    Catalogue,
    ExecStep,
    Frozen,
    Given,
    Pipeline,
    PipelineError,
    examine,
    freeze,
    parse,
)
from anvild.devicetests.pipelines.catalogue import UnknownPipeline
from anvild.devicetests.pipelines.text import MissingValue, fill, locate
from anvild.sdk import Severity

PIPELINES = Path(__file__).parents[3] / "config" / "pipelines"

SMALL = """\
description = "small"

[requires]
platforms = ["linux"]

[make.one]
template = "minimal"

[parameters.word]
default = "hello"
pattern = "[a-z ]+"

[[steps]]
verb = "exec"
name = "first"
command = ["echo", "{{ word }}"]
expect = { stdout_contains = "{{ word }}" }
capture = "said"

[[steps]]
verb = "finding"
title = "It said {{ said }}"

[[always]]
verb = "exec"
shell = "true"
"""


def small(old: str = "", new: str = "") -> Pipeline:
    return parse(SMALL.replace(old, new, 1) if old else SMALL, name="small", file="small.toml")


def refusal(old: str, new: str) -> str:
    assert old in SMALL
    with pytest.raises(PipelineError) as caught:
        small(old, new)
    return caught.value.message


def test_what_it_says_is_what_it_means() -> None:
    pipeline = small()
    assert [step.name for step in pipeline.steps] == ["first", "step-2"]
    assert [step.name for step in pipeline.always] == ["always-1"]
    assert pipeline.steps[0].severity is Severity.HIGH
    assert pipeline.steps[1].severity is Severity.INFO
    needs = pipeline.requirements()
    assert needs.platforms == ("linux",)
    assert needs.capabilities == ("exec",)
    assert needs.make["one"].template == "minimal"


@pytest.mark.parametrize("path", sorted(PIPELINES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_pipelines_that_ship_can_be_used(path: Path) -> None:
    pipeline = parse(path.read_text(), name=path.stem, file=path.name)
    values = {name: each.default or "some.value" for name, each in pipeline.parameters.items()}
    inputs = {name: Given(artifact="a", name=name, size=1) for name in pipeline.inputs}
    frozen = freeze(pipeline, {"parameters": values}, inputs)
    assert msgspec.convert(msgspec.to_builtins(frozen), Frozen) == frozen
    assert pipeline.description


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('verb = "exec"', 'verb = "exce"', "small.toml, line 14: unknown verb 'exce'; did you mean 'exec'?"),
        ('capture = "said"', 'captur = "x"', "small.toml, line 18: unknown key 'captur'; did you mean 'capture'?"),
        ("stdout_contains", "stdout_contain", "line 17: unknown key 'stdout_contain'; did you mean 'stdout_contains'?"),
        ("[requires]", "[require]", "line 3: unknown key 'require'; did you mean 'requires'?"),
        ("template =", "tempalte =", "line 7: unknown key 'tempalte'; did you mean 'template'?"),
        ('template = "minimal"', "template = 3", "make[...].template: Expected `str`, got `int`"),
        ('name = "first"', "timeout = -1", "line 15: steps[0].timeout: Expected `float` > 0"),
        ('verb = "finding"\n', "", "line 20: the step names no verb; known are assert, clear, crash_reports"),
        ("{{ said }}", "{{ sayed }}", "line 22: nothing is called 'sayed' here; did you mean 'said'?"),
        ('command = ["echo", "{{ word }}"]', "", "line 13: an exec step has either 'command' or 'shell'"),
        ('shell = "true"', 'shell = "echo {{ word }}"', "line 26: a shell text takes no {{ word }}"),
        ('shell = "true"', 'shell = "true"\nname = "first"', "two steps are called 'first'"),
        ('title = "It said {{ said }}"', "", "a finding step needs a 'title'"),
        ('platforms = ["linux"]', 'capabilities = ["exek"]', "unknown capability 'exek'; did you mean 'exec'?"),
        ('pattern = "[a-z ]+"', 'pattern = "["', "line 11: '[' is no regular expression"),
        ("stdout_contains = ", "stdout_matches = '(' #", "line 17"),
        ("[parameters.word]", "[parameters.attempt]", "'attempt' is the name of a value that every run has"),
        ('description = "small"', 'name = "other"', "the file is called 'small' and its pipeline 'other'"),
        ('description = "small"', "description = ", "this is not TOML"),
        ("[[steps]]", '[[steps]]\nverb = "push"\npath = "here"\ntext = "x"\n[[steps]]', "line 15: the path 'here'"),
        ("[[steps]]", '[[steps]]\nverb = "push"\npath = "/x"\n[[steps]]', "either 'text' or 'base64'"),
        ("[[steps]]", '[[steps]]\nverb = "push"\npath = "/x"\nbase64 = "?"\n[[steps]]', "this is not base64"),
    ],
)
def test_a_mistake_is_refused_with_its_place(old: str, new: str, message: str) -> None:
    assert message in refusal(old, new)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ('verb = "install"\ninput = "ap"', "line 16: the pipeline has no input 'ap'; did you mean 'app'?"),
        ('verb = "push"\npath = "/x"\ninput = "app"\ntext = ""', "either 'text' or 'base64' or 'input'"),
        ('verb = "wait"\nname = "w"', "line 14: a wait step has either 'path' or 'seconds'"),
        ('verb = "wait"\nseconds = 60', "line 16: the step is given up after its timeout of 60 s"),
        ('verb = "assert"\nvalue = "x"', "an assert step has 'equals', 'contains' or 'matches'"),
        ('verb = "assert"\nvalue = "x"\nmatches = "("', "line 17: '(' is no regular expression"),
        ('verb = "test"\ntarget = "x"\nexpect = { max_tests = 0 }', "line 17: 'max_tests' is less than 'min_tests'"),
        ('verb = "logs"\nsince = "first"', "line 16: no step before this one is called 'first'; known are run"),
        ('verb = "finding"\nname = "run"\ntitle = "x"', "no step can be called 'run': that is the run itself"),
        ('verb = "instal"\ninput = "app"', "line 15: unknown verb 'instal'; did you mean 'install'?"),
        ('verb = "test"\ntarget = "x"\nexpect = { max_test = 0 }', "unknown key 'max_test'; did you mean 'max_tests'?"),
    ],
)
def test_a_mistake_in_a_verb_for_apps_is_refused(step: str, message: str) -> None:
    assert message in refusal("[[steps]]", f"[inputs.app]\n[[steps]]\n{step}\n[[steps]]")


def test_all_problems_are_told_at_once_and_in_order() -> None:
    document = SMALL.replace('"exec"', '"exce"', 1).replace("title", "titel").replace("pattern", "patern")
    pipeline, problems = examine(document, name="small", file="small.toml")
    assert pipeline is None
    assert [str(problem).partition(";")[0] for problem in problems] == [
        "small.toml, line 11: unknown key 'patern'",
        "small.toml, line 14: unknown verb 'exce'",
        "small.toml, line 22: unknown key 'titel'",
    ]
    with pytest.raises(PipelineError, match=r"'pattern'\? \(and 2 more: see anvil pipeline check\)"):
        parse(document, name="small", file="small.toml")
    contradictory = SMALL.replace("[a-z ]+", "[").replace("{{ said }}", "{{ sayed }}")
    assert [problem.line for problem in examine(contradictory, name="small", file="x")[1]] == [11, 22]


def test_what_a_verb_needs_is_asked_of_the_device() -> None:
    text = "".join(
        f"[[{part}]]\nverb = {verb!r}\n{keys}\n"
        for part, verb, keys in (
            ("steps", "wait", "seconds = 1"),
            ("steps", "launch", "app = 'x'"),
            ("steps", "test", "target = 'x'"),
            ("steps", "reboot", ""),
            ("on_failure", "record", ""),
            ("always", "logs", ""),
            ("always", "crash_reports", ""),
        )
    )
    needs = parse(text, name="all", file="all.toml").requirements().capabilities
    assert needs == ("app_tests", "apps", "attachments", "crash_reports", "logs", "power", "screen")


def test_a_captured_value_is_known_only_after_its_step() -> None:
    early = "[[steps]]\nverb = 'finding'\ntitle = '{{ said }}'\n\n[[steps]]"
    assert "nothing is called 'said'" in refusal("[[steps]]", early)


def test_a_line_is_found_behind_a_long_text() -> None:
    document = "a = '''\n[[steps]]\nb = 1\n'''\n[[steps]]\nb = 2\n[steps.expect]\nexit = 1\n"
    assert locate(document, ("steps", 0, "b")) == 6
    assert locate(document, ("steps", 0, "expect", "exit")) == 8
    assert locate(document, ("steps", 0, "nothing")) == 5
    assert locate(document, ("nowhere",)) is None


def test_values_are_filled_in() -> None:
    assert fill("a {{ b }} {{c}} {{.D}} {{ B }}", {"b": "1", "c": "2"}) == "a 1 2 {{.D}} {{ B }}"
    assert fill("^{{ b }}$", {"b": "a.b"}, pattern=True) == r"^a\.b$"
    with pytest.raises(MissingValue):
        fill("{{ b }}", {})


def test_a_run_binds_its_own_values() -> None:
    frozen = freeze(small(), {"parameters": {"word": "good day"}, "env": {"N": 3, "YES": True}, "else": [1]})
    assert frozen.parameters == {"word": "good day"}
    assert frozen.env == {"N": "3", "YES": "true"}
    assert isinstance(frozen.pipeline.steps[0], ExecStep)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"parameters": {"wrod": "x"}}, "has no parameter 'wrod'; did you mean 'word'?"),
        ({"parameters": {"word": "LOUD"}}, "the parameter 'word' must match"),
        ({"parameters": {"word": ["x"]}}, "metadata.parameters.word must be a text, a number or a boolean"),
        ({"parameters": "x"}, "metadata.parameters must be an object"),
        ({"env": {"A B": "x"}}, "metadata.env is not an environment"),
    ],
)
def test_values_that_do_not_fit_are_refused(metadata: dict[str, object], message: str) -> None:
    with pytest.raises(PipelineError) as caught:
        freeze(small(), metadata)
    assert message in caught.value.message


def test_a_parameter_without_default_must_be_given() -> None:
    with pytest.raises(PipelineError, match="needs the parameter 'word'"):
        freeze(small('default = "hello"\n', ""), {})


def test_inputs_are_bound() -> None:
    pipeline = small("[[steps]]", "[inputs.app]\n[inputs.data]\nrequired = false\n[[steps]]")
    app = Given(artifact="a1", name="app.apk", size=7)
    assert freeze(pipeline, {}, {"app": app}).inputs == {"app": app}
    with pytest.raises(PipelineError, match="needs the input 'app': upload the file"):
        freeze(pipeline, {})
    with pytest.raises(PipelineError, match="has no input 'ap'; did you mean 'app'"):
        freeze(pipeline, {}, {"ap": app})


async def test_the_catalogue_reads_files_when_they_change(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    catalogue = Catalogue([first, second])
    with pytest.raises(UnknownPipeline, match="there are: none at all"):
        await catalogue.get("small")
    (first / "small.toml").write_text(SMALL)
    one = await catalogue.get("small")
    assert await catalogue.get("small") is one
    second.mkdir()
    (second / "small.toml").write_text(SMALL.replace('description = "small"', 'description = "mine"'))
    assert (await catalogue.get("small")).description == "mine"
    (second / "small.toml").write_text("steps = 3")
    os.utime(second / "small.toml", ns=(1, 1))
    with pytest.raises(PipelineError, match=r"small\.toml, line 1: steps: Expected `array`"):
        await catalogue.get("small")
    (second / "big.toml").write_bytes(b"#" * 300_000)
    (second / "binary.toml").write_bytes(b"\xff\xfe")
    listed = {item.name: item for item in await catalogue.all()}
    assert sorted(listed) == ["big", "binary", "small"]
    assert "larger than" in (listed["big"].problem or "")
    assert "cannot be read" in (listed["binary"].problem or "")
    with pytest.raises(UnknownPipeline, match="no pipeline 'smal'; there are: big, binary, small"):
        await catalogue.get("smal")
