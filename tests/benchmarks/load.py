"""Load generators and statistics of the benchmarks."""

from __future__ import annotations

import re
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SECONDS = 3
CONNECTIONS = 16


@dataclass(frozen=True)
class Load:
    """What one run of wrk saw: requests a second, 99th percentile in milliseconds, answers that were no 2xx."""

    rate: float
    p99: float
    errors: int


def wrk(
    url: str,
    headers: Mapping[str, str] = {},
    *,
    body: str | None = None,
    connections: int = CONNECTIONS,
    seconds: int = SECONDS,
) -> Load:
    """Load one address for a while from one thread: with GET, or with POST of a body."""
    flags = [part for name, value in headers.items() for part in ("-H", f"{name}: {value}")]
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        if body is not None:
            script.write(f"wrk.method = 'POST'\nwrk.body = [[{body}]]\n")
            script.write("wrk.headers['Content-Type'] = 'application/json'\n")
            script.flush()
            flags += ["-s", script.name]
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", *flags, url]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rate = float(_find(r"Requests/sec:\s+([\d.]+)", text))
    number, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    return Load(
        rate, float(number) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[unit], int(failed.group(1)) if failed else 0
    )


def _find(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    assert found is not None, text
    return found.group(1)


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a peer, which has no way to call out, takes connections."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        assert process.poll() is None, "the peer has ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("the peer does not take connections")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def percentile(values: Sequence[float], which: float) -> float:
    """The value below which ``which`` percent of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * which / 100))]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)
