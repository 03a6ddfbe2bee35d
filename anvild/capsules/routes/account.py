"""One's own account: how it comes to be, its name, its password, and its end."""

from __future__ import annotations

import trio
from msgspec import UNSET

from anvild.core.errors import FieldProblem, Forbidden, InvalidRequest
from anvild.core.identity import Identity, Limits
from anvild.core.mail import MailNotSent
from anvild.web.api import Api
from anvild.web.request import Answer, Request

from ..errors import WrongPassword
from ..letters import Letters
from ..schemas import people as wire
from .auth import caller, cleared, session_answer
from .common import SESSION, origin_of

__all__ = ["add_account", "add_signup"]

TAGS = ("account",)
WITHDRAWAL_SECONDS = 5


def add_signup(api: Api, identity: Identity, letters: Letters) -> None:
    """Add signing up and the activation that follows."""

    @api.post(
        "/auth/signup",
        summary="Create a new account",
        description="A mail with the activation link goes to the address; the link is good for 30 minutes.",
        tags=("auth",),
        answers={201: wire.SignupResponse},
        errors={
            400: "Invalid request (bad email, short password)",
            403: "Signup is closed, since this daemon sends no mail.",
            409: "Email already registered or signup cooldown active",
            502: "The mail could not be sent; nothing was kept.",
        },
        body=wire.SignupRequest,
        limit="mail_ip",
    )
    async def signup(request: Request) -> Answer:
        body: wire.SignupRequest = request.body
        if not letters.possible:
            raise Forbidden("signup is closed, since this daemon sends no mail; its operator can make you an account")
        new = await identity.accounts.sign_up(
            email=body.email, password=body.password, name=body.name, origin=origin_of(request)
        )
        try:
            await letters.welcome(new)
        except (InvalidRequest, MailNotSent):
            with trio.move_on_after(WITHDRAWAL_SECONDS, shield=True):
                await identity.accounts.withdraw(new.user.id)
            raise
        return Answer(201, wire.SignupResponse(message="Look into your mail for the link that activates your account."))

    @api.post(
        "/auth/activate",
        summary="Activate account via email token",
        description=f"Sets the cookies `{api.cookies.session}` and `{api.cookies.csrf}`.",
        tags=("auth",),
        answers={200: wire.SessionResponse},
        errors={400: "Invalid or expired token"},
        body=wire.Activation,
    )
    async def activate(request: Request) -> Answer:
        body: wire.Activation = request.body
        user = await identity.accounts.activate(body.token, origin=origin_of(request))
        new = await identity.sessions.create(user.id, origin=origin_of(request))
        return await session_answer(api, identity, new)


def add_account(api: Api, identity: Identity, limits: Limits, letters: Letters) -> None:
    """Add the operations on the caller's own account."""

    @api.get(
        "/me",
        summary="Get current user profile",
        tags=TAGS,
        answers={200: wire.Me},
        signed_in=True,
        accepts=SESSION,
    )
    async def get_me(request: Request) -> wire.Me:
        user_id, _ = caller(request)
        user = await identity.users.get(user_id)
        return wire.Me(
            name=user.name,
            has_password=user.has_password,
            providers=await identity.linked_logins.of_user(user_id),
            email=user.email or UNSET,
        )

    @api.patch(
        "/me",
        summary="Update display name",
        tags=TAGS,
        answers={204: None},
        errors={400: "Invalid name"},
        body=wire.NewName,
        signed_in=True,
        accepts=SESSION,
    )
    async def update_name(request: Request) -> Answer:
        body: wire.NewName = request.body
        user_id, _ = caller(request)
        await identity.users.rename(user_id, body.name, by=request.principal, origin=origin_of(request))
        return Answer(204)

    @api.delete(
        "/me",
        summary="Delete current account",
        description="Ends all that one could come in with. What names the person is removed after 15 days.",
        tags=TAGS,
        answers={204: None},
        errors={
            400: "Confirmation does not match email",
            409: "User owns teams with other members, or is the last platform admin",
        },
        body=wire.DeleteAccount,
        signed_in=True,
        accepts=SESSION,
    )
    async def delete_account(request: Request) -> Answer:
        body: wire.DeleteAccount = request.body
        user_id, _ = caller(request)
        user = await identity.users.get(user_id)
        if user.email is None or body.confirmation.strip().lower() != user.email:
            expected = "the address of your account"
            raise InvalidRequest("the account is not deleted", (FieldProblem("body.confirmation", expected),))
        await identity.accounts.close(user_id, by=request.principal, origin=origin_of(request))
        return cleared(api)

    @api.post(
        "/me/password",
        summary="Change or add password",
        description="An account with a password sends it as `current_password`; one without sends the new one again "
        "as `confirm_password`. All sessions end, the asking one too.",
        tags=TAGS,
        answers={204: None},
        errors={
            400: "Invalid request (short password, mismatch, etc.)",
            401: "Current password is incorrect",
            429: "Too many attempts.",
        },
        body=wire.ChangePasswordRequest,
        signed_in=True,
        accepts=SESSION,
    )
    async def change_password(request: Request) -> Answer:
        body: wire.ChangePasswordRequest = request.body
        user_id, _ = caller(request)
        user = await identity.users.get(user_id)
        if not user.has_password:
            if body.confirm_password != body.new_password:
                raise _missing("confirm_password", "the new password again")
        elif body.current_password is UNSET:
            raise _missing("current_password", "the current password")
        else:
            limits.check("password_account", user_id)
            if not await identity.users.check_password(user_id, body.current_password):
                raise WrongPassword("the current password is wrong")
        await identity.users.set_password(user_id, body.new_password, by=request.principal, origin=origin_of(request))
        return cleared(api)

    @api.post(
        "/me/password/reset",
        summary="Request a password reset email",
        description="The answer is the same whether there is such an account or not. The link in the mail is good for "
        "15 minutes. Nothing is sent beyond 10 requests a minute from one address and 5 an hour for one account.",
        tags=TAGS,
        answers={204: None},
        body=wire.ResetRequest,
        lenient=True,
    )
    async def request_password_reset(request: Request) -> Answer:
        body: wire.ResetRequest | None = request.body
        if body is not None and letters.possible:
            email = body.email.strip().lower()
            if limits.hit("mail_ip", request.ip or "local").allowed and limits.hit("mail_account", email).allowed:
                letters.forgotten(email)
        return Answer(204)

    @api.post(
        "/me/password/reset/confirm",
        summary="Confirm password reset",
        description="All sessions of the account end.",
        tags=TAGS,
        answers={204: None},
        errors={400: "Invalid or expired token, or password too short"},
        body=wire.ResetConfirmation,
        limit="mail_ip",
    )
    async def confirm_password_reset(request: Request) -> Answer:
        body: wire.ResetConfirmation = request.body
        await identity.accounts.reset_password(body.token, body.new_password, origin=origin_of(request))
        return Answer(204)


def _missing(field: str, expected: str) -> InvalidRequest:
    return InvalidRequest("the password is not changed", (FieldProblem(f"body.{field}", expected),))
