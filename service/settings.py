"""What `serve` can be told: one table of settings, each a flag and an environment variable (headlines.commands.flags)."""

from __future__ import annotations

import re
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from headlines.commands.flags import Flag, Parse, both_names, one_of, path, seconds, text, whole, yes_or_no
from service.errors import UsageError
from service.hosts import Authority, is_address, is_loopback, parse_authority

_INT32 = (1 << 31) - 1  # what gRPC's own settings hold


def _option(parse: Parse, help_: str, *, default: Any = MISSING, metavar: str = "") -> Any:  # noqa: ANN401
    return field(default=default, metadata={"parse": parse, "help": help_, "metavar": metavar})


def _host(given: str) -> str:
    """A name or an address, which may stand in brackets as it does in a URL."""
    host = text(given[1:-1] if given[:1] + given[-1:] == "[]" else given)
    if re.search(r"[\s/\[\]]", host) or (":" in host and not is_address(host)):
        raise ValueError("must be a host name or an address, without a port")
    return host


def _hosts(given: str) -> tuple[Authority, ...]:
    """Some hosts, each with a port or without, between them commas or spaces."""
    hosts = [parse_authority(it) for it in given.replace(",", " ").split()]
    if not hosts or None in hosts:
        raise ValueError("must be host names, each with a port or without, and commas between them")
    return tuple(filter(None, hosts))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One server's settings. Raises UsageError if two of them contradict each other."""

    models: Path = _option(  # noqa: RUF009  (a Path is immutable)
        path, "the directory of model versions, as `headlines fit` writes it; it may still be empty", metavar="DIR"
    )
    model_name: str = _option(
        text, "the name that GetModel tells; for callers who talk to several servers", default="headline-popularity"
    )
    version: int | None = _option(
        whole(1),
        "serve this version alone, instead of the highest that passes; to hold or roll back a release",
        default=None,
        metavar="N",
    )
    poll_seconds: float = _option(
        seconds(0.05),
        "seconds between two looks for new versions, certificates and tokens; more spares a network volume",
        default=2.0,
    )
    # A version of the standard network has 32 MB. While one is loaded, its files and what the engine makes of them take memory
    # beside the live version.
    max_version_bytes: int = _option(
        whole(1 << 20),
        "bytes of a version's files together; a larger one is refused before it is read, so that it cannot exhaust the memory",
        default=1 << 30,
    )
    engine: Literal["auto", "litert", "tensorflow"] = _option(
        one_of("auto", "litert", "tensorflow"),
        "what computes: litert for CPUs, tensorflow for GPUs; auto takes tensorflow if there are a GPU and TensorFlow",
        default="auto",
    )
    host: str = _option(
        _host,
        "the address that gRPC listens at; :: opens it to the network, which wants --tls-certificate and --tokens",
        default="127.0.0.1",
    )
    port: int = _option(whole(0, 65535), "gRPC's port; 0 takes a free one, which the log tells", default=50051)
    http_host: str = _option(
        _host,
        "the address that /metrics, /healthz and /readyz are at; :: and 0.0.0.0 are all of this machine's, of IPv4 and IPv6",
        default="127.0.0.1",
        metavar="HOST",
    )
    http_port: int = _option(
        whole(0, 65535), "their port; 0 takes a free one, which the log tells", default=8080, metavar="PORT"
    )
    web: bool = _option(yes_or_no, "serve the page for people, and predictions as JSON", default=True)
    web_host: str = _option(
        _host,
        "the address that the page is at; :: opens it to the network, which wants --tokens or --web-open; with gRPC's TLS",
        default="127.0.0.1",
        metavar="HOST",
    )
    # Who names a port wants it; the default is not worth a server that does not start.
    web_port: int | None = _option(
        whole(0, 65535),
        "its port; 0 takes a free one, which the log tells; by default 8000 if that is free",
        default=None,
        metavar="PORT",
    )
    web_hosts: tuple[Authority, ...] = _option(
        _hosts,
        "the names, with commas between them, that browsers reach the page by beside localhost and addresses, such as that of "
        "a proxy before it; other names are refused, since any site's name may be made to lead here",
        default=(),
        metavar="NAMES",
    )
    web_open: bool = _option(
        yes_or_no, "let the network use the page without a token, where --web-host opens it", default=False
    )
    tls_certificate: Path | None = _option(  # noqa: RUF009
        path,
        "a PEM file with gRPC's certificate and those between it and its authority; encrypts; may be renewed in place",
        default=None,
        metavar="FILE",
    )
    tls_key: Path | None = _option(  # noqa: RUF009
        path, "a PEM file with its private key, unencrypted: RSA, or ECDSA on P-256 or P-384", default=None, metavar="FILE"
    )
    tls_client_ca: Path | None = _option(  # noqa: RUF009
        path,
        "a PEM file with authorities; only callers with a certificate of theirs may then connect",
        default=None,
        metavar="FILE",
    )
    tokens: Path | None = _option(  # noqa: RUF009
        path,
        "a file with a token a line, # begins a comment; every call but health must then bear one of them",
        default=None,
        metavar="FILE",
    )
    # Every server takes 128 headlines and 1 MiB, so that clients may split without asking.
    max_headlines: int = _option(
        whole(128),
        "headlines in one request; fewer keep the answers of others quick, more spare bulk callers calls",
        default=1024,
    )
    max_text_bytes: int = _option(
        whole(1), "bytes of UTF-8 in one headline; raise it to score texts longer than headlines", default=4096
    )
    max_message_bytes: int = _option(
        whole(1 << 20, _INT32), "bytes of one request; raise it together with --max-headlines", default=4 << 20
    )
    message_memory_bytes: int = _option(
        whole(2 << 20),
        "bytes of all requests together that are read and unanswered, at least twice --max-message-bytes; more lets more bulk "
        "callers send at once, less spares memory",
        default=64 << 20,
    )
    max_metadata_bytes: int = _option(
        whole(1024, _INT32),
        "bytes of a call's metadata; raise it if a proxy or a tracer adds much",
        default=16 << 10,
    )
    queue_headlines: int = _option(
        whole(1),
        "headlines that may wait, at least twice --max-headlines; more ride out bursts, fewer refuse earlier when overloaded",
        default=4096,
    )
    # gRPC counts a call until it is cleared away, some time after its answer, and refuses what is beyond the limit. On a busy
    # machine nearly every caller of a connection counts twice: of 96 callers' calls 2 to 21 % were refused with 112, 0.2 to 1 %
    # with 128, up to 0.05 % with 160, 0.01 % with 200, on a machine with six times the load that it can carry.
    # With that protection off (grpc.http.overload_protection) nobody is refused, and 60,000 rapid resets take 800 MB. The more
    # calls wait in gRPC's core, the longer: first come, first served, health included (overload.py and crowds.py in
    # tests/resilience).
    max_streams: int = _option(
        whole(1, _INT32),
        "calls at once on one connection, answered ones included until gRPC has cleared them away: allow two for each caller "
        "that shares a connection; more are refused before they cost anything; lower it if many connections may overload it",
        default=256,
    )
    max_connections: int | None = _option(
        whole(1, _INT32 - 1),
        "gRPC connections at once; more are closed as soon as they come. Each takes a descriptor and some 14 kB; by default it "
        "is 4096, or what the limit of open files (ulimit -Hn) leaves",
        default=None,
        metavar="N",
    )
    handshake_seconds: float = _option(
        seconds(0.1),
        "seconds after which a connection that has not spoken ends: TLS and HTTP/2's settings to gRPC, a whole request to the "
        "HTTP port; raise it for slow networks",
        default=10.0,
    )
    max_connection_age: float = _option(
        seconds(1),
        "seconds, give or take a tenth, after which a connection or a stream ends in order and its caller comes back, "
        "perhaps to a newer replica; less spreads callers sooner, more spares handshakes",
        default=300.0,
    )
    drain_seconds: float = _option(
        seconds(0),
        "seconds of answering as before once told to stop, for load balancers to notice; on a terminal the default is 0",
        default=5.0,
    )
    grace_seconds: float = _option(
        seconds(0),
        "seconds after that, or after --max-connection-age, for what is still being answered; raise it for slow callers",
        default=20.0,
    )
    reflection: bool = _option(
        yes_or_no, "tell callers such as grpcurl which methods there are; turn it off to show strangers less", default=True
    )
    log_level: str = _option(
        one_of("debug", "info", "warning", "error"), "the least that is worth a line in the log", default="info"
    )
    log_format: str = _option(
        one_of("auto", "text", "json"),
        "text for people, json for programs: an object a line; auto is text on a terminal, else json",
        default="auto",
    )

    def __post_init__(self) -> None:
        if self.queue_headlines < 2 * self.max_headlines:
            raise UsageError(
                f"{both_names('queue_headlines')}: must be at least twice --max-headlines, {2 * self.max_headlines}, "
                f"since streams get half of the queue; it is {self.queue_headlines}"
            )
        if self.message_memory_bytes < 2 * self.max_message_bytes:
            raise UsageError(
                f"{both_names('message_memory_bytes')}: must be at least twice --max-message-bytes, "
                f"{2 * self.max_message_bytes}, since bulk gets half of it; it is {self.message_memory_bytes}"
            )
        if self.web and self.web_port is not None and not self.may_serve_web:
            raise UsageError(
                f"{both_names('web_host')}: {self.web_host} opens the page to the network; that wants --tokens, or --web-open "
                "if anybody there may use it"
            )
        if (self.tls_certificate is None) != (self.tls_key is None):
            missing = "tls_key" if self.tls_key is None else "tls_certificate"
            raise UsageError(f"{both_names(missing)}: is missing; a certificate and its key go together")
        if self.tls_client_ca and not self.tls_certificate:
            raise UsageError(f"{both_names('tls_client_ca')}: needs --tls-certificate and --tls-key beside it")

    @property
    def may_serve_web(self) -> bool:
        """Whether the page is for this machine alone, or opened to the network on purpose."""
        return is_loopback(self.web_host) or self.tokens is not None or self.web_open


FLAGS = tuple(
    Flag(
        name=option.name,
        parse=option.metadata["parse"],
        help=option.metadata["help"],
        default=None if option.default in (MISSING, ()) else option.default,
        metavar=option.metadata["metavar"],
        required=option.default is MISSING,
    )
    for option in fields(Settings)
)
