from __future__ import annotations

import ssl
from datetime import timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from anvild.core.clock import utcnow
from anvild.core.errors import InvalidRequest
from anvild.core.mail import Mail, MailNotSent
from anvild.core.settings import MailSettings
from tests.support.smtp import PostOffice, post_office

LOGIN = ("lab", "s3cret pass")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for this machine, with its key, which nobody vouches for."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mail")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, utcnow(), utcnow() + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "mail.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
def context(certificate: Path) -> ssl.SSLContext:
    """What a server with that certificate speaks TLS with."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


def mail(office: PostOffice, security: str, login: tuple[str, str] = ("", "")) -> Mail:
    user, password = login
    return Mail(
        MailSettings(server=office.address, security=security, user=user, password=password, sender="lab@example.org")
    )


async def test_a_letter_arrives_as_it_was_written() -> None:
    async with post_office() as office:
        await mail(office, "none").send("ann@example.org", "Grüße", ".\nfirst\n..\nÄ last\n")
        letter = await office.next()
    assert (letter.sender, letter.to) == ("lab@example.org", ["ann@example.org"])
    assert (letter.message["Subject"], letter.text) == ("Grüße", ".\nfirst\n..\nÄ last\n")
    assert {"Date", "Message-ID", "Auto-Submitted"} <= set(letter.message.keys())


@pytest.mark.parametrize("security", ["tls", "starttls"])
async def test_the_way_is_protected_and_the_server_proven(
    security: str, context: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with post_office(login=LOGIN, **{security: context}) as office:
        with pytest.raises(MailNotSent, match="CERTIFICATE_VERIFY_FAILED"):
            await mail(office, security, LOGIN).send("ann@example.org", "s", "t")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        await mail(office, security, LOGIN).send("ann@example.org", "s", "t")
        assert (await office.next()).to == ["ann@example.org"]


async def test_what_goes_wrong_is_one_error_without_the_password() -> None:
    async with post_office(login=LOGIN) as office:
        with pytest.raises(MailNotSent) as caught:
            await mail(office, "none", ("lab", "wrong")).send("ann@example.org", "s", "t")
        assert "wrong" not in caught.value.message
        with pytest.raises(MailNotSent):
            await mail(office, "none").send("ann@example.org", "s", "t")
    with pytest.raises(MailNotSent):
        await mail(office, "none").send("ann@example.org", "s", "t")
    assert office.letters == []


@pytest.mark.parametrize(
    "address", ["a,b@example.org", "a b@example.org", "a@example.org\nBcc: b@example.org", "a", ""]
)
async def test_one_address_is_one_address(address: str) -> None:
    async with post_office() as office:
        with pytest.raises(InvalidRequest):
            await mail(office, "none").send(address, "s", "t")
    assert office.letters == []


def test_without_a_server_there_is_no_mail() -> None:
    assert not Mail(MailSettings()).configured
