"""App tests from the upload to the results, on phones in memory, behind the real wing, engine and store."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest
import trio
from junitparser import JUnitXml

from anvild.cli.context import Context
from anvild.cli.exits import ExitCode
from anvild.cli.output import Output
from anvild.cli.run import run as anvil_run
from anvild.core.artifacts import Artifacts
from anvild.core.errors import StorageFull
from anvild.core.events import EventFilter, EventLog
from anvild.core.settings import Settings, WebSettings
from anvild.sdk import TestStatus
from tests.support.lab import Lab
from tests.support.phones import PHONE, Phone, Scripted, package, phone_driver, plug_phone
from tests.support.wing import Wing

APP, TESTS = "org.example.app", "org.example.app.test"
GOOD = Scripted(suite="Login", name="opens")
BAD = Scripted(suite="Login", name="refuses", status=TestStatus.FAILED, message="no", trace="at Login:17")
SLOW = Scripted(suite="Cart", name="slow", wait="go")
PARAMETERS = {"package": APP, "target": TESTS}


@pytest.fixture
def phone(lab: Lab) -> Phone:
    return plug_phone(lab, "p1")


@pytest.fixture
async def wing(lab: Lab, tmp_path: Path, served_wing: Callable[..., Any]) -> AsyncIterator[Wing]:
    """The wing with the lab's phones as devices."""
    async with served_wing(tmp_path / "data", drivers={"phones": phone_driver(lab)}) as found:
        yield found
    assert lab.violations == []


async def upload(client: httpx2.AsyncClient, name: str, content: bytes) -> str:
    answer = await client.post("/uploads", params={"name": name}, content=content)
    assert answer.status_code == 201, answer.text
    identity: str = answer.json()["upload"]["id"]
    return identity


async def submit(client: httpx2.AsyncClient, *tests: Scripted, pipeline: str = "app-tests", **metadata: Any) -> str:
    inputs = {
        "app": await upload(client, "app.pkg", package(APP)),
        "tests": await upload(client, "tests.pkg", package(TESTS, *tests)),
    }
    body = {"pipeline": pipeline, "metadata": {"parameters": PARAMETERS, "inputs": inputs, **metadata}}
    answer = await client.post("/runs", json=body)
    assert answer.status_code == 202, answer.text
    identity: str = answer.json()["run"]["id"]
    return identity


async def until(wing: Wing, run_id: str, *kinds: str, **values: Any) -> Any:
    """Wait for an event of a run, and return its data."""
    with trio.fail_after(60):
        async with wing.services.get(EventLog).follow(after=0, where=EventFilter(run_id=run_id)) as events:
            while True:
                event = await anext(events)
                if event.kind in kinds and values.items() <= event.data.items():
                    return event.data


async def artifacts(client: httpx2.AsyncClient, run_id: str) -> dict[str, bytes]:
    listed = (await client.get(f"/runs/{run_id}/artifacts")).json()["artifacts"]
    return {each["name"]: (await client.get(f"/artifacts/{each['id']}")).content for each in listed}


async def state(client: httpx2.AsyncClient, run_id: str) -> Any:
    return (await client.get(f"/runs/{run_id}/state")).json()["state"]


async def test_from_the_upload_to_the_results(wing: Wing, phone: Phone) -> None:
    client = wing.owner
    listed = {each["name"]: each for each in (await client.get("/pipelines")).json()["pipelines"]}
    shown = listed["app-tests"]
    assert shown["problem"] is None
    assert {name: each["required"] for name, each in shown["inputs"].items()} == {"app": True, "tests": False}
    assert {"apps", "app_tests", "screen", "logs", "crash_reports"} <= set(shown["capabilities"])
    run_id = await submit(client, GOOD, BAD, Scripted(suite="Cart", name="pays", attachment="what it showed"))
    ended = await until(wing, run_id, "run.passed", "run.failed")
    assert ended["reason"] == "step 'ui': 3 tests: 2 passed, 1 failed"
    detail = (await client.get(f"/runs/{run_id}")).json()
    assert [(each["severity"], each["category"], each["title"]) for each in detail["findings"]] == [
        ("high", "test", "Login#refuses: no")
    ]
    left = await artifacts(client, run_id)
    names = {"failed.png", "started.png", "device.log", "ui.log", "ui-tests.json", "ui-pays.txt", "junit.xml"}
    assert names <= left.keys()
    xml = JUnitXml.fromstring(left["junit.xml"])
    assert (xml.name, xml.failures, xml.errors) == ("app-tests", 1, 0)
    assert b"testing Cart#pays" in left["device.log"]
    events = (await client.get(f"/runs/{run_id}/events", headers={"Accept": "application/json"})).json()["events"]
    assert [each["data"]["status"] for each in events if each["kind"] == "run.test"] == ["passed", "failed", "passed"]
    assert (await state(client, run_id))["reasonCode"] == "expectation_failed"
    await until(wing, run_id, "lease.released")
    assert phone.apps == {}


async def test_an_unplugged_phone_ends_the_run_at_once(wing: Wing, lab: Lab, phone: Phone) -> None:
    client = wing.owner
    run_id = await submit(client, GOOD, SLOW)
    await until(wing, run_id, "run.test")
    with trio.fail_after(60):
        lab.unplug("p1")
        ended = await until(wing, run_id, "run.passed", "run.failed")
    assert ended["reason_code"] == "device_lost"
    assert (await state(client, run_id))["reasonCode"] == "device_lost"
    await until(wing, run_id, "lease.released")
    assert phone.testing == 0
    plug_phone(lab, "p1")
    again = await submit(client, GOOD)
    assert await until(wing, again, "run.passed", "run.failed")
    assert (await state(client, again))["state"] == "passed"
    assert phone.cleaned >= 1


async def test_a_cancelled_run_ends_its_tests(wing: Wing, phone: Phone) -> None:
    run_id = await submit(wing.owner, GOOD, SLOW)
    await until(wing, run_id, "run.test")
    assert (await wing.owner.post(f"/runs/{run_id}/cancel")).json()["run"]["status"] == "cancelled"
    await until(wing, run_id, "lease.released")
    assert (phone.testing, phone.cleaned, phone.apps) == (0, 1, {})


async def test_tests_begin_again_when_the_daemon_was_away(lab: Lab, tmp_path: Path, served_wing: Any) -> None:
    phone = plug_phone(lab, "p1")
    drivers = {"phones": phone_driver(lab)}
    async with served_wing(tmp_path / "data", drivers=drivers, tidy=False) as wing:
        run_id = await submit(wing.owner, BAD, SLOW)
        await until(wing, run_id, "run.test")
    assert phone.testing == 0
    lab.gate("go").set()
    async with served_wing(tmp_path / "data", drivers=drivers) as wing:
        await until(wing, run_id, "run.adopted")
        ended = await until(wing, run_id, "run.passed", "run.failed")
        assert ended["reason"] == "step 'ui': 2 tests: 1 passed, 1 failed"
        assert (await state(wing.owner, run_id))["attempt"] == 1
        titles = [each["title"] for each in (await wing.owner.get(f"/runs/{run_id}")).json()["findings"]]
        assert titles == ["Login#refuses: no"]
        await until(wing, run_id, "run.log", message="the tests of step 'ui' begin again: the daemon was away")
    assert len(phone.requests) == 2
    assert lab.violations == []


async def test_a_phone_that_can_is_chosen(wing: Wing, lab: Lab) -> None:
    plug_phone(lab, "a-poor-one", capabilities=tuple(name for name in PHONE if name != "app_tests"))
    plug_phone(lab, "rich")
    run_id = await submit(wing.owner, GOOD)
    await until(wing, run_id, "run.passed")
    used = (await state(wing.owner, run_id))["usedDeviceId"]
    assert (await wing.owner.get(f"/devices/{used}")).json()["device"]["name"] == "Fake rich"
    own = "[requires]\nplatforms = ['tablet']\n[[steps]]\nverb = 'screenshot'\n"
    answer = await wing.owner.post("/runs", json={"pipeline": "mine", "metadata": {"pipeline": own}})
    await until(wing, answer.json()["run"]["id"], "run.waiting")
    waiting = await state(wing.owner, answer.json()["run"]["id"])
    assert waiting["state"] == "queued"
    assert "tablet" in waiting["waiting"]
    body = {"pipeline": "mine", "deviceId": used, "metadata": {"pipeline": own}}
    refused = (await wing.owner.post("/runs", json=body)).json()["error"]
    assert refused["message"] == (
        "the device 'Fake rich' is of the platform phone, and the pipeline 'mine' runs on tablet"
    )


async def test_uploads_belong_to_a_team(wing: Wing) -> None:
    client, stranger = wing.owner, await wing.stranger()
    one = await upload(client, "app one.apk", b"content")
    two = await upload(client, "two.apk", b"more")
    (shown,) = (await client.get("/uploads", params={"sha256": "00" * 32})).json()["uploads"] or [None]
    assert shown is None
    listed = (await client.get("/uploads")).json()["uploads"]
    assert [(each["id"], each["name"], each["size"]) for each in listed] == [
        (two, "two.apk", 4),
        (one, "app one.apk", 7),
    ]
    (same,) = (await client.get("/uploads", params={"sha256": listed[1]["sha256"]})).json()["uploads"]
    assert same == listed[1]
    assert (await client.get(f"/artifacts/{one}")).content == b"content"
    assert (await stranger.get("/uploads")).json() == {"uploads": []}
    assert (await stranger.delete(f"/uploads/{one}")).status_code == 404
    assert (await client.delete(f"/uploads/{one}")).status_code == 204
    assert (await client.delete(f"/uploads/{one}")).status_code == 404
    for name, status in (("", 400), ("x" * 256, 400), ("a\nb", 400)):
        assert (await client.post("/uploads", params={"name": name}, content=b"x")).status_code == status
    made = (await client.post("/org/api-keys", json={"name": "r", "scopes": ["artifacts:read"]})).json()
    reader = wing.client(made["plaintext"])
    assert (await reader.get("/uploads")).status_code == 200
    assert (await reader.post("/uploads", params={"name": "x"}, content=b"x")).status_code == 403


async def test_an_upload_that_does_not_fit_leaves_nothing(lab: Lab, tmp_path: Path, served_wing: Any) -> None:
    data = tmp_path / "data"
    limits = msgspec.structs.replace(WebSettings(), max_upload=100_000)
    settings = Settings(data_dir=data, config_dir=data / "etc", web=limits)
    async with served_wing(data, drivers={"phones": phone_driver(lab)}, settings=settings) as wing:

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(3):
                yield bytes(50_000)

        for content in (bytes(150_000), pieces()):
            answer = await wing.owner.post("/uploads", params={"name": "big"}, content=content)
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
        wing.services.get(Artifacts)._usage.extend = _full  # type: ignore[method-assign]
        answer = await wing.owner.post("/uploads", params={"name": "x"}, content=b"x")
        assert (answer.status_code, answer.json()["error"]["code"]) == (507, "storage_full")
        assert "disk is full" in answer.json()["error"]["message"]
        assert (await wing.owner.get("/uploads")).json() == {"uploads": []}
    assert [path for path in (data / "artifacts").rglob("*") if path.is_file()] == []


def _full(claim: Any, size: int) -> None:
    raise StorageFull("the disk is full")


async def test_an_upload_that_breaks_off_leaves_nothing(wing: Wing) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield bytes(2_000_000)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await wing.owner.post("/uploads", params={"name": "half"}, content=pieces())
    with trio.fail_after(60):
        # A folder tells nobody that it is empty.
        while any(path.is_file() for path in (wing.settings.data_dir / "artifacts").rglob("*")):  # noqa: ASYNC110
            await trio.sleep(0.01)
    assert (await wing.owner.get("/uploads")).json() == {"uploads": []}


async def test_inputs_that_a_run_cannot_have(wing: Wing) -> None:
    client = wing.owner
    foreign = await upload(await wing.stranger(), "app.pkg", package(APP))
    own = await upload(client, "app.pkg", package(APP))
    messages = []
    for inputs in ({"app": foreign}, {"app": str(uuid.uuid4())}, {"app": "app.pkg"}, {"ap": own}, {}, [own]):
        body = {"pipeline": "app-tests", "metadata": {"parameters": PARAMETERS, "inputs": inputs}}
        answer = await client.post("/runs", json=body)
        assert answer.status_code == 400, answer.text
        messages.append(answer.json()["error"]["message"])
    assert messages[0] == f"metadata.inputs.app: there is no upload {foreign!r}"
    assert messages[1].startswith("metadata.inputs.app: there is no upload ")
    assert messages[2] == "metadata.inputs.app: there is no upload 'app.pkg'"
    assert messages[3].endswith("has no input 'ap'; did you mean 'app'?")
    assert "needs the input 'app': upload the file" in messages[4]
    assert messages[5].startswith("metadata.inputs must be an object")
    assert (await client.get("/runs")).json() == {"runs": []}


OWN = "[parameters.package]\n[[steps]]\nverb = 'assert'\nvalue = '{{ package }}'\nequals = 'x'\n"


async def test_a_pipeline_of_ones_own(wing: Wing, phone: Phone) -> None:
    client = wing.owner
    for own in (OWN, await upload(client, "mine.toml", OWN.encode())):
        metadata = {"pipeline": own, "parameters": {"package": "x"}, "commit": "4f2a9c1"}
        run = (await client.post("/runs", json={"pipeline": "mine", "metadata": metadata})).json()["run"]
        assert (run["pipeline"], run["metadata"]) == (
            "mine",
            {"parameters": {"package": "x"}, "commit": "4f2a9c1"},
        )
        await until(wing, run["id"], "run.passed")
    foreign = await upload(await wing.stranger(), "mine.toml", OWN.encode())
    binary = await upload(client, "mine.toml", b"\xff\xfe")
    for name, pipeline, message in (
        ("mine", OWN.replace("assert", "asert"), "mine.toml, line 3: unknown verb 'asert'; did you mean 'assert'?"),
        ("mine", "name = 'other'\n" + OWN, "the file is called 'mine' and its pipeline 'other'"),
        ("a b", OWN, "name: Expected `str` matching regex"),
        ("mine", foreign, f"metadata.pipeline: there is no upload {foreign!r}"),
        ("mine", binary, "metadata.pipeline is no pipeline"),
        ("mine", {}, "metadata.pipeline must be the text of a pipeline"),
        ("mine", "#" * 300_000, "metadata.pipeline is longer than"),
    ):
        answer = await client.post("/runs", json={"pipeline": name, "metadata": {"pipeline": pipeline}})
        assert answer.status_code == 400, answer.text
        assert message in answer.json()["error"]["message"]
    made = (await client.post("/org/api-keys", json={"name": "w", "scopes": ["runs:write"]})).json()
    writer = wing.client(made["plaintext"])
    body = {"pipeline": "mine", "metadata": {"pipeline": OWN, "parameters": {"package": "x"}}}
    assert (await writer.post("/runs", json=body)).status_code == 403


SCOPES = ("runs:write", "runs:read", "events:read", "artifacts:write", "artifacts:read")
"""What the key of a CI job needs, as the client's guide says."""


@pytest.fixture
def anvil(wing: Wing, tmp_path: Path) -> Callable[..., Any]:
    """``anvil run`` of the shipped pipeline with these tests."""

    async def call(*tests: Scripted, pipeline: str = "app-tests", **options: Any) -> int:
        files = {"app": package(APP), "tests": package(TESTS, *tests)}
        for name, content in files.items():
            (tmp_path / f"{name}.pkg").write_bytes(content)
        made = (await wing.owner.post("/org/api-keys", json={"name": "ci", "scopes": SCOPES})).json()
        context = Context(url=wing.url, key=made["plaintext"], output=Output(json=False))
        return await anvil_run(
            pipeline,
            inputs=tuple(f"{name}={tmp_path / name}.pkg" for name in files),
            param=tuple(f"{name}={value}" for name, value in PARAMETERS.items()),
            junit=tmp_path / "out" / "results.xml",
            context=context,
            **options,
        )

    return call


async def test_the_client_brings_the_files_once_and_writes_the_results(
    wing: Wing, phone: Phone, anvil: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "out" / "results.xml"
    assert await anvil(GOOD, BAD) == ExitCode.FAILED
    told = capsys.readouterr().out
    assert "2/2  ui  Login#refuses  failed  no" in told
    assert "Login#opens" not in told
    xml = JUnitXml.fromfile(str(results))
    assert {suite.name: (suite.tests, suite.failures) for suite in xml}["Login"] == (2, 1)
    assert await anvil(GOOD) == ExitCode.OK
    assert JUnitXml.fromfile(str(results)).failures == 0
    assert [path.name for path in results.parent.iterdir()] == ["results.xml"]
    uploads = (await wing.owner.get("/uploads")).json()["uploads"]
    assert sorted(each["name"] for each in uploads) == ["app.pkg", "tests.pkg", "tests.pkg"]


async def test_a_run_without_results_is_one_error_in_them(
    wing: Wing, lab: Lab, phone: Phone, anvil: Any, tmp_path: Path
) -> None:
    results = tmp_path / "out" / "results.xml"
    results.parent.mkdir()
    results.write_text("of the last build")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_unplug_when_testing, wing, lab, results)
        assert await anvil(GOOD, SLOW) == ExitCode.FAILED
    (suite,) = JUnitXml.fromfile(str(results))
    (case,) = suite
    assert (suite.name, case.name, suite.errors) == ("app-tests", "run", 1)
    assert case.result[0].message.startswith("device_lost: ")


async def _unplug_when_testing(wing: Wing, lab: Lab, results: Path) -> None:
    with trio.fail_after(60):
        async with wing.services.get(EventLog).follow(after=0) as events:
            while (await anext(events)).kind != "run.test":
                pass
    assert not await trio.Path(results).exists()
    lab.unplug("p1")


async def test_the_client_runs_a_file_of_its_own(wing: Wing, phone: Phone, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(OWN)
    context = Context(url=wing.url, key=wing.first.live_key, output=Output(json=True))
    arguments: Any = {"param": ("package=x",), "junit": tmp_path / "out.xml", "context": context}
    assert await anvil_run(str(tmp_path / "mine.toml"), **arguments) == ExitCode.OK
    (suite,) = JUnitXml.fromfile(str(tmp_path / "out.xml"))
    assert (suite.name, suite.tests, suite.failures) == ("mine", 1, 0)
    arguments["param"] = ("package=y",)
    assert await anvil_run(str(tmp_path / "mine.toml"), **arguments) == ExitCode.FAILED
    assert JUnitXml.fromfile(str(tmp_path / "out.xml")).failures == 1
