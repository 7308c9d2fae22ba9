"""Why no answer came, in a sentence for whoever typed the command: what is at hand, and what to do about it.

gRPC and its TLS say it in words of their own. One table turns these words into sentences; a row is chosen by the words that
it looks for, the first that fits. Whatever has no row is shown as it was said.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from headlines import client
from headlines.commands import CommandError, console
from headlines.commands.connection import Connection
from headlines.v1.popularity_pb2 import GetModelResponse, ModelVersion

_LONGEST = 300  # characters of what a server says

# What gRPC and the client say, and what it means. {target} is the server as the user named it, {said} what the pattern caught.
_TABLE = (
    (
        r"HTTP proxy returned response code (\d+)",
        "a proxy refuses to connect to {target} (HTTP {said}){proxy}",
    ),
    (
        r"DNS resolution failed|name resolution|Name or service not known",
        "the host name in {target} cannot be resolved; is it spelled right (--target), and is the network up?{proxy}",
    ),
    (
        r"Connection refused|No such file or directory",
        "no server listens at {target}; is it running, and is this its gRPC port (--target HOST:PORT)?{proxy}",
    ),
    (
        r"((?:Network is|No route to|Host is|Connection timed out|Operation not|Permission denied|Timeout occurred)[\w ]*)",
        "{target} cannot be reached ({said}); is the address right (--target), does a firewall stand between?{proxy}",
    ),
    (
        r"WRONG_VERSION_NUMBER|HTTP_REQUEST|UNKNOWN_PROTOCOL|PACKET_LENGTH_TOO_LONG|UNEXPECTED_RECORD",
        "{target} does not speak TLS; leave out --tls and the other --tls flags, and unset HEADLINES_TLS and the like",
    ),
    (
        r"certificate has expired",
        "the certificate of {target} has expired; the server needs a new one (or is this machine's clock wrong?)",
    ),
    (
        r"certificate is not yet valid",
        "the certificate of {target} is not valid yet; is this machine's clock wrong?",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED",
        "the certificate of {target} is from an authority that is not trusted here; give its own with --tls-ca FILE",
    ),
    (
        r"Hostname Verification|peer name",
        "the certificate of {target} is for another name; give a name that stands in it with --tls-server-name NAME",
    ),
    (
        r"ALPN",
        "{target} speaks TLS but not HTTP/2, so no gRPC server answers there; is it another server's port (--target)?",
    ),
    (
        r"ALERT_CERTIFICATE_REQUIRED|ALERT_BAD_CERTIFICATE|ALERT_UNKNOWN_CA|ALERT_CERTIFICATE|ALERT_HANDSHAKE_FAILURE",
        "{target} does not accept this client's certificate{certificate}",
    ),
    (
        r"Failed parsing HTTP/2|http2 frame|SETTINGS frame|http1\.x server",
        "{target} does not speak gRPC; is it the port for metrics and health (8080)? gRPC's is another (50051)",
    ),
    (
        r"status: (\d+)|HTTP status(?: code)? (\d+)",
        "a web server or proxy answers at {target} (HTTP {said}), no headline popularity service; is --target right?",
    ),
    (
        r"UNIMPLEMENTED",
        "a gRPC server answers at {target}, but not a headline popularity service; is --target right?",
    ),
    (
        r"Unauthenticated",
        "{target} {token}",
    ),
    (
        r"Socket closed|Connection reset|Broken pipe|End of TCP|FD Shutdown|handshake",
        "{target} closes the connection{closed}",
    ),
    (
        r"no model|no version",
        "{target} has no model to answer with; `headlines model` shows why",
    ),
    (
        r"the server is stopping",
        "the server at {target} is stopping; ask again when it, or another, has started",
    ),
    (
        r"larger than max",
        "{target} answers with a message that is too large for this client; is it the service of another version?",
    ),
    (
        r"RESOURCE_EXHAUSTED|Overloaded",
        "{target} has more to do than it can; ask again later, or let it take longer with --timeout SECONDS",
    ),
    (
        r"(internal error \w+)",
        "the server at {target} failed ({said}); its log says more under this id",
    ),
    (
        r"DeadlineExceeded",
        "{target} did not answer in time; is the address right (--target)? --timeout SECONDS waits longer{proxy}",
    ),
)


@contextmanager
def explained(connection: Connection) -> Iterator[None]:
    """Turn the client's errors into CommandErrors that say what to do."""
    try:
        yield
    except client.ClientError as error:
        if connection.verbose:
            console.note(f"gRPC says: {console.printable(_words(error))}")
        raise CommandError(explain(error, connection)) from error


def explain(error: client.ClientError, connection: Connection) -> str:
    """What is at hand, and what to do, in a sentence."""
    words = _words(error)
    sentence, said = "{target} gives no answer: {said}", console.printable(str(error))[:_LONGEST]
    for pattern, row in _TABLE:
        if found := re.search(pattern, words):
            sentence, said = row, next(filter(None, found.groups()), "")
            break
    return sentence.format(
        target=connection.target,
        said=said,
        proxy=_proxy(connection),
        token=_token(connection),
        closed=_closed(connection),
        certificate=_certificate(connection),
    )


def no_model(model: GetModelResponse, connection: Connection) -> str:
    """Why a server that answers has no model to answer with."""
    failed = next((it for it in model.versions if it.state == ModelVersion.STATE_FAILED), None)
    if failed:
        why = f"version {failed.version} cannot be served: {console.printable(failed.error)[:_LONGEST]}"
    elif model.versions:
        why = "one is being loaded; ask again in a moment"
    else:
        why = "it found no version; is its --models right?"
    return f"{connection.target} has no model to answer with: {why}"


def _words(error: BaseException) -> str:
    """What gRPC said: of this error and of those behind it, for the time may be up since nobody listens."""
    words = []
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, grpc.RpcError):
            words.append(f"{cause.code().name} {cause.details()}")
        else:
            words.append(f"{type(cause).__name__} {cause}")
        cause = cause.__cause__
    return " | ".join(dict.fromkeys(words))


def _proxy(connection: Connection) -> str:
    if re.match(r"127\.|localhost:|\[::1\]|unix", connection.target):
        return ""
    for name in ("grpc_proxy", "https_proxy", "http_proxy"):  # in gRPC's order; it knows no capital letters
        if os.environ.get(name):
            return f" (The variable {name} names a proxy; the host of a server that is not behind it belongs into no_proxy.)"
    return ""


def _token(connection: Connection) -> str:
    if connection.token:
        return "does not accept the token in the file that --token-file (HEADLINES_TOKEN_FILE) names"
    return "wants a token; name a file that holds one with --token-file FILE (HEADLINES_TOKEN_FILE)"


def _closed(connection: Connection) -> str:
    if not connection.tls:
        return "; if the server wants TLS, add --tls, or --tls-ca FILE for an authority of your own"
    return _certificate(connection)


def _certificate(connection: Connection) -> str:
    if connection.shows_certificate:
        return "; is the one that --tls-client-certificate names expired, or from an authority that the server does not trust?"
    return "; if it asks for a client's certificate, add --tls-client-certificate FILE and --tls-client-key FILE"
