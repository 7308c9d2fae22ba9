"""What the commands that ask a server share: the flags of a connection, and its client."""

from __future__ import annotations

import math
import re
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from headlines.client import Client
from headlines.commands import Flag, Given, UsageError
from headlines.commands.flags import Parse, both_names, path, text, yes_or_no

_TARGET = re.compile(r"(\[[0-9A-Fa-f:.%\w]+\]|[^\s:/\[\]]+):([0-9]{1,5})")
_SCHEMES = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "vsock:", "xds:")  # gRPC's own names of servers


_DEFAULT_TARGET = "127.0.0.1:50051"


def _target(given: str) -> str:
    if given.startswith(_SCHEMES):
        return given
    found = _TARGET.fullmatch(given)
    if not found or not 0 < int(found[2]) < 1 << 16:
        why = ", without http://" if "://" in given else ""
        raise ValueError(f"must be HOST:PORT, such as 127.0.0.1:50051 or [::1]:50051{why}")
    return given


def _seconds(given: str) -> float:
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise ValueError("must be a number of seconds above 0")
    return seconds


def _flag(name: str, parse: Parse, help_: str, metavar: str = "", default: object = None) -> Flag:
    return Flag(name=name, parse=parse, help=help_, metavar=metavar, default=default)


FLAGS = (
    _flag("target", _target, "the server", "HOST:PORT", _DEFAULT_TARGET),
    _flag("timeout", _seconds, "how long all of it may take", "SECONDS", "5; no limit for headlines from standard input"),
    _flag("tls", yes_or_no, "encrypt, and trust the usual authorities", default=False),
    _flag("tls_ca", path, "encrypt, and trust the authorities in this PEM file", "FILE"),
    _flag(
        "tls_client_certificate",
        path,
        "encrypt, and show the certificate in this PEM file, for a server that asks for one",
        "FILE",
    ),
    _flag("tls_client_key", path, "the PEM file with its private key", "FILE"),
    _flag(
        "tls_server_name",
        text,
        "encrypt, and expect this name in the server's certificate",
        "NAME",
        "the target's host",
    ),
    _flag("token_file", path, "a file that holds the token which the server asks for", "FILE"),
    _flag("json", yes_or_no, "print JSON, for programs", default=False),
    _flag("verbose", yes_or_no, "if no answer comes, print gRPC's own words too", default=False),
)


@dataclass(frozen=True, kw_only=True)
class Connection:
    """How to reach a server, as the flags and variables say."""

    target: str
    timeout: float | None  # seconds; None: not given
    tls: bool | grpc.ChannelCredentials
    shows_certificate: bool
    tls_server_name: str | None
    token: str | None
    verbose: bool

    def client(self) -> Client:
        """A client for this server. Raises UsageError if it does not accept the target."""
        try:
            return Client(self.target, tls=self.tls, tls_server_name=self.tls_server_name, token=self.token)
        except ValueError as error:
            raise UsageError(f"{both_names('target')}: {error}") from None


def read(given: Given) -> Connection:
    """The connection that is asked for. Raises UsageError."""
    credentials = _tls(given)
    return Connection(
        target=given.get("target", _DEFAULT_TARGET),
        timeout=given.get("timeout"),
        tls=credentials or given.get("tls", False) or "tls_server_name" in given,
        shows_certificate="tls_client_certificate" in given,
        tls_server_name=given.get("tls_server_name"),
        token=_token(given.get("token_file")),
        verbose=given.get("verbose", False),
    )


def _tls(given: Given) -> grpc.ChannelCredentials | None:
    names = ("tls_ca", "tls_client_key", "tls_client_certificate")
    ca, key, certificate = (_read(name, given[name]) if name in given else None for name in names)
    if (key is None) != (certificate is None):
        missing = "tls_client_key" if key is None else "tls_client_certificate"
        raise UsageError(f"{both_names(missing)}: is missing; a certificate and its key go together")
    if ca is not None:
        _require_authorities(given["tls_ca"], ca)
    if certificate is not None:
        _require_pair(given["tls_client_certificate"], given["tls_client_key"])
    return grpc.ssl_channel_credentials(ca, key, certificate) if ca is not None or certificate is not None else None


# Tried here, where the file can be named: gRPC takes anything, and says at the first call that a handshake failed.


def _require_authorities(file: Path, content: bytes) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=content.decode("ascii", "ignore"))
    except (OSError, ValueError):
        raise UsageError(f"{both_names('tls_ca')}: {str(file)!r} holds no certificate in PEM") from None


def _require_pair(certificate: Path, key: Path) -> None:
    if not (certificate.is_file() and key.is_file()):
        return  # pipes, such as a shell's <(...), can be read but once
    try:
        # With an empty password: without one OpenSSL asks the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ValueError):
        raise UsageError(
            f"--tls-client-certificate, --tls-client-key: {str(certificate)!r} and {str(key)!r} must be a certificate "
            "and its own private key, in PEM and unencrypted"
        ) from None


def _token(file: Path | None) -> str | None:
    if file is None:
        return None
    token = _read("token_file", file).decode("latin-1").strip()
    if not re.fullmatch("[!-~]+", token):
        raise UsageError(
            f"{both_names('token_file')}: {str(file)!r} must hold one token, of printable ASCII characters without spaces"
        )
    return token


def _read(name: str, file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UsageError(f"{both_names(name)}: cannot read {str(file)!r}: {error.strerror}") from None
    except ValueError:  # a NUL character
        raise UsageError(f"{both_names(name)}: {str(file)!r} is not a file's name") from None
