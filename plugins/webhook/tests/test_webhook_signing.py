"""Signatures, held against published and independent ones."""

from __future__ import annotations

import base64
import hashlib
import hmac

import msgspec
import pytest

from anvild_webhook.notifier import WebhookConfig
from anvild_webhook.signing import plain_signature, standard_signature


def test_the_vector_of_the_standard_webhooks_documentation() -> None:
    signature = standard_signature(
        "whsec_plJ3nmyCDGBKInavdOK15jsl",
        "msg_loFOjxBNrRLzqYUf",
        "1731705121",
        b'{"event_type":"ping","data":{"success":true}}',
    )
    assert signature == "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0="


@pytest.mark.parametrize("secret", ["f" * 64, "whsec_" + "f" * 64])
def test_a_made_secret_is_what_the_libraries_decode(secret: str) -> None:
    key = base64.b64decode("f" * 64)
    expected = base64.b64encode(hmac.new(key, b"a.1.{}", hashlib.sha256).digest()).decode()
    assert standard_signature(secret, "a", "1", b"{}") == f"v1,{expected}"


def test_a_secret_that_is_no_base64_is_the_key_itself() -> None:
    expected = base64.b64encode(hmac.new("no base64 ß".encode(), b"a.1.{}", hashlib.sha256).digest()).decode()
    assert standard_signature("no base64 ß", "a", "1", b"{}") == f"v1,{expected}"


def test_the_other_signature_takes_the_secret_as_it_stands() -> None:
    expected = hmac.new(b"f" * 64, b"2026-11-22T00:00:00Z.{}", hashlib.sha256).hexdigest()
    assert plain_signature("f" * 64, "2026-11-22T00:00:00Z", b"{}") == f"sha256={expected}"


@pytest.mark.parametrize("url", ["", "x", "ftp://example.org", "https://", "//example.org", "https:///path"])
def test_what_is_no_http_url_is_refused(url: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"url": url}, WebhookConfig)


def test_a_secret_is_made_where_none_is_given() -> None:
    one, other = (msgspec.convert({"url": "https://example.org"}, WebhookConfig) for _ in range(2))
    assert len(bytes.fromhex(one.secret)) == 32
    assert one.secret != other.secret
