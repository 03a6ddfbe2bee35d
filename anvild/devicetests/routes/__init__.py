"""The wing's HTTP surface. Each module adds the operations of one subject."""

from __future__ import annotations

from anvild.core.artifacts import Artifacts
from anvild.core.driver_context import host_name
from anvild.core.engine import Engine
from anvild.core.events import EventLog
from anvild.core.grades import Grades
from anvild.core.helpers import Helpers
from anvild.core.hosts import Links
from anvild.core.identity import Identity
from anvild.core.plugins import Plugins
from anvild.core.settings import Settings, config_path
from anvild.core.store import Store
from anvild.sdk import Mount, Services
from anvild.web.api import Api
from anvild.web.remembered import Remembered
from anvild.web.request import CookieNames

from ..hands import Hands
from ..pipelines import Catalogue
from ..service import PipelineRuns
from ..uploads import Uploads
from .artifacts import add_artifacts
from .audit import add_audit
from .auth import add_device_auth, add_sessions
from .common import Errors
from .devices import add_devices
from .driver import add_driver
from .events import add_events
from .hands import add_hands
from .keys import add_keys
from .lab import add_lab
from .leases import add_leases
from .runs import add_runs, touched
from .uploads import add_uploads

__all__ = ["make_mount"]

PREFIX = "/api/v1"
DESCRIPTION = """App tests on devices: runs of pipelines, the devices of the lab, keys, the audit log.

**Authentication.** A session cookie, set by `POST /auth/session`, or an API key: `Authorization: Bearer anvil_live_…`
or `X-API-Key: wrn_…`. Operations marked `x-beyond-contract` are this daemon's own.
"""


def make_mount(services: Services) -> Mount:
    """Build the wing on the daemon's services. Raises LookupError where one of them is missing."""
    settings = services.get(Settings)
    identity = services.get(Identity)
    engine = services.get(Engine)
    api = Api(
        name="devicetests",
        prefix=PREFIX,
        title="Anvil API",
        version="1.0.0",
        description=DESCRIPTION,
        errors=Errors(),
        services=services,
        cookies=CookieNames(session="sb-access-token", csrf="anvil_csrf"),
        security={
            "apiKey": {"type": "http", "scheme": "bearer", "bearerFormat": "anvil_live_xxx"},
            "sessionCookie": {"type": "apiKey", "in": "cookie", "name": "sb-access-token"},
        },
        max_body=settings.web.max_body,
    )
    catalogue = Catalogue([path / "pipelines" for path in config_path(settings)])
    uploads = Uploads(services.get(Artifacts), limit=settings.web.max_upload)
    runs = PipelineRuns(engine.runs, engine.devices, catalogue, uploads)
    hands = Hands(engine)
    cap = settings.devicetests.device_cap
    remembered = Remembered(touched)
    remembered.listen(services.get(Store), services.get(EventLog))
    add_runs(api, runs, catalogue, remembered)
    add_events(api, runs, services.get(EventLog))
    add_artifacts(api, runs, services.get(Artifacts))
    add_uploads(api, uploads, max_upload=settings.web.max_upload)
    add_devices(api, identity, engine.devices, default_cap=cap)
    add_hands(api, hands, engine.devices, max_upload=settings.web.max_upload)
    add_leases(api, hands, engine.devices, default_seconds=settings.engine.person_lease)
    add_keys(api, identity)
    add_audit(api, identity)
    add_device_auth(api, identity, engine.devices, default_cap=cap)
    add_driver(
        api,
        identity,
        engine.devices,
        services.get(Helpers),
        services.get(Links),
        services.get(EventLog),
        host=host_name(settings),
    )
    add_sessions(api, identity, secure=settings.web.public_url.startswith("https://"))
    add_lab(api, hands, services.get(Plugins), Grades(settings.data_dir))
    return api.mount(run=hands.run)
