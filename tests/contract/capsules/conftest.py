"""The contract of the capsules interface, and the interface."""

from __future__ import annotations

from collections.abc import Callable

import httpx2
import pytest

from tests.daemon import EMAIL, PASSWORD, Daemon
from tests.support.capsules import contract, lab

__all__ = ["contract", "lab"]


@pytest.fixture(scope="session")
def sign_in() -> Callable[[Daemon], dict[str, str]]:
    """Log in as a daemon's first user, and return the headers of their browser. Once for each daemon, since attempts
    are limited."""

    def signed_in(daemon: Daemon) -> dict[str, str]:
        body = {"email": EMAIL, "password": PASSWORD}
        login = httpx2.post(f"{daemon.url}/v1/auth/login", json=body, trust_env=False)
        assert login.status_code == 200, login.text
        cookies = dict(line.partition(";")[0].split("=", 1) for line in login.headers.get_list("set-cookie"))
        return {
            "Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items()),
            "X-CSRF-Token": cookies["wrenn_csrf"],
        }

    return signed_in
