"""What a server must know of its own certificate: how long it is valid, and what kind of key it has.

Python's ssl module shows these only for a peer's certificate that it has verified, and the service needs no further library.
Field names are those of RFC 5280, section 4.1.
"""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime
from typing import NamedTuple

_PEM = re.compile(rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----([^-]*)-----END ")
_VERSION, _UTC_TIME = 0xA0, 0x17  # tags
# The AlgorithmIdentifiers of public keys: RSA, and ECDSA on P-256 and P-384.
_KEYS = {
    bytes.fromhex("06092a864886f70d0101010500"): "RSA",
    bytes.fromhex("06072a8648ce3d020106082a8648ce3d030107"): "P-256",
    bytes.fromhex("06072a8648ce3d020106052b81040022"): "P-384",
}


class Leaf(NamedTuple):
    """A server's own certificate, which is the first in its file."""

    not_before: datetime
    not_after: datetime
    key: str | None  # RSA, P-256 or P-384; None for any other


def read_leaf(pem: bytes) -> Leaf:
    """Read the first certificate of a PEM file. Raises ValueError if there is none."""
    if not (found := _PEM.search(pem)):
        raise ValueError("no certificate as PEM")
    try:
        ((_, certificate), *_) = _elements(base64.b64decode(found[1]))
        ((_, to_be_signed), *_) = _elements(certificate)
        fields = _elements(to_be_signed)
        if fields[0][0] == _VERSION:  # optional
            del fields[0]
        _serial, _signature, _issuer, validity, _subject, public_key, *_ = (contents for _, contents in fields)
        not_before, not_after = (_read_time(*it) for it in _elements(validity))
        return Leaf(not_before, not_after, _KEYS.get(_elements(public_key)[0][1]))
    except IndexError:
        raise ValueError("no certificate as DER") from None


def _elements(der: bytes) -> list[tuple[int, bytes]]:
    """The tags and contents of the elements that DER consists of."""
    elements = []
    while der:
        tag, length, der = der[0], der[1], der[2:]
        if length & 0x80:
            octets = length & 0x7F
            length, der = int.from_bytes(der[:octets], "big"), der[octets:]
        elements.append((tag, der[:length]))
        der = der[length:]
    return elements


def _read_time(tag: int, contents: bytes) -> datetime:
    text = contents.decode("ascii")
    if tag == _UTC_TIME:
        text = ("19" if text >= "5" else "20") + text  # RFC 5280, 4.1.2.5.1
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
