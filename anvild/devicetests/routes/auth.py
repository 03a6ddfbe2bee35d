"""Who is who: sessions of people, tokens of devices."""

from __future__ import annotations

from anvild.core.clock import utcnow
from anvild.core.engine import Actor, Devices
from anvild.core.errors import Unauthenticated
from anvild.core.helpers import HelperDriver
from anvild.core.identity import Credentials, Identity, Principal, require
from anvild.core.identity.device_tokens import check_udid
from anvild.web.api import Api
from anvild.web.request import Answer, Cookie, Request

from .. import schemas as wire
from ..shapes import principal_shape
from .common import device_cap, origin_of

__all__ = ["add_device_auth", "add_sessions"]

TAGS = ("Auth",)


def add_device_auth(api: Api, identity: Identity, devices: Devices, *, default_cap: int) -> None:
    """Add the handshake of devices and what belongs to it."""

    @api.post(
        "/auth/device/handshake",
        summary="Driver handshake — mint a short-lived device JWT.",
        description="The token is bound to the UDID and ends after 24 hours; rotate it before.",
        tags=TAGS,
        answers={200: wire.DeviceHandshakeResponse},
        errors={
            400: "The body is not as expected.",
            401: "Invalid/revoked API key",
            402: "Plan device cap reached",
            409: "The device belongs to another team, or was retired.",
        },
        body=wire.DeviceHandshakeBody,
        limit="handshake",
    )
    async def device_handshake(request: Request) -> wire.DeviceHandshakeResponse:
        body: wire.DeviceHandshakeBody = request.body
        principal = await identity.authenticate(
            Credentials(api_key=body.api_key, method="POST", ip=request.ip, user_agent=request.user_agent)
        )
        if principal is None or principal.team_id is None:
            raise Unauthenticated("the API key is not good")
        require(principal, "devices:connect")
        device = await devices.enrol(
            team_id=principal.team_id,
            driver=HelperDriver.name,
            identity=check_udid(body.device.udid),
            platform=body.device.platform,
            cap=await device_cap(identity, principal.team_id, default_cap),
            by=Actor(principal.actor, principal.team_id, request.ip, request.user_agent),
        )
        signed = await identity.device_tokens.issue(
            principal,
            udid=body.device.udid,
            platform=body.device.platform,
            device_id=device.id,
            origin=origin_of(request),
        )
        return wire.DeviceHandshakeResponse(token=signed.token, expires_at=signed.expires_at)

    @api.post(
        "/auth/device/rotate",
        summary="Rotate a near-expiry device JWT.",
        description="The token comes as `Authorization: Bearer`. It ends when the new one is given.",
        tags=TAGS,
        answers={200: wire.DeviceHandshakeResponse},
        errors={401: "Expired or revoked"},
        limit="handshake",
    )
    async def rotate_device_token(request: Request) -> wire.DeviceHandshakeResponse:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Unauthenticated("send the device's token as Authorization: Bearer TOKEN")
        signed = await identity.device_tokens.rotate(token.strip(), origin=origin_of(request))
        return wire.DeviceHandshakeResponse(token=signed.token, expires_at=signed.expires_at)

    @api.get(
        "/auth/revocation-list",
        summary="Public revocation list for device JWTs.",
        tags=TAGS,
        answers={200: wire.RevocationList},
    )
    async def revocation_list(_: Request) -> Answer:
        revoked = await identity.device_tokens.revocation_list()
        listed = wire.RevocationList(jti=list(revoked.jti), generated_at=revoked.generated_at)
        return Answer(200, listed, headers=[("cache-control", "no-store")])

    @api.get(
        "/auth/jwks.json",
        summary="The public keys that device JWTs are signed with.",
        tags=TAGS,
        answers={200: wire.Jwks},
        contract=False,
    )
    async def jwks(_: Request) -> Answer:
        keys = wire.Jwks(keys=identity.device_tokens.jwks()["keys"])
        return Answer(200, keys, headers=[("cache-control", "public, max-age=300")])


def add_sessions(api: Api, identity: Identity, *, secure: bool) -> None:
    """Add the login and logout of people. ``secure`` keeps the cookies to HTTPS."""

    @api.post(
        "/auth/session",
        summary="Log in with an e-mail address and a password.",
        description=f"Sets the cookies `{api.cookies.session}` and `{api.cookies.csrf}`. Requests that change "
        f"something must send the value of the second one in the header `{api.cookies.csrf_header}`.",
        tags=TAGS,
        answers={201: wire.SessionAnswer},
        errors={400: "The body is not as expected.", 401: "The account or the password is wrong."},
        body=wire.SessionBody,
        contract=False,
    )
    async def log_in(request: Request) -> Answer:
        body: wire.SessionBody = request.body
        new = await identity.sessions.login(body.email, body.password, origin=origin_of(request))
        principal = new.person.principal("user", new.person.user_id, session_id=new.session_id)
        age = int((new.expires_at - utcnow()).total_seconds())
        me = await _me(identity, principal)
        return Answer(
            201,
            wire.SessionAnswer(csrf_token=new.csrf, expires_at=new.expires_at, me=me),
            headers=[("cache-control", "no-store")],
            cookies=[
                Cookie(name=api.cookies.session, value=new.secret, max_age=age, secure=secure),
                Cookie(name=api.cookies.csrf, value=new.csrf, max_age=age, secure=secure, http_only=False),
            ],
        )

    @api.delete(
        "/auth/session",
        summary="Log out: end the session that asks.",
        tags=TAGS,
        answers={204: None},
        signed_in=True,
        contract=False,
    )
    async def log_out(request: Request) -> Answer:
        principal = request.principal
        if principal.session_id is not None and principal.user_id is not None:
            await identity.sessions.revoke(
                principal.session_id, user_id=principal.user_id, by=principal, origin=origin_of(request)
            )
        names = (api.cookies.session, api.cookies.csrf)
        return Answer(204, cookies=[Cookie(name=name, value="", max_age=0, secure=secure) for name in names])

    @api.get(
        "/auth/me",
        summary="Say who asks.",
        tags=TAGS,
        answers={200: wire.Me},
        signed_in=True,
        contract=False,
    )
    async def get_me(request: Request) -> wire.Me:
        return await _me(identity, request.principal)


async def _me(identity: Identity, principal: Principal) -> wire.Me:
    user = None if principal.user_id is None else await identity.users.get(principal.user_id)
    return principal_shape(principal, email=None if user is None else user.email)
