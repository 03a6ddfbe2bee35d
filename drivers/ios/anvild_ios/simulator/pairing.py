"""The keys of a simulated pairing: one authority, the host's certificate and the device's."""

from __future__ import annotations

import ssl
import tempfile
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

__all__ = ["Pairing"]

YEARS = 10


class Pairing:
    """What a host and the simulated devices have agreed on. Making it takes some tenths of a second of work."""

    def __init__(self) -> None:
        self.host_id = str(uuid.uuid4()).upper()
        self.system_id = str(uuid.uuid4()).upper()
        # One key for the three certificates: nothing is kept from anybody here, and a key takes long to make.
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._key = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        self._root = _certificate(key, "Simulated Root", authority=True)
        self._host = _certificate(key, "Simulated Host", authority=False)
        self._device = _certificate(key, "Simulated Device", authority=False)

    def record(self, udid: str) -> dict[str, Any]:
        """Return the pair record that usbmuxd would keep for a device."""
        return {
            "DeviceCertificate": self._device,
            "HostCertificate": self._host,
            "RootCertificate": self._root,
            "HostPrivateKey": self._key,
            "RootPrivateKey": self._key,
            "HostID": self.host_id,
            "SystemBUID": self.system_id,
            "EscrowBag": udid.encode(),
            "WiFiMACAddress": "02:00:00:00:00:01",
        }

    def device_context(self) -> ssl.SSLContext:
        """Return the device's side of TLS, which accepts the paired host alone. Blocks."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=self._root.decode())
        with tempfile.NamedTemporaryFile(suffix=".pem") as file:
            file.write(self._device + self._key)
            file.flush()
            context.load_cert_chain(file.name)
        return context


def _certificate(key: rsa.RSAPrivateKey, name: str, *, authority: bool) -> bytes:
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Simulated Root")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=365 * YEARS))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)
