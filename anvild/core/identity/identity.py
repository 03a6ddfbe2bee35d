"""The identity room as one service."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import trio

from anvild.core.events import EventLog
from anvild.core.logging import get_logger
from anvild.core.settings import IdentitySettings
from anvild.core.store import Store
from anvild.sdk import AnvilError, Event

from .accounts import Accounts
from .api_keys import ApiKeys
from .audit import Audit
from .authenticator import Authenticator
from .cache import CredentialCache
from .device_tokens import DeviceTokens
from .host_tokens import HostTokens
from .idempotency import Idempotency
from .last_use import LastUse
from .linked_logins import LinkedLogins
from .login_tokens import LoginTokens
from .logins import Logins
from .passwords import Passwords
from .personal_tokens import PersonalTokens
from .rate_limits import Limits
from .secret_box import SecretBox, load_secret_box
from .sessions import Sessions
from .signing_keys import SigningKeys
from .sweep import sweep
from .teams import Teams
from .users import Users
from .values import Credentials, Principal

__all__ = ["Identity"]

_WATCHED = frozenset({"user", "team", "api_key", "session", "token", "device_token", "host"})
_MAINTENANCE = 3600.0

log = get_logger("identity")


class Identity:
    """Who is asking, and all that belongs to it: one attribute for each service of the room.

    Make it with :meth:`open`, then keep :meth:`run` running.
    """

    def __init__(
        self,
        store: Store,
        events: EventLog,
        box: SecretBox,
        *,
        settings: IdentitySettings,
        passwords: Passwords,
        limits: Limits,
    ) -> None:
        """Use :meth:`open`."""
        self._store = store
        self._events = events
        self._cache = CredentialCache()
        self._last_use = LastUse(store)
        self._keys_changed = trio.Event()
        self.box = box
        self.limits = limits
        self.signing_keys = SigningKeys(store, box)
        self.users = Users(store, passwords, self._cache)
        self.teams = Teams(store, self._cache)
        self.accounts = Accounts(store, passwords, self._cache)
        self.api_keys = ApiKeys(store, self._cache)
        self.linked_logins = LinkedLogins(store)
        idle = timedelta(hours=settings.session_idle_hours)
        lifetime = timedelta(hours=settings.session_hours)
        logins = Logins(store, passwords, limits)
        self.sessions = Sessions(store, self._cache, self._last_use, logins, idle=idle, lifetime=lifetime)
        self.login_tokens = LoginTokens(store, logins, self.signing_keys)
        self.personal_tokens = PersonalTokens(store, self._cache)
        self.device_tokens = DeviceTokens(store, self._cache, self.signing_keys)
        self.host_tokens = HostTokens(store, self._cache, self.signing_keys)
        self.logins = logins
        self.idempotency = Idempotency(store, box)
        self.audit = Audit(store)
        self._authenticator = Authenticator(
            store,
            self._cache,
            self._last_use,
            self.signing_keys,
            automation_token=settings.bearer_token or None,
            session_idle=idle,
        )

    @classmethod
    async def open(
        cls,
        store: Store,
        events: EventLog,
        *,
        data_dir: Path,
        settings: IdentitySettings | None = None,
        passwords: Passwords | None = None,
        limits: Limits | None = None,
    ) -> Identity:
        """Read the secret key and the signing keys, making them at the first start.

        Raises SecretBoxError, with what to mend, when the key cannot be used.
        """
        box = await trio.to_thread.run_sync(load_secret_box, data_dir)
        identity = cls(
            store,
            events,
            box,
            settings=settings or IdentitySettings(),
            passwords=passwords or Passwords(),
            limits=limits or Limits(),
        )
        await identity.signing_keys.open()
        return identity

    async def authenticate(self, credentials: Credentials) -> Principal | None:
        """Return who asks; see :meth:`Authenticator.authenticate`."""
        return await self._authenticator.authenticate(credentials)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Heed the changes that other daemons make, write last uses, and sweep what has ended. Runs until cancelled."""
        end = self._events.on_commit(self._heed)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._last_use.run)
                nursery.start_soon(self.idempotency.run)
                nursery.start_soon(self._maintain)
                nursery.start_soon(self._reload_keys)
                task_status.started()
        finally:
            end()

    async def _maintain(self) -> None:
        while True:
            try:
                await self.signing_keys.maintain()
                await self.idempotency.sweep()
                await sweep(self._store)
            except AnvilError as error:
                log.warning("identity_not_maintained", reason=error.message)
            await trio.sleep(_MAINTENANCE)

    async def _reload_keys(self) -> None:
        """Read the signing keys again when another daemon has replaced one."""
        while True:
            await self._keys_changed.wait()
            self._keys_changed = trio.Event()
            try:
                await self.signing_keys.refresh()
            except AnvilError as error:
                log.warning("signing_keys_not_read", reason=error.message)

    def _heed(self, events: Sequence[Event]) -> None:
        tags = {f"{event.subject_type}:{event.subject_id}" for event in events if event.subject_type in _WATCHED}
        if tags:
            self._cache.invalidate(*tags)
        if any(event.subject_type == "signing_key" for event in events):
            self._keys_changed.set()
