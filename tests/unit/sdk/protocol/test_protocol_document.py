"""The document and the schemas say what the code does. Where they do not, the assertion names a file that does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from inspect import Parameter
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest
import trio
import trio.testing

from anvild.sdk import (
    DRIVER_CAPABILITIES,
    ERROR_TABLE,
    SESSION_CAPABILITIES,
    Command,
    DeviceRequest,
    Exec,
    Files,
    Lease,
    NotFound,
    Sighting,
    run,
)
from anvild.sdk.protocol.frames import unpack_frame
from anvild.sdk.protocol.methods import DRIVER, PROCESS, Method, Result, Scope, methods_of
from anvild.sdk.protocol.schemas import rendered, schemas, write_schemas

DOCS = Path(__file__).parents[4] / "docs"


@pytest.fixture
def document() -> str:
    return (DOCS / "protocol.md").read_text()


def agree(document: str, tmp_path: Path, parts: dict[str, str]) -> None:
    """Each part of the document, from its mark to the end mark, is as expected."""
    for mark, expected in parts.items():
        head, start, rest = document.partition(f"<!-- {mark} -->\n")
        _, end, tail = rest.partition("<!-- end -->\n")
        assert start
        assert end
        document_now = f"{head}{start}\n{expected}\n{end}{tail}"
        if document_now != document:
            path = tmp_path / "protocol.md"
            path.write_text(document_now)
            pytest.fail(f"the part {mark!r} of docs/protocol.md is not current; in {path} it is")


def test_the_errors_are_those_of_the_table(document: str, tmp_path: Path) -> None:
    rows = ["| number | name | condition | what the caller must do | retry |", "|---|---|---|---|---|"]
    rows += [
        f"| {row.wire} | `{row.code}` | {row.condition} | {row.remedy} | {'yes' if row.retry else 'no'} |"
        for row in ERROR_TABLE
    ]
    agree(document, tmp_path, {"errors": "\n".join(rows) + "\n"})


def parameters(method: Method) -> str:
    found = []
    for name, default in (*method.positional, *method.keyword):
        if name in method.sources:
            found.append(f"`{name}`: stream")
        elif name in method.reports:
            found.append(f"`{name}`: channel of {getattr(method.reports[name], '__name__', method.reports[name])}")
        else:
            found.append(f"`{name}`" if default is Parameter.empty else f"`{name}`?")
    return ", ".join(found)


def result(method: Method) -> str:
    if method.result is not Result.VALUE:
        words = {Result.STREAM: "stream", Result.STREAM_PAIR: "two streams", Result.PROCESS: "process"}
        return words[method.result]
    if method.result_type is None:
        return "`null`"
    text = getattr(method.result_type, "__name__", str(method.result_type))
    if "Sequence" in text or "|" in text or "[" in text:
        text = re.sub(r"[\w.]+\.(?=\w)", "", str(method.result_type))
    return text.replace("Sequence[", "list of ").replace("]", "").replace("|", "or").replace("None", "`null`")


def verbs(methods: Iterable[Method]) -> str:
    rows = ["| method | parameters | result | seconds |", "|---|---|---|---|"]
    for method in methods:
        seconds = "" if method.deadline == float("inf") else f"{method.deadline:g}"
        rows.append(f"| `{method.name}` | {parameters(method)} | {result(method)} | {seconds} |")
    return "\n".join(rows) + "\n"


def test_the_verbs_are_those_of_the_capabilities(document: str, tmp_path: Path) -> None:
    session = [each for kind in SESSION_CAPABILITIES.values() for each in methods_of(kind, Scope.SESSION).values()]
    driver = [each for kind in DRIVER_CAPABILITIES.values() for each in methods_of(kind, Scope.DRIVER).values()]
    expected = {"session verbs": session, "driver verbs": driver, "process verbs": PROCESS.values()}
    agree(document, tmp_path, {mark: verbs(methods) for mark, methods in expected.items()})
    for method in DRIVER.values():
        assert f"| `{method.name}` |" in document
    for name in (*schemas()["messages.json"]["methods"], *schemas()["messages.json"]["notifications"]):
        assert f"`{name}" in document


def test_the_schemas_are_current(tmp_path: Path) -> None:
    write_schemas(tmp_path)
    expected = {path.name: path.read_text() for path in tmp_path.iterdir()}
    found = {path.name: path.read_text() for path in (DOCS / "protocol").glob("*.json")}
    assert found == expected, "run: python -m anvild.sdk.protocol.schemas docs/protocol"
    for content in schemas().values():
        for definition in content["$defs"].values():
            jsonschema.Draft202012Validator.check_schema(definition)


def test_old_schemas_are_removed(tmp_path: Path) -> None:
    (tmp_path / "gone.json").write_text("{}")
    write_schemas(tmp_path)
    assert not (tmp_path / "gone.json").exists()
    assert (tmp_path / "exec.json").read_text() == rendered(schemas()["exec.json"])


async def exchange(driver: Any, toy: ModuleType, lease: Lease) -> None:
    """A bit of everything, one thing after the other."""
    settled = trio.testing.wait_all_tasks_blocked

    async def report(sighting: Sighting) -> None: ...

    async def line(text: str) -> None: ...

    async def source() -> Any:
        yield b"new"

    await driver.start()
    await settled()
    await driver.describe()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(driver.watch, report)
        await settled()
        await driver.create(DeviceRequest(template="tin", name="Tin", identity="tin-1"))
        await driver.build_image("tin", line)
        await settled()
        async with driver.open(toy.fact("toy-0"), lease) as session:
            files, programs = session.require(Files), session.require(Exec)
            async with await files.read("/hello") as stream:
                async for _ in stream:
                    pass
            await settled()
            await files.write("/new", source())
            with pytest.raises(NotFound):
                await files.stat("/nothing")
            await run(programs, Command(argv=("echo", "out", "err")))
            await settled()
        nursery.cancel_scope.cancel()
    await driver.ping()
    await driver.stop()


@pytest.fixture
async def traffic(over_memory: Any, toy: ModuleType, lease: Lease, heard: Any) -> list[tuple[str, str | bytes]]:
    async with over_memory() as driver:
        await exchange(driver, toy, lease)
    return list(heard.traffic)


async def test_the_transcript_is_what_goes_over_the_wire(
    document: str, traffic: list[tuple[str, str | bytes]], tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    lines = ["```"]
    for way, message in traffic:
        arrow = "→" if way == "sent" else "←"
        if isinstance(message, bytes):
            stream, channel, data = unpack_frame(message) or (0, 0, b"")
            lines.append(f"{arrow} binary: stream {stream}, channel {channel}, data {data.decode()!r}")
        else:
            lines.append(f"{arrow} {json.dumps(json.loads(message), ensure_ascii=False)}")
    agree(document, tmp_path, {"transcript": "\n".join([*lines, "```\n"])})


async def test_what_goes_over_the_wire_fits_the_schemas(
    traffic: list[tuple[str, str | bytes]], toy: ModuleType
) -> None:
    files = schemas()
    methods = {name: (each, file) for file in files.values() for name, each in file["methods"].items()}
    notifications = files["messages.json"]["notifications"]
    asked: dict[int, str] = {}
    checked = 0
    for _, message in traffic:
        if isinstance(message, bytes):
            continue
        plain = json.loads(message)
        if "method" in plain and "id" in plain:
            asked[plain["id"]] = plain["method"]
        if plain.get("method") in notifications:
            each, file, part = notifications[plain["method"]], files["messages.json"], "params"
            value = plain["params"]
        elif "method" in plain:
            (each, file), part, value = methods[plain["method"]], "params", plain["params"]
        elif "result" in plain:
            (each, file), part, value = methods[asked[plain["id"]]], "result", plain["result"]
        else:
            file, value = files["messages.json"], plain["error"]
            each, part = {"params": file["error"]}, "params"
        jsonschema.Draft202012Validator({**each[part], "$defs": file["$defs"]}).validate(value)
        checked += 1
    assert checked > 30
