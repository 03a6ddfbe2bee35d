"""What the steps of a pipeline do on a device, and what is left when they do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from anvild.devicetests.workload import PipelineWorkload
from anvild.sdk import DeviceLost, Outcome, RunFailed, Severity, Verdict


async def failure(run: Callable[..., Any], *args: Any, **metadata: Any) -> RunFailed:
    with pytest.raises(RunFailed) as caught:
        await run(*args, **metadata)
    return caught.value


def document(*steps: str, always: tuple[str, ...] = (), head: str = "") -> str:
    return head + "".join(f"[[steps]]\n{step}\n" for step in steps) + "".join(f"[[always]]\n{s}\n" for s in always)


async def test_a_pipeline_passes_and_leaves_its_report(lab: Any, tmp_path: Path) -> None:
    outcome = await lab.run(
        document(
            f"verb = 'push'\npath = '{tmp_path}/in/word.txt'\ntext = '{{{{ word }}}}, <b>run</b> {{{{ run_id }}}}'",
            f"verb = 'exec'\nname = 'read'\ncommand = ['cat', 'word.txt']\ncwd = '{tmp_path}/in'\n"
            "expect = { stdout_contains = '{{ word }}', stdout_matches = ['^hello', 'run$'] }\ncapture = 'said'",
            "verb = 'exec'\nname = 'told'\nshell = 'echo \"$WORD$EXTRA\" >&2'\nenv = { WORD = '{{ word }}' }\n"
            "expect = { stderr_contains = 'hello!' }",
            f"verb = 'list'\npath = '{tmp_path}/in/'\nexpect = {{ contains = 'word.txt', not_contains = ['other'] }}",
            f"verb = 'wait'\npath = '{tmp_path}/in/word.txt'",
            f"verb = 'pull'\nname = 'keep'\npath = ['{tmp_path}/in/word.txt', '{tmp_path}/none']\nmissing = 'ok'",
            "verb = 'finding'\ntitle = 'It said: {{ said }}'\ndetail = 'all of it'",
            head="[parameters.word]\ndefault = 'hello'\n",
        ).replace("run$", "run</b> 0190-run$"),
        env={"EXTRA": "!"},
    )
    assert outcome == Outcome(verdict=Verdict.PASSED, reason="7 of 7 steps passed")
    said = "hello, <b>run</b> 0190-run"
    assert lab.kept.findings == [(Severity.INFO, f"It said: {said}", "fact", "all of it")]
    assert lab.kept.artifacts["keep-word.txt"].decode() == said
    assert lab.kept.artifacts["step-02.log"].decode() == said
    assert lab.kept.steps("passed") == ["step-1", "read", "told", "step-4", "step-5", "keep", "step-7"]
    shown = [data for kind, data in lab.kept.events if kind == "output"]
    assert {"step": "told", "stream": "stderr", "text": "hello!\n"} in shown
    report = json.loads(lab.kept.artifacts["report.json"])
    assert report["verdict"] == "passed"
    assert report["values"] == {"said": said}
    page = lab.kept.artifacts["report.html"].decode()
    assert "hello, &lt;b&gt;run&lt;/b&gt;" in page
    assert "<b>" not in page


async def test_a_failed_expectation_is_a_finding_and_fails_the_run(lab: Any) -> None:
    failed = await failure(
        lab.run,
        document(
            "verb = 'exec'\nname = 'bad'\nshell = 'echo one; echo two >&2; exit 3'\nseverity = 'critical'\n"
            "category = 'crash'\ntitle = 'It broke'",
            "verb = 'exec'\nname = 'never'\ncommand = ['true']",
            always=("verb = 'exec'\nname = 'tidy'\nshell = 'echo tidied'",),
        ),
    )
    assert (failed.code, failed.retry) == ("expectation_failed", False)
    assert failed.message == "step 'bad': exit code 3, expected exit code 0"
    severity, title, category, detail = lab.kept.findings[0]
    assert (severity, title, category) == (Severity.CRITICAL, "It broke", "crash")
    assert detail == "exit code 3, expected exit code 0\n\nstdout:\none\nstderr:\ntwo"
    assert lab.kept.steps("skipped") == ["never"]
    assert lab.kept.steps("passed") == ["tidy"]
    assert json.loads(lab.kept.artifacts["report.json"])["verdict"] == "failed"


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        ("command = ['sh', '-c', 'kill -9 $$']", "ended by signal 9, expected exit code 0"),
        ("shell = 'echo no'\nexpect = { stdout_contains = 'yes' }", "no line of stdout contains 'yes'"),
        ("shell = 'echo no'\nexpect = { not_stdout_matches = '^n' }", "a line of stdout matches '^n'"),
        ("shell = 'exit 0'\nexpect = { exit = 1 }", "exit code 0, expected exit code 1"),
        ("command = ['/no/such/program']", "there is no program '/no/such/program'"),
        ("shell = 'echo here; sleep 60'\ntimeout = 0.2", "it did not end within 0.2 s and has been ended"),
    ],
)
async def test_every_expectation_says_what_it_missed(lab: Any, step: str, reason: str) -> None:
    failed = await failure(lab.run, document(f"verb = 'exec'\n{step}"))
    assert failed.message == f"step 'step-1': {reason}"


async def test_other_verbs_fail_with_a_sentence_too(lab: Any, tmp_path: Path) -> None:
    (tmp_path / "old").touch()
    steps = (
        f"verb = 'list'\nname = 'a'\nrequired = false\npath = '{tmp_path}'\nexpect = {{ contains = 'new' }}",
        f"verb = 'list'\nname = 'b'\nrequired = false\npath = '{tmp_path}'\nexpect = {{ not_contains = 'old' }}",
        f"verb = 'wait'\nname = 'c'\nrequired = false\npath = '{tmp_path}/new'\ntimeout = 0.2",
        f"verb = 'wait'\nname = 'd'\nrequired = false\npath = '{tmp_path}/old'\ngone = true\ntimeout = 0.2",
        f"verb = 'pull'\nname = 'e'\nrequired = false\npath = '{tmp_path}/new'",
    )
    outcome = await lab.run(document(*steps))
    assert outcome.reason == "0 of 5 steps passed"
    assert [title for _, title, _, _ in lab.kept.findings] == [
        f"a: {tmp_path} holds no 'new'",
        f"b: {tmp_path} holds 'old'",
        "c: it did not end within 0.2 s",
        "d: it did not end within 0.2 s",
        f"e: there is no file {tmp_path}/new to pull",
    ]


async def test_a_step_whose_value_was_never_captured_is_skipped(lab: Any) -> None:
    steps = ("verb = 'exec'\nname = 'a'\nrequired = false\nshell = 'echo x; exit 1'\ncapture = 'x'",)
    await lab.run(document(*steps, "verb = 'finding'\nname = 'b'\ntitle = 'x is {{ x }}'"))
    assert lab.kept.steps("skipped") == ["b"]
    assert [title for _, title, _, _ in lab.kept.findings] == ["a: exit code 1, expected exit code 0"]


async def test_long_output_is_judged_whole_kept_whole_and_shown_in_part(lab: Any) -> None:
    script = "i=0; while [ $i -lt 20000 ]; do echo line number $i; i=$((i+1)); done; printf last"
    outcome = await lab.run(
        document(
            f"verb = 'exec'\nshell = '{script}'\nexpect = {{ stdout_matches = ['^line number 19999$', '^last$'] }}"
        )
    )
    assert outcome.verdict is Verdict.PASSED
    shown = [data["text"] for kind, data in lab.kept.events if kind == "output"]
    assert max(map(len, shown)) <= 4096
    assert 0 < sum(map(len, shown)) <= 64 * 1024
    assert lab.kept.artifacts["step-01.log"].count(b"\n") == 20000
    assert [data["message"] for kind, data in lab.kept.events if kind == "log"] == [
        "the rest of the output of step 'step-1' is in its log alone"
    ]


async def test_a_lost_device_is_no_verdict_on_the_thing_under_test(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def lost(*_: Any) -> None:
        raise DeviceLost("it is gone")

    context = lab.context(lab.frozen(document("verb = 'exec'\ncommand = ['true']")))
    monkeypatch.setattr(context.session, "start", lost)
    with pytest.raises(DeviceLost):
        await PipelineWorkload().run(context)
    assert lab.kept.findings == []


THREE = document(
    "verb = 'exec'\nname = 'one'\nshell = 'echo first'\nexpect = { stdout_matches = '^first$' }\ncapture = 'said'",
    "verb = 'exec'\nname = 'two'\nshell = 'echo second; exit 1'\nrequired = false",
    "verb = 'exec'\nname = 'three'\ncommand = ['echo', '{{ said }}']\nexpect = { stdout_contains = 'first' }",
)


async def test_wherever_the_daemon_dies_no_step_runs_twice(lab: Any) -> None:
    """Die at every durable act, before and after it, and go on: each program was started once and is judged right."""
    context = lab.context(lab.frozen(THREE))
    await PipelineWorkload().run(context)
    for crash_at in range(1, context.acts + 1):
        for after in (False, True):
            lab.forget()
            with pytest.RaisesGroup(lab.crash, allow_unwrapped=True, flatten_subgroups=True):
                await PipelineWorkload().run(lab.context(lab.frozen(THREE), crash_at=crash_at, after=after))
            outcome = await PipelineWorkload().run(lab.context(lab.frozen(THREE)))
            assert outcome == Outcome(verdict=Verdict.PASSED, reason="2 of 3 steps passed")
            assert [argv[-1] for argv in lab.machine.started] == ["echo first", "echo second; exit 1", "first"]
            assert lab.kept.steps("begun") == ["one", "two", "three"]
            assert [title for _, title, _, _ in lab.kept.findings] == ["two: exit code 1, expected exit code 0"]
            assert lab.kept.artifacts["step-01.log"] == b"first\n"
            assert {"report.json", "report.html"} <= lab.kept.artifacts.keys()


async def test_output_that_nobody_kept_ends_the_attempt_and_not_the_verdict(lab: Any) -> None:
    script = "echo first; i=0; while [ $i -lt 20000 ]; do echo line number $i; i=$((i+1)); done"
    text = document(f"verb = 'exec'\nname = 'one'\nshell = '{script}'\nexpect = {{ stdout_contains = 'first' }}")
    with pytest.raises(lab.crash):
        await PipelineWorkload().run(lab.context(lab.frozen(text), crash_at=2))
    await lab.machine.ended()
    failed = await failure(PipelineWorkload().run, lab.context(lab.frozen(text)))
    assert (failed.code, failed.retry) == ("interrupted", True)


async def test_a_cancelled_run_keeps_what_it_has_judged_and_leaves_its_program(lab: Any, tmp_path: Path) -> None:
    text = document(
        "verb = 'exec'\nname = 'one'\n"
        f"shell = 'echo first; until [ -e {tmp_path}/go ]; do sleep 0.02; done; echo last'\n"
        "expect = { stdout_matches = ['^first$', '^last$'] }"
    )
    context = lab.context(lab.frozen(text))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(PipelineWorkload().run, context)
        await context.shown.wait()
        nursery.cancel_scope.cancel()
    (tmp_path / "go").touch()
    outcome = await PipelineWorkload().run(lab.context(lab.frozen(text)))
    assert outcome.verdict is Verdict.PASSED
    assert len(lab.machine.started) == 1
    assert lab.kept.artifacts["step-01.log"] == b"first\nlast\n"
    assert [data["text"] for kind, data in lab.kept.events if kind == "output"] == ["first\n", "last\n"]
