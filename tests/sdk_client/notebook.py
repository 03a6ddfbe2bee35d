"""The code runner, over the port proxy, with kernels that a small server in the capsule has; and the ports themselves.

The template is the command line's third word, ``code-runner-beta`` where it is there: that one serves its own kernels.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import httpx
from clients import Clients, inside, raises, told
from wrenn import exceptions

TEMPLATE = sys.argv[3] if len(sys.argv) > 3 else "host"
REAL = "code-runner-beta"
HERE = Path(__file__).parent
SOURCES = (HERE.parent / "support" / "guest_web.py", HERE / "guest_kernel.py")
KERNELS = 8888
OTHER = 8889


async def drive(sdk: Clients) -> None:
    """Drive all of it."""
    async with inside(await told(sdk.CodeRunner.create(template=TEMPLATE))) as runner:
        await told(runner.wait_ready(300))
        assert runner.info.template == TEMPLATE
        if TEMPLATE != REAL:
            await serve(runner, KERNELS)
        await run_code(runner, "None")
        await cells(runner)
        if TEMPLATE != REAL:
            await serve(runner, OTHER)
            await ports(sdk, runner)
        await told(runner.close())
        assert (await run_code(runner, "x")).text == "41"  # which connects again


async def serve(capsule: Any, port: int) -> None:
    """Start the server of kernels, and wait until it listens."""
    for source in SOURCES:
        await told(capsule.files.write(f"/srv/{source.name}", source.read_bytes()))
    await told(capsule.commands.run(f"exec python3 /srv/guest_kernel.py {port} >/tmp/{port}", background=True))
    await told(capsule.commands.run(f"until grep -q listening /tmp/{port}; do sleep 0.05; done", timeout=300))


async def run_code(runner: Any, code: str) -> Any:
    """Run a cell when the kernel runs: in emulation it may need longer than the 5 s that the SDK's handshake waits."""
    while True:
        with contextlib.suppress(httpx.ReadTimeout):
            return await told(runner.run_code(code, timeout=300, jupyter_timeout=300))


async def cells(runner: Any) -> None:
    """Cells share their names, and tell what they print, show and return."""
    heard: list[Any] = []
    done = await told(runner.run_code("x = 41\nprint('héllo')\nx + 1", on_stdout=heard.append, on_result=heard.append))
    assert (done.text, done.error, done.timed_out) == ("42", None, False)
    assert "".join(done.logs.stdout) == "héllo\n"
    assert done.execution_count is not None
    assert done.results[0].formats() == ["text"]
    assert done.results[0] in heard
    assert "".join(each for each in heard if isinstance(each, str)) == "héllo\n"
    done = await told(runner.run_code("import sys; print(x, file=sys.stderr); [x] * 2", on_stderr=heard.append))
    assert "".join(done.logs.stderr) == "41\n"
    assert done.text == "[41, 41]"
    done = await told(runner.run_code("1 / 0", on_error=heard.append))
    assert (done.error.name, done.error.value) == ("ZeroDivisionError", "division by zero")
    assert "ZeroDivisionError" in done.error.traceback
    assert done.error in heard
    if TEMPLATE == REAL:
        return
    done = await told(runner.run_code("display({'text/html': '<b>', 'image/png': 'AAAA', 'text/x-own': '?'})"))
    assert done.results[0].formats() == ["html", "png", "text/x-own"]
    assert len((await told(runner.run_code("print('x' * 1_000_000)"))).logs.stdout[0]) == 1_000_000


async def ports(sdk: Clients, capsule: Any) -> None:
    """A port is reached at the address that the SDK tells, by those who have the key."""
    url = capsule.get_url(OTHER)
    key = {"X-API-Key": capsule._client._api_key}
    async with httpx.AsyncClient(headers=key, timeout=60) as client:
        assert (await client.get(f"{url}/api/kernels")).json() == []
        refused = await client.get(f"{capsule.get_url(1)}/")
        assert (refused.status_code, refused.headers["content-type"]) == (502, "text/plain; charset=utf-8")
        with raises(exceptions.WrennInternalError) as found:
            exceptions.handle_response(refused)
        assert found.error.status_code == 502
    async with httpx.AsyncClient(timeout=60) as client:
        assert (await client.get(f"{url}/api/kernels")).status_code == 401
