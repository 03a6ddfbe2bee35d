"""Builds of templates, with namespace sandboxes: every answer is held against the contract."""

from __future__ import annotations

from typing import Any

from anvild.capsules.ids import to_wire
from anvild.core.ids import new_id

from .conftest import ALL, CANCEL, ONE, Yard


async def test_a_build_becomes_a_template_that_all_teams_see(yard: Yard) -> None:
    build = await yard.built(
        "# what is built here",
        "ENV GREETING=hello PLACE=/var/tmp/${GREETING}s",
        "WORKDIR /var/lib/made",
        "RUN echo $GREETING > greeting && pwd",
        "ENV PATH=$PLACE:$PATH",
        "USER user",
        "START sleep 1000",
        "RUN --timeout=1m printf '%s' \"$PATH\" >&2",
    )
    assert (build["status"], build.get("error")) == ("success", None)
    assert build["total_steps"] == build["current_step"] == len(build["logs"]) == 9
    phases = [(each["step"], each["phase"], each["ok"]) for each in build["logs"]]
    assert phases == [
        (1, "pre-build", True),
        *((number, "recipe", True) for number in range(2, 9)),
        (9, "post-build", True),
    ]
    run, path = build["logs"][3], build["logs"][7]
    assert (run["cmd"], run["stdout"], run["exit"]) == (
        "RUN echo $GREETING > greeting && pwd",
        "/var/lib/made\n",
        0,
    )
    assert path["stderr"].startswith("/var/tmp/hellos:/")
    assert (build["default_user"], build["default_env"]["GREETING"]) == ("user", "hello")

    stranger = await yard.lab.stranger()
    shown = await stranger("GET", "/v1/snapshots", 200)
    assert [(each["name"], each["type"], each["platform"]) for each in shown] == [
        ("made", "base", True),
        ("host", "base", True),
    ]
    api = yard.lab.by_key()
    one = await yard.capsule("made")
    body = {"cmd": "/bin/sh", "args": ["-c", "cat /var/lib/made/greeting; echo $GREETING $PATH; echo $USER"]}
    done = await api("POST", "/v1/capsules/{id}/exec", 200, values=one, json=body)
    assert done["stdout"].startswith("hello\nhello /var/tmp/hellos:/"), done
    assert done["stdout"].endswith("\nuser\n")
    own = await api("POST", "/v1/snapshots", 201, json={"sandbox_id": one["id"], "name": "own"})
    assert not own["platform"]
    done = await api("POST", "/v1/capsules/{id}/exec", 200, values=await yard.capsule("own"), json=body)
    assert done["stdout"].startswith("hello\nhello "), "a template of a capsule keeps what processes find"
    assert [each["name"] for each in await yard.told("build.created")] == ["made"]


async def test_a_step_that_fails_ends_the_build(yard: Yard) -> None:
    for line, said in (
        ("RUN echo this is wrong >&2; exit 3", "step 2, RUN echo this is wrong >&2; exit 3: it ended with exit code 3"),
        ("RUN --timeout=50ms sleep 1000", "it did not end within 0.05 s"),
        ("USER nobody-at-all", "USER nobody-at-all: there is no user"),
        ("WORKDIR /proc/1/no", "WORKDIR /proc/1/no: it ended with exit code 1"),
    ):
        build = await yard.built(line, "RUN true", name="broken")
        assert build["status"] == "failed"
        assert said in build["error"], build
        assert [each["ok"] for each in build["logs"]] == [True, False]
        assert "default_env" not in build
    await yard.nothing_is_left()
    assert [each["name"] for each in await yard.lab.by_key()("GET", "/v1/snapshots", 200)] == ["host"]


async def test_the_end_of_long_output_is_kept(yard: Yard) -> None:
    noise = "head -c 100000 /dev/zero; seq 100000"
    build = await yard.built(f"RUN {noise}; ({noise}) >&2; echo the end")
    log = build["logs"][1]
    assert log["stdout"].endswith("100000\nthe end\n")
    assert log["stderr"].startswith("[...] ")
    assert build["status"] == "success"


async def test_a_build_of_the_same_name_takes_the_place_of_the_first(yard: Yard) -> None:
    sizes = []
    for _ in range(2):
        assert (await yard.built("RUN true", skip_pre_post=True))["status"] == "success"
        await yard.nothing_is_left(templates=1)
        sizes.append(await yard.driver_has())
    assert sizes[0] != sizes[1]
    again = await yard.built("RUN echo $FIRST", name="on-top", base_template="made", skip_pre_post=True)
    assert (again["status"], len(again["logs"])) == ("success", 1)
    await yard.nothing_is_left(templates=2)
    listed = await yard.admin("GET", ALL, 200)
    assert [(each["name"], each["status"], each["current_step"]) for each in listed] == [
        ("on-top", "success", 1),
        ("made", "success", 1),
        ("made", "success", 1),
    ]
    assert all("logs" not in each for each in listed)


async def test_two_builds_go_on_at_once_and_cancelling_leaves_nothing(yard: Yard) -> None:
    waits = ("RUN true", "RUN --timeout=1h sleep 3000")
    first, second, third, fourth = [await yard.submit(*waits, name=f"n{number}") for number in range(4)]
    for each in (first, second):
        await yard.reaches(each, "running", steps=2)
    assert [(await yard.get(each))["status"] for each in (third, fourth)] == ["pending", "pending"]
    for each in (third, first):
        assert await yard.admin("POST", CANCEL, 204, values={"id": each}) is None
        assert (await yard.get(each))["status"] == "cancelled"
    await yard.reaches(fourth, "running", steps=2)
    assert (await yard.get(second))["status"] == "running"
    for each in (second, fourth):
        await yard.admin("POST", CANCEL, 204, values={"id": each})
    await yard.nothing_is_left()
    refused = await yard.admin("POST", CANCEL, 400, promised=False, values={"id": first})
    assert refused["code"] == "invalid_request"
    assert [each["name"] for each in await yard.told("build.cancelled")] == ["n2", "n0", "n1", "n3"]


async def test_what_cannot_be_built_is_refused(yard: Yard) -> None:
    async def refused(status: int, code: str, says: str, **wish: Any) -> None:
        body = {"name": "made", "base_template": "host", "recipe": ["RUN true"], **wish}
        error = await yard.admin("POST", ALL, status, promised=False, json=body)
        assert error["code"] == code
        assert says in error["message"], error

    await refused(400, "invalid_request", "line 2 of the recipe: 'FLY'", recipe=["RUN true", "FLY away"])
    await refused(400, "invalid_request", "the recipe says nothing", recipe=["# nothing"])
    await refused(400, "invalid_request", "none came with the recipe", recipe=["COPY a /b"])
    await refused(400, "invalid_request", "the health check: ", healthcheck="--interval=x true")
    await refused(400, "invalid_request", "", recipe=[])
    await refused(400, "invalid_request", "", name="-")
    await refused(404, "not_found", "'nothing-like-it'", base_template="nothing-like-it")
    await refused(409, "name_reserved", "'host'", name="host")
    await refused(501, "agent_error", "leave the health check out", healthcheck="true")
    for method, path in (("GET", ONE), ("POST", CANCEL)):
        unknown = await yard.admin(method, path, 404, promised=False, values={"id": to_wire("bld", new_id())})
        assert unknown["code"] == "not_found"
    assert await yard.admin("GET", ALL, 200) == []


async def test_builds_are_the_platforms_admins_alone(yard: Yard) -> None:
    build = await yard.submit("RUN true", skip_pre_post=True)
    body = {"name": "other", "base_template": "host", "recipe": ["RUN true"]}
    for caller, status in (
        (await yard.lab.member("manager@example.org", "admin"), 403),
        (await yard.lab.stranger(), 403),
        (yard.lab.by_key(), 401),
        (yard.lab.anybody(), 401),
    ):
        for method, path, more in (
            ("POST", ALL, {"json": body}),
            ("GET", ALL, {}),
            ("GET", ONE, {}),
            ("POST", CANCEL, {}),
        ):
            await caller(method, path, status, promised=False, values={"id": build}, **more)
    assert (await yard.reaches(build, "success"))["name"] == "made"
    assert len(await yard.admin("GET", ALL, 200)) == 1
