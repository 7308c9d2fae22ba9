"""Authorities and certificates for one test run."""

import secrets
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

NAME = "headlines.test"


class Pair(NamedTuple):
    certificate: bytes
    key: bytes


class Authority:
    def __init__(self):
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"authority {secrets.token_hex(8)}")])
        self.certificate = self._sign(self._name, self._key, 1, x509.BasicConstraints(ca=True, path_length=None))

    def issue(self, *, expired=False, encryption=None):
        """A certificate for NAME, valid until tomorrow or yesterday, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
        certificate = self._sign(name, key, -1 if expired else 1, x509.SubjectAlternativeName([x509.DNSName(NAME)]))
        return Pair(certificate, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption()))

    def _sign(self, name, key, days, extension):
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder(self._name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(days=2))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(extension, critical=True)
            .sign(self._key, SHA256())
            .public_bytes(Encoding.PEM)
        )
