"""What is read of a certificate, compared with what cryptography reads of it."""

from base64 import b64encode
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509 as reference
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from harness.certificates import Authority
from service import x509

KEYS = {
    "RSA": lambda: rsa.generate_private_key(65537, 2048),
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "P-521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
}


@pytest.mark.parametrize("kind", KEYS)
def test_dates_and_the_kind_of_key_are_those_of_the_first_certificate(kind):
    authority = Authority()
    pem = authority.issue(key=KEYS[kind]()).certificate
    expected = reference.load_pem_x509_certificate(pem)
    for text in (pem, b"# \xc3\xa9\r\n" + pem.replace(b"\n", b"\r\n") + authority.certificate):
        leaf = x509.read_leaf(text)
        assert leaf.not_before == expected.not_valid_before_utc
        assert leaf.not_after == expected.not_valid_after_utc
        assert leaf.key == (kind if kind in {"RSA", "P-256", "P-384"} else None)


@pytest.mark.parametrize("year", [1950, 1999, 2049, 2050, 9999])
def test_both_forms_of_time_are_read(year):
    moment = datetime(year, 12, 31, 23, 59, 59, tzinfo=UTC)
    now = datetime.now(UTC)
    begins, ends = (moment - now, timedelta(days=1)) if moment < now else (timedelta(days=-1), moment - now)
    pem = Authority().issue(begins=begins, ends=ends).certificate
    expected = reference.load_pem_x509_certificate(pem)
    leaf = x509.read_leaf(pem)
    assert (leaf.not_before, leaf.not_after) == (expected.not_valid_before_utc, expected.not_valid_after_utc)
    assert year in {leaf.not_before.year, leaf.not_after.year}


def test_what_is_no_certificate_is_a_value_error():
    pem = Authority().certificate
    cut = b64encode(reference.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)[:40])
    with pytest.raises(ValueError, match="no certificate"):
        x509.read_leaf(b"")
    for text in (b"", b"MA==", b"MAA=", b"!", cut):
        with pytest.raises(ValueError, match=r"no certificate|not enough values"):
            x509.read_leaf(b"-----BEGIN CERTIFICATE-----\n" + text + b"\n-----END CERTIFICATE-----\n")
