"""What the commands that ask a server share: the flags of a connection, and the client that they make."""

from __future__ import annotations

import argparse
import math
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc

from headlines.client import Client
from service.errors import UsageError

Options = Mapping[str, tuple[str, str]]  # by name: what stands for the value in the help, and the help

OPTIONS: Options = {
    "target": ("HOST:PORT", "the server (default: 127.0.0.1:50051)"),
    "timeout": ("SECONDS", "how long all of it may take (default: 5; no limit for headlines from standard input)"),
    "tls_ca": ("FILE", "encrypt, and trust the authorities in this PEM file"),
    "tls_client_certificate": ("FILE", "encrypt, and show the certificate in this PEM file, for a server that asks for one"),
    "tls_client_key": ("FILE", "the PEM file with its private key"),
    "tls_server_name": ("NAME", "encrypt, and expect this name in the server's certificate (default: the target's host)"),
    "token_file": ("FILE", "a file that holds the token which the server asks for"),
}
SWITCHES = {
    "tls": "encrypt, and trust the usual authorities",
    "json": "print JSON, for programs",
    "verbose": "if no answer comes, print gRPC's own words too",
}

_TARGET = re.compile(r"(\[[0-9A-Fa-f:.%\w]+\]|[^\s:/\[\]]+):([0-9]{1,5})")
_SCHEMES = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "vsock:", "xds:")  # gRPC's own names of servers


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


def add_arguments(parser: argparse.ArgumentParser, options: Options = OPTIONS) -> None:
    """Add flags for `options` and for the switches."""
    for name, (metavar, text) in options.items():
        parser.add_argument(flag(name), metavar=metavar, help=f"{text} [{variable(name)}]")
    for name, text in SWITCHES.items():
        parser.add_argument(flag(name), action=argparse.BooleanOptionalAction, help=f"{text} [{variable(name)}]")


def read(arguments: argparse.Namespace, environment: Mapping[str, str]) -> Connection:
    """The connection that the flags and variables name. Raises UsageError."""
    values = {name: option(name, arguments, environment) for name in OPTIONS}
    credentials = _tls(values)
    return Connection(
        target=_target(values["target"]),
        timeout=_seconds(values["timeout"]),
        tls=credentials or switch("tls", arguments, environment) or values["tls_server_name"] is not None,
        shows_certificate=values["tls_client_certificate"] is not None,
        tls_server_name=values["tls_server_name"],
        token=_token(values["token_file"]),
        verbose=switch("verbose", arguments, environment),
    )


def option(name: str, arguments: argparse.Namespace, environment: Mapping[str, str]) -> str | None:
    """A flag's value, else its variable's; None if neither is given. An empty variable counts as not given."""
    given: str | None = getattr(arguments, name)
    return given if given is not None else environment.get(variable(name)) or None


def switch(name: str, arguments: argparse.Namespace, environment: Mapping[str, str]) -> bool:
    """Whether a switch is on, by its flag, else by its variable. Raises UsageError for a variable that is neither."""
    given: bool | None = getattr(arguments, name)
    if given is not None:
        return given
    text = environment.get(variable(name), "").strip().lower()
    if text not in {"", "true", "1", "yes", "on", "false", "0", "no", "off"}:
        raise UsageError(f"{both_names(name)}: must be true or false, not {text!r}")
    return text in {"true", "1", "yes", "on"}


def flag(name: str) -> str:
    """The option's flag."""
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    """The option's environment variable."""
    return "HEADLINES_" + name.upper()


def both_names(name: str) -> str:
    """The option's flag and variable, as messages begin with them."""
    return f"{flag(name)} ({variable(name)})"


def _target(text: str | None) -> str:
    if text is None:
        return "127.0.0.1:50051"
    if text.startswith(_SCHEMES):
        return text
    found = _TARGET.fullmatch(text)
    if not found or not 0 < int(found[2]) < 1 << 16:
        why = ", without http://" if "://" in text else ""
        raise UsageError(
            f"{both_names('target')}: must be HOST:PORT, such as 127.0.0.1:50051 or [::1]:50051{why}, not {text!r}"
        )
    return text


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise UsageError(f"{both_names('timeout')}: must be a number of seconds above 0, not {text!r}")
    return seconds


def _tls(values: Mapping[str, str | None]) -> grpc.ChannelCredentials | None:
    names = ("tls_ca", "tls_client_key", "tls_client_certificate")
    ca, key, certificate = (_read(name, path) if (path := values[name]) is not None else None for name in names)
    if (key is None) != (certificate is None):
        missing = "tls_client_key" if key is None else "tls_client_certificate"
        raise UsageError(f"{both_names(missing)}: is missing; a certificate and its key go together")
    if ca is not None:
        _require_authorities(values["tls_ca"], ca)
    if certificate is not None:
        _require_pair(str(values["tls_client_certificate"]), str(values["tls_client_key"]))
    return grpc.ssl_channel_credentials(ca, key, certificate) if ca is not None or certificate is not None else None


# Tried here, where the file can be named: gRPC takes anything, and says at the first call that a handshake failed.


def _require_authorities(path: str | None, content: bytes) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=content.decode("ascii", "ignore"))
    except (OSError, ValueError):
        raise UsageError(f"{both_names('tls_ca')}: {path!r} holds no certificate in PEM") from None


def _require_pair(certificate: str, key: str) -> None:
    if not (Path(certificate).is_file() and Path(key).is_file()):
        return  # pipes, such as a shell's <(...), can be read but once
    try:
        # With an empty password: without one OpenSSL asks the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ValueError):
        raise UsageError(
            f"--tls-client-certificate, --tls-client-key: {certificate!r} and {key!r} must be a certificate "
            "and its own private key, in PEM and unencrypted"
        ) from None


def _token(path: str | None) -> str | None:
    if path is None:
        return None
    token = _read("token_file", path).decode("latin-1").strip()
    if not re.fullmatch("[!-~]+", token):
        raise UsageError(
            f"{both_names('token_file')}: {path!r} must hold one token, of printable ASCII characters without spaces"
        )
    return token


def _read(name: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{both_names(name)}: cannot read {path!r}: {error.strerror}") from None
    except ValueError:  # a NUL character
        raise UsageError(f"{both_names(name)}: {path!r} is not a file's name") from None
