"""Authorities and certificates for one test run."""

import secrets
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, KeySerializationEncryption, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

NAME = "headlines.test"
BEGINS, ENDS = timedelta(days=-2), timedelta(days=1)


class Pair(NamedTuple):
    """A certificate and its private key, as PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """A certificate authority."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"authority {secrets.token_hex(8)}")])
        self.certificate = self._sign(self._name, self._key, x509.BasicConstraints(ca=True, path_length=None))

    def issue(
        self,
        *,
        expired: bool = False,
        encryption: KeySerializationEncryption | None = None,
        key: CertificateIssuerPrivateKeyTypes | None = None,
        begins: timedelta = BEGINS,
        ends: timedelta = ENDS,
    ) -> Pair:
        """A certificate for NAME and its key, on P-256 unless one is given; valid from two days ago until tomorrow.

        `begins` and `ends` change that, each a timedelta from now; `expired` lets it end yesterday.
        """
        key = key or ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
        extension = x509.SubjectAlternativeName([x509.DNSName(NAME)])
        certificate = self._sign(name, key, extension, begins, timedelta(days=-1) if expired else ends)
        return Pair(certificate, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption()))

    def _sign(
        self,
        name: x509.Name,
        key: CertificateIssuerPrivateKeyTypes,
        extension: x509.ExtensionType,
        begins: timedelta = BEGINS,
        ends: timedelta = ENDS,
    ) -> bytes:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder(self._name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now + begins)
            .not_valid_after(now + ends)
            .add_extension(extension, critical=True)
            .sign(self._key, SHA256())
            .public_bytes(Encoding.PEM)
        )
