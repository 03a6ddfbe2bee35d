"""What a capsule is for: commands, files, terminals, git, templates, events. Its template is ``host``."""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing
from datetime import UTC, date, datetime, timedelta
from typing import Any

import httpx
import httpx_ws
import wrenn
from clients import Clients, each, inside, raises, told
from wrenn import exceptions
from wrenn.models import Status

TEMPLATE = "host"
ODD = bytes(range(256)) * 1000


async def drive(sdk: Clients) -> None:
    """Drive all of it."""
    capsule = await told(sdk.Capsule.create(template=TEMPLATE, memory_mb=512, wait=True))
    async with inside(capsule):
        await life(sdk, capsule)
        await commands(capsule)
        await files(capsule)
        await terminals(capsule)
        await git(capsule)
        await figures(sdk, capsule)
        await templates(sdk, capsule)
    await events(sdk)
    await errors(sdk)


async def life(sdk: Clients, capsule: Any) -> None:
    """A capsule is what was ordered, is found again, and is gone when it was destroyed."""
    assert capsule.capsule_id == capsule.info.id
    assert (capsule.info.status, capsule.info.template) == (Status.running, TEMPLATE)
    assert (capsule.info.vcpus, capsule.info.memory_mb) == (1, 512)
    assert abs(datetime.now(UTC) - capsule.info.created_at) < timedelta(minutes=10)
    assert await told(capsule.is_running())
    await told(capsule.ping())
    await told(capsule.wait_ready())
    for shown in (await told(capsule.get_info()), await told(sdk.Capsule.get_info(capsule.capsule_id))):
        assert (shown.id, shown.status) == (capsule.capsule_id, Status.running)
    again = await told(sdk.Capsule.connect(capsule.capsule_id))
    assert (await told(again.commands.run("echo again"))).stdout == "again\n"
    other = await told(sdk.Capsule.create(template=TEMPLATE))
    assert {capsule.capsule_id, other.capsule_id} <= {each.id for each in await told(sdk.Capsule.list())}
    await told(other.wait_ready())
    await told(other.destroy(wait=True))
    assert (await told(other.get_info())).status is Status.stopped
    assert other.capsule_id not in {each.id for each in await told(sdk.Capsule.list())}
    await told(sdk.Capsule.destroy(other.capsule_id))  # ending it twice is no error
    client = sdk.Client()
    async with inside(client):
        raw = client.capsules
        third = await told(raw.create(TEMPLATE, vcpus=1, memory_mb=256))
        assert third.id in {each.id for each in await told(raw.list())}
        assert (await told(raw.get(third.id))).memory_mb == 256
        found = await told(sdk.Capsule.connect(third.id))  # waits until it runs
        await told(raw.ping(third.id))
        assert isinstance(await told(client.http.get("/v1/capsules")), httpx.Response)
        await told(found.destroy())
        await told(raw.destroy(third.id))
        await told(sdk.Capsule.destroy(third.id, wait=True))


async def commands(capsule: Any) -> None:
    """Commands run, stream, stay in the background, and end."""
    run = capsule.commands.run
    done = await told(run("echo out; echo err >&2; exit 3"))
    assert (done.stdout, done.stderr, done.exit_code) == ("out\n", "err\n", 3)
    assert done.duration_ms is not None
    done = await told(run('echo "$WORD in $PWD"', envs={"WORD": "grüß"}, cwd="/tmp"))
    assert done.stdout == "grüß in /tmp\n"
    assert (await told(run("printf '\\377\\0x'"))).stdout == "\ufffd\0x"
    assert (await told(run("seq 100000 | tail -1", timeout=None))).stdout == "100000\n"
    with raises(exceptions.WrennAgentError) as found:
        await told(run("sleep 60", timeout=1))
    assert found.error.status_code == 502

    seen = [event async for event in each(capsule.commands.stream("echo one; echo two >&2; exit 4"))]
    assert seen[0].type == "start"
    assert seen[0].pid > 0
    assert {(event.type, event.data) for event in seen[1:-1]} == {("stdout", "one\n"), ("stderr", "two\n")}
    assert (seen[-1].type, seen[-1].exit_code) == ("exit", 4)
    seen = [event async for event in each(capsule.commands.stream("printf", ["%s|", "a b", "ü"]))]
    assert [event.data for event in seen if event.type == "stdout"] == ["a b|ü|"]
    seen = [event async for event in each(capsule.commands.stream("/no/such/program", ["x"]))]
    assert [event.type for event in seen] == ["error"]
    assert "no/such/program" in seen[0].data

    waits = "echo ready; while ! test -e /tmp/go; do sleep 0.05; done; echo gone; exit 5"
    started = await told(run(waits, background=True, tag="waits"))
    assert (started.tag, started.capsule_id) == ("waits", capsule.capsule_id)
    assert (await told(run("true", background=True))).tag.startswith("proc-")
    (listed,) = [process for process in await told(capsule.commands.list()) if process.tag == "waits"]
    assert (listed.pid, listed.cmd) == (started.pid, "/bin/sh")
    told_of = []
    async with aclosing(each(capsule.commands.connect(started.pid))) as output:
        async for event in output:
            told_of.append(event)
            if event.type == "stdout" and "ready" in event.data:
                await told(run("touch /tmp/go"))
    assert (told_of[0].type, told_of[0].pid) == ("start", started.pid)
    assert "".join(event.data for event in told_of if event.type == "stdout") == "ready\ngone\n"
    assert told_of[-1].exit_code == 5

    sleeper = await told(run("exec sleep 600", background=True))
    async with aclosing(each(capsule.commands.connect(sleeper.pid))) as output:
        assert (await anext(output)).type == "start"
        await told(capsule.commands.kill(sleeper.pid))
        assert [(event.type, event.exit_code) async for event in output] == [("exit", -1)]
    with raises(exceptions.WrennNotFoundError):
        await told(capsule.commands.kill(sleeper.pid))


async def files(capsule: Any) -> None:
    """Files go in and come out as they were."""
    files = capsule.files
    await told(files.write("/tmp/new/folder/text", "grüß\n"))
    assert await told(files.read("/tmp/new/folder/text")) == "grüß\n"
    await told(files.write("/tmp/new/odd", ODD))
    assert await told(files.read_bytes("/tmp/new/odd")) == ODD
    assert await told(files.read("/tmp/new/odd")) == ODD.decode(errors="replace")
    await told(capsule.commands.run("ln -s folder /tmp/new/link; chmod 640 /tmp/new/odd"))
    shown = {entry.name: entry for entry in await told(files.list("/tmp/new"))}
    assert sorted(shown) == ["folder", "link", "odd"]
    assert (shown["odd"].type, shown["odd"].size, shown["odd"].permissions) == ("file", len(ODD), "-rw-r-----")
    assert (shown["folder"].type, shown["link"].symlink_target) == ("directory", "/tmp/new/folder")
    assert "/tmp/new/folder/text" in {entry.path for entry in await told(files.list("/tmp/new", depth=2))}
    assert await told(files.exists("/tmp/new/odd"))
    assert not await told(files.exists("/tmp/new/odder"))
    assert not await told(files.exists("/no/such/folder"))
    made = await told(files.make_dir("/tmp/new/a/b"))
    assert (made.name, made.path, made.type) == ("b", "/tmp/new/a/b", "directory")
    assert (await told(files.make_dir("/tmp/new/a/b"))).path == "/tmp/new/a/b"
    await told(files.remove("/tmp/new/a"))
    assert not await told(files.exists("/tmp/new/a"))

    pieces = [os.urandom(100_000) for _ in range(30)]

    async def later() -> Any:
        for piece in pieces:
            yield piece

    source = later() if hasattr(files.download_stream("/x"), "__aiter__") else iter(pieces)
    await told(files.upload_stream("/tmp/new/large", source))
    assert b"".join([piece async for piece in each(files.download_stream("/tmp/new/large"))]) == b"".join(pieces)
    for refused in (files.read_bytes, files.list, files.remove):
        with raises(exceptions.WrennNotFoundError):
            await told(refused("/no/such/thing"))
    with raises(httpx.HTTPStatusError) as found:
        await anext(each(files.download_stream("/no/such/thing")))
    assert found.error.response.status_code == 404


async def terminals(capsule: Any) -> None:
    """A terminal takes keys and sizes, goes on without its connection, and is found again."""
    started = {"args": ["-i"], "cols": 91, "rows": 33, "envs": {"WORD": "hello", "PS1": "$ "}, "cwd": "/tmp"}
    async with inside(capsule.pty("/bin/sh", **started)) as terminal:
        await told(terminal.write(b"echo $WORD in $PWD; stty size; printf '\\303\\050'\n"))
        shown = await until(terminal, b"\xc3(")
        assert b"hello in /tmp\r\n33 91\r\n" in shown
        await told(terminal.resize(100, 40))
        await told(terminal.write(b"stty size\n"))
        await until(terminal, b"40 100")
        assert terminal.pid > 0
        tag = terminal.tag
        await told(terminal.write(b"KEPT=yes\n"))
    async with inside(capsule.pty_connect(tag)) as terminal:
        await told(terminal.write(b"echo kept=$KEPT; exit 7\n"))
        await until(terminal, b"kept=yes")
        last = None
        async for event in each(terminal):
            last = event
        assert (last.type, last.exit_code) == ("exit", 7)
        assert terminal.tag == tag
    async with inside(capsule.pty("/bin/cat")) as terminal:
        await told(terminal.write(b"key"))
        await until(terminal, b"key")
        await told(terminal.kill())
        async for event in each(terminal):
            last = event
        assert (last.type, last.exit_code) == ("exit", -1)
    async with inside(capsule.pty("/no/such/program")) as terminal:
        async for event in each(terminal):
            last = event
        assert (last.type, last.fatal) == ("error", True)


async def until(terminal: Any, text: bytes) -> bytes:
    """Read a terminal until it has shown a text; return all that it has shown."""
    shown = b""
    while text not in shown:
        if hasattr(terminal, "__anext__"):
            event = await anext(terminal)
        else:
            event = next(terminal)
        assert event.type in ("started", "output", "ping"), event
        shown += event.data if event.type == "output" else b""
    return shown


async def git(capsule: Any) -> None:
    """The real git of the capsule does what it is told."""
    git, run = capsule.git, capsule.commands.run
    home = (await told(run("cd; pwd"))).stdout.strip()
    origin, work, other = (f"{home}/{name}" for name in ("origin.git", "work", "other"))
    await told(git.configure_user("Somebody", "somebody@example.org"))
    assert await told(git.get_config("user.name", scope="global")) == "Somebody"
    await told(git.init(origin, bare=True, initial_branch="main"))
    await told(git.init(work, initial_branch="main"))
    assert (await told(git.status(cwd=work))).is_clean
    await told(capsule.files.write(f"{work}/file", "one\n"))
    state = await told(git.status(cwd=work))
    assert state.has_untracked
    assert not state.has_staged
    assert [(file.path, file.status) for file in state.files] == [("file", "untracked")]
    await told(git.add(cwd=work))
    assert (await told(git.status(cwd=work))).files[0].staged
    await told(git.commit("First", cwd=work))
    await told(git.commit("Nothing", allow_empty=True, author_name="Other", author_email="o@example.org", cwd=work))
    assert await told(git.remote_get(cwd=work)) is None
    await told(git.remote_add("origin", origin, cwd=work))
    assert await told(git.remote_get(cwd=work)) == origin
    await told(git.push("origin", "main", set_upstream=True, cwd=work))
    cloned = await told(git.clone(origin, other, branch="main"))
    assert cloned.exit_code == 0
    await told(capsule.files.write(f"{work}/file", "two\n"))
    await told(git.add(["file"], cwd=work))
    await told(git.commit("Second", cwd=work))
    state = await told(git.status(cwd=work))
    assert (state.branch, state.upstream, state.ahead, state.behind) == ("main", "origin/main", 1, 0)
    assert not state.has_conflicts
    await told(git.push(cwd=work))
    await told(git.pull("origin", "main", ff_only=True, cwd=other))
    assert await told(capsule.files.read(f"{other}/file")) == "two\n"
    await told(git.create_branch("topic", start_point="HEAD~1", cwd=work))
    assert [each.name for each in await told(git.branches(cwd=work)) if each.is_current] == ["topic"]
    await told(git.checkout_branch("main", cwd=work))
    await told(git.delete_branch("topic", force=True, cwd=work))
    assert [each.name for each in await told(git.branches(cwd=work))] == ["main"]
    await told(capsule.files.write(f"{work}/file", "three\n"))
    await told(git.add(all=True, cwd=work))
    await told(git.reset(paths=["file"], cwd=work))
    assert not (await told(git.status(cwd=work))).has_staged
    await told(git.restore(["file"], cwd=work))
    assert (await told(git.status(cwd=work))).is_clean
    await told(git.set_config("anvil.word", "grüß", cwd=work))
    assert await told(git.get_config("anvil.word", cwd=work)) == "grüß"
    assert await told(git.get_config("anvil.none", cwd=work)) is None
    await told(git.dangerously_authenticate("me", "secret", host="example.org"))
    assert await told(capsule.files.read(f"{home}/.git-credentials")) == "https://me:secret@example.org\n"
    with raises(wrenn.GitCommandError) as found:
        await told(git.clone("/no/such/repository"))
    assert found.error.exit_code == 128
    assert "/no/such/repository" in found.error.stderr


async def figures(sdk: Clients, capsule: Any) -> None:
    """What capsules have used is told."""
    client = sdk.Client()
    async with inside(client):
        raw = client.capsules
        for span in (None, "5m", "10m", "1h", "2h", "6h", "12h", "24h"):
            measured = await told(raw.metrics(capsule.capsule_id, range=span))
            assert (measured.sandbox_id, measured.range) == (capsule.capsule_id, span or "10m")
        last = await first_point(raw, capsule.capsule_id)
        assert last.mem_bytes > 0
        assert 0 <= last.cpu_pct <= 100
        for span in (None, "5m", "1h", "6h", "24h", "30d"):
            stats = await told(raw.stats(range=span))
            assert stats.range == (span or "1h")
            assert len(stats.series.labels) == len(stats.series.running) == len(stats.series.memory_mb)
        assert stats.current.running_count >= 1
        assert stats.current.memory_mb_reserved >= 512
        today = datetime.now(UTC).date()
        used = await told(raw.usage())
        assert (used.from_, used.to) == (today - timedelta(days=29), today)
        week = await told(raw.usage(from_=today - timedelta(days=7), to=date.isoformat(today)))
        assert (week.from_, week.to) == (today - timedelta(days=7), today)
        assert week.points[-1].date == today


async def first_point(raw: Any, ident: str) -> Any:
    """Wait until a capsule has been measured."""
    while True:
        if points := (await told(raw.metrics(ident))).points:
            return points[-1]
        await asyncio.sleep(0.1)


async def templates(sdk: Clients, capsule: Any) -> None:
    """A template is made of a capsule, and capsules of it."""
    await told(capsule.files.write("/srv/kept", "yes"))
    client = sdk.Client()
    async with inside(client):
        names = (f"sdk-{capsule.capsule_id}", f"sdk-{capsule.capsule_id}-2")
        made = await told(capsule.create_snapshot(names[0]))
        assert (made.name, made.type, made.platform) == (names[0], "base", False)
        await told(client.snapshots.create(capsule.capsule_id, names[1]))
        with raises(exceptions.WrennError) as found:
            await told(capsule.create_snapshot(names[0]))
        assert (found.error.status_code, found.error.code) == (409, "template_name_taken")
        await told(capsule.create_snapshot(names[0], overwrite=True))
        assert (await told(capsule.create_snapshot())).name.startswith("template-")
        listed = {template.name: template for template in await told(client.snapshots.list())}
        assert {*names, TEMPLATE} <= set(listed)
        assert listed[TEMPLATE].platform
        assert names[0] in {template.name for template in await told(client.snapshots.list("base"))}
        assert names[0] not in {template.name for template in await told(client.snapshots.list("snapshot"))}
        async with inside(await told(sdk.Capsule.create(template=names[0], wait=True))) as other:
            assert await told(other.files.read("/srv/kept")) == "yes"
        for name in names:
            await told(client.snapshots.delete(name))
        with raises(exceptions.WrennForbiddenError) as found:
            await told(client.snapshots.delete(TEMPLATE))
        assert found.error.status_code == 403


async def events(sdk: Clients) -> None:
    """What happens with a team's capsules is told as it happens."""
    client = sdk.Client()
    async with inside(client), aclosing(each(client.events.stream())) as stream:
        assert (await anext(stream)).event == "connected"
        capsule = await told(sdk.Capsule.create(template=TEMPLATE, wait=True))
        await told(capsule.destroy())
        seen = []
        async for event in stream:
            if event.resource is not None and event.resource.id == capsule.capsule_id:
                seen.append(event)
                if event.event == "capsule.destroy":
                    break
        assert "capsule.state.changed" in {event.event for event in seen}
        created = next(event for event in seen if event.event == "capsule.create")
        assert (created.outcome, created.actor.type, created.sandbox.id) == ("success", "api_key", capsule.capsule_id)
        assert (seen[-1].outcome, seen[-1].error) == ("success", None)


async def errors(sdk: Clients) -> None:
    """Each code of an error comes as the exception that the SDK has for it."""
    client = sdk.Client()
    async with inside(client):
        missing = "cl-" + "0" * 25

        async def refused(expected: type[Exception], status: int, code: str, result: Any) -> None:
            with raises(expected) as found:
                await told(result())
            assert type(found.error) is expected
            assert (found.error.status_code, found.error.code) == (status, code)
            assert str(found.error)

        raw = client.capsules
        await refused(exceptions.WrennNotFoundError, 404, "not_found", lambda: raw.get(missing))
        await refused(exceptions.WrennNotFoundError, 404, "not_found", lambda: raw.get("made-up"))
        await refused(exceptions.WrennNotFoundError, 404, "not_found", lambda: raw.create("no-such-template"))
        await refused(exceptions.WrennValidationError, 400, "invalid_request", lambda: raw.create(memory_mb="x"))
        stranger = sdk.Client(api_key="wrn_" + "0" * 32)
        async with inside(stranger):
            await refused(exceptions.WrennAuthenticationError, 401, "unauthorized", stranger.capsules.list)
        async with inside(await told(sdk.Capsule.create(template=TEMPLATE, wait=True))) as capsule:
            ident = capsule.capsule_id
            await refused(exceptions.WrennValidationError, 400, "invalid_request", lambda: raw.metrics(ident, "1y"))
            await refused(exceptions.WrennConflictError, 409, "invalid_state", lambda: raw.resume(ident))
            await refused(exceptions.WrennAgentError, 501, "agent_error", lambda: raw.pause(ident))
            with raises(httpx_ws.WebSocketUpgradeError) as found:
                await anext(each(capsule.commands.connect(2**31 - 1)))
            assert found.error.response.status_code == 404
        most: list[Any] = []
        try:
            with raises(exceptions.WrennHostUnavailableError) as found:
                while len(most) < 1000:
                    most.append(await told(sdk.Capsule.create(template=TEMPLATE)))
            assert (found.error.status_code, found.error.code) == (503, "host_unavailable")
        finally:
            for capsule in most:
                await told(capsule.destroy())
            for capsule in most:
                await told(capsule.destroy(wait=True))
