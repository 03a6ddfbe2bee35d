"""Runs from the request to the report, on real sandboxes."""

from __future__ import annotations

import json
import os
import signal
import uuid
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import trio

from anvild.core.engine.journal import add_finding
from anvild.core.events import EventFilter, EventLog
from anvild.sdk import Severity
from anvild_sandbox.driver import SandboxDriver
from tests.support.wing import Wing

MARK = f"mark-{uuid.uuid4()}"
SLOW = """\
[requires]
platforms = ["linux"]
[make.sandbox]
template = "host"
[[steps]]
verb = "exec"
name = "one"
shell = "trap 'go=1' USR1; echo first; until [ $go ]; do sleep 0.05; done; echo last; : MARK"
expect = { stdout_matches = ["^first$", "^last$"] }
[[steps]]
verb = "exec"
name = "two"
shell = "echo second"
"""


def add_pipeline(wing: Wing, name: str, text: str) -> None:
    directory = wing.settings.data_dir / "pipelines"
    directory.mkdir(exist_ok=True)
    (directory / f"{name}.toml").write_text(text.replace("MARK", MARK))


def let_go_on() -> None:
    """Tell the waiting program, which this machine sees among its processes, to go on."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().split(b"\0")[0] == b"sh" and MARK.encode() in path.read_bytes():
                os.kill(int(path.parent.name), signal.SIGUSR1)
        except (FileNotFoundError, ProcessLookupError):
            continue


async def until(wing: Wing, run_id: str, kind: str) -> None:
    """Wait for an event of a run."""
    with trio.fail_after(60):
        async with wing.services.get(EventLog).follow(after=0, where=EventFilter(run_id=run_id)) as events:
            while (await anext(events)).kind != kind:
                pass


async def submit(client: httpx2.AsyncClient, pipeline: str, **body: Any) -> str:
    answer = await client.post("/runs", json={"pipeline": pipeline, **body})
    assert answer.status_code == 202, answer.text
    run_id: str = answer.json()["run"]["id"]
    return run_id


async def follow(client: httpx2.AsyncClient, run_id: str, *, after: str | None = None) -> list[Any]:
    """Read the event stream of a run to its end."""
    headers = {"Last-Event-ID": after} if after else {}
    answer = await client.get(f"/runs/{run_id}/events", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]


async def test_smoke_passes_and_leaves_findings_artifacts_and_events(wing: Wing) -> None:
    client = wing.owner
    run_id = await submit(client, "smoke", metadata={"parameters": {"greeting": "good day"}})
    events = await follow(client, run_id)
    kinds = [event["kind"] for event in events]
    assert kinds[0] == "run.queued"
    assert kinds[-1] == "run.passed", events[-5:]
    assert [event["id"] for event in events] == sorted({event["id"] for event in events})
    steps = [
        event["data"]["step"] for event in events if event["kind"] == "run.step" and event["data"]["state"] == "passed"
    ]
    assert steps[0] == "kernel"
    assert steps[-1] == "tidy"
    assert any("good day" in event["data"].get("text", "") for event in events if event["kind"] == "run.output")
    detail = (await client.get(f"/runs/{run_id}")).json()
    assert detail["run"]["status"] == "passed"
    assert detail["run"]["deviceId"]
    titles = [finding["title"] for finding in detail["findings"]]
    assert len(titles) == 2
    assert titles[0].startswith("Kernel: Linux ")
    assert {finding["severity"] for finding in detail["findings"]} == {"info"}
    state = (await client.get(f"/runs/{run_id}/state")).json()["state"]
    assert (state["state"], state["reasonCode"], state["attempt"]) == ("passed", None, 1)
    await _resumed_streams(client, run_id, events)
    await _artifacts(wing, client, run_id)


async def _resumed_streams(client: httpx2.AsyncClient, run_id: str, events: list[Any]) -> None:
    rest = await follow(client, run_id, after=str(events[5]["id"]))
    assert rest == events[6:]
    after_the_end = {"Last-Event-ID": str(events[-1]["id"])}
    assert (await client.get(f"/runs/{run_id}/events", headers=after_the_end)).status_code == 204
    page = await client.get(f"/runs/{run_id}/events?limit=3&after=0", headers={"Accept": "application/json"})
    assert page.json()["events"] == events[:3]
    latest = await client.get("/events?kind=run.passed,run.failed", headers={"Accept": "application/json"})
    assert [event["runId"] for event in latest.json()["events"]] == [run_id]


async def _artifacts(wing: Wing, client: httpx2.AsyncClient, run_id: str) -> None:
    listed = {each["name"]: each for each in (await client.get(f"/runs/{run_id}/artifacts")).json()["artifacts"]}
    assert {"report.json", "report.html", "read-output.txt", "step-01.log"} <= listed.keys()
    collected = listed["read-output.txt"]
    whole = await client.get(f"/artifacts/{collected['id']}")
    assert whole.content.splitlines() == [b"WRITTEN BY SMOKE", f"RUN {run_id.upper()}".encode()]
    assert int(whole.headers["content-length"]) == collected["size"] == len(whole.content)
    for wanted, content in (
        ("bytes=0-6", b"WRITTEN"),
        ("bytes=8-", whole.content[8:]),
        ("bytes=-5", whole.content[-5:]),
    ):
        part = await client.get(f"/artifacts/{collected['id']}", headers={"Range": wanted})
        assert (part.status_code, part.content) == (206, content)
    beyond = await client.get(f"/artifacts/{collected['id']}", headers={"Range": "bytes=9999-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, f"bytes */{collected['size']}")
    known = await client.get(f"/artifacts/{collected['id']}", headers={"If-None-Match": whole.headers["etag"]})
    assert known.status_code == 304
    nobody = wing.client()
    assert (await nobody.get(f"/artifacts/{collected['id']}")).status_code == 401
    assert (await nobody.get(wing.url + collected["url"])).content == whole.content
    assert (
        await nobody.get(f"/artifacts/{listed['report.json']['id']}?token={collected['url'][-64:]}")
    ).status_code == 403
    stranger = await wing.stranger()
    assert (await stranger.get(f"/artifacts/{collected['id']}")).status_code == 404
    assert (await stranger.get(f"/runs/{run_id}/artifacts")).status_code == 404
    page = await client.get(f"/artifacts/{listed['report.html']['id']}")
    assert page.headers["content-disposition"].startswith("attachment")


async def test_a_run_is_cancelled(wing: Wing) -> None:
    client = wing.owner
    add_pipeline(wing, "slow", SLOW)
    run_id = await submit(client, "slow")
    await until(wing, run_id, "run.output")
    cancelled = await client.post(f"/runs/{run_id}/cancel")
    assert cancelled.json()["run"]["status"] == "cancelled"
    assert (await follow(client, run_id))[-1]["kind"] == "run.cancelled"
    assert (await client.post(f"/runs/{run_id}/cancel")).status_code == 200
    assert (await client.post(f"/runs/{run_id}/resume")).status_code == 409
    assert (await client.post(f"/runs/{uuid.uuid4()}/cancel")).status_code == 404
    assert (await (await wing.stranger()).post(f"/runs/{run_id}/cancel")).status_code == 404


async def test_a_failed_run_tells_why(wing: Wing) -> None:
    client = wing.owner
    add_pipeline(wing, "bad", SLOW.replace("until [ $go ]; do sleep 0.05; done; ", "exit 4; "))
    run_id = await submit(client, "bad")
    events = await follow(client, run_id)
    assert events[-1]["kind"] == "run.failed"
    assert events[-1]["data"]["reason_code"] == "expectation_failed"
    detail = (await client.get(f"/runs/{run_id}")).json()
    assert [finding["severity"] for finding in detail["findings"]] == ["high"]
    assert "exit code 4" in detail["findings"][0]["detail"]


async def test_a_run_goes_on_after_the_daemon_was_away(tmp_path: Path, served_wing: Any) -> None:
    """The daemon's work is cut off in the middle of a step; the next one takes the same attempt up."""
    async with served_wing(tmp_path / "data", drivers={"sandbox": SandboxDriver}, tidy=False) as wing:
        add_pipeline(wing, "slow", SLOW)
        run_id = await submit(wing.owner, "slow")
        await until(wing, run_id, "run.output")
    async with served_wing(tmp_path / "data", drivers={"sandbox": SandboxDriver}) as wing:
        client = wing.owner
        await until(wing, run_id, "run.adopted")
        run = await wing.engine.runs.get(run_id)
        busy = await client.post(f"/devices/{run.used_device_id}/exec", json={"argv": ["true"]})
        assert busy.status_code == 409
        await trio.to_thread.run_sync(let_go_on)
        events = await follow(client, run_id)
        assert events[-1]["kind"] == "run.passed", events[-3:]
        begun = [e["data"]["step"] for e in events if e["kind"] == "run.step" and e["data"]["state"] == "begun"]
        assert begun == ["one", "two"]
        state = (await client.get(f"/runs/{run_id}/state")).json()["state"]
        assert state["attempt"] == 1


async def test_a_run_is_paused_between_two_steps_and_resumed(wing: Wing) -> None:
    client = wing.owner
    add_pipeline(wing, "slow", SLOW)
    run_id = await submit(client, "slow")
    await until(wing, run_id, "run.output")
    assert (await client.post(f"/runs/{run_id}/pause")).json()["run"]["status"] == "running"
    await trio.to_thread.run_sync(let_go_on)
    await until(wing, run_id, "run.paused")
    assert (await client.get(f"/runs/{run_id}/state")).json()["state"]["state"] == "paused"
    assert (await client.get(f"/runs/{run_id}")).json()["run"]["status"] == "running"
    assert (await client.post(f"/runs/{run_id}/resume")).status_code == 200
    assert (await follow(client, run_id))[-1]["kind"] == "run.passed"


async def test_a_finding_that_is_recorded_again_is_there_once(wing: Wing) -> None:
    run_id = await submit(wing.owner, "smoke")
    run = await wing.engine.runs.get(run_id)
    for category, detail in (("a", "b"), ("a", "b"), (None, None), (None, None), ("a", None)):
        record = partial(
            add_finding, run=run, attempt=9, severity=Severity.LOW, title="same", category=category, detail=detail
        )
        await wing.store.write(record)
    found = [each for each in await wing.engine.runs.findings(run_id) if each.attempt == 9]
    assert [(each.category, each.detail) for each in found] == [("a", "b"), (None, None), ("a", None)]
    where = EventFilter(run_id=run_id, kinds=("run.finding",))
    events = [event for event in await wing.services.get(EventLog).read(where=where) if event.data["title"] == "same"]
    assert len(events) == 3
