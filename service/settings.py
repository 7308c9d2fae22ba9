"""What `serve` can be told: one table of settings, each a flag and an environment variable.

A flag goes before its variable, a variable before the default; a variable that is empty counts as not set, and so do those that
Kubernetes sets for a service called `headlines` (HEADLINES_PORT=tcp://...). `warnings` finds what was probably meant otherwise.
"""

from __future__ import annotations

import argparse
import ipaddress
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from service.errors import UsageError

_PREFIX = "HEADLINES_"
_INT32 = (1 << 31) - 1  # what gRPC's own settings hold
_LINKS = ("tcp://", "udp://", "sctp://")  # how Kubernetes and Docker write another service's address
# Variables that they set for a service called `headlines` or `headlines-...`.
_LINK_NAMES = re.compile(r"(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?)", re.ASCII)
# Settings of other commands, those of training included, which the server cannot import; a test reads them from each --help.
# real_data is where tests and benchmarks find posts.
_OTHER_COMMANDS = frozenset(
    """
    aux_loss_weight averaging assume_utc all batch_size collected_at data embedding_decay embedding_dropout epochs fail_below
    json learning_rate max_bad_share merge min_age out outlet patience posted_at posts real_data seed state_dropout target
    tensorboard timeout tls tls_ca tls_client_certificate tls_client_key tls_server_name token_file
    verbose
    """.split()  # noqa: SIM905  (one a line would be long)
)

Parse = Callable[[str], Any]  # raises ValueError that says what would be right


def _option(parse: Parse, help_: str, *, default: Any = MISSING, metavar: str = "") -> Any:  # noqa: ANN401
    return field(default=default, metadata={"parse": parse, "help": help_, "metavar": metavar})


def _whole(least: int, most: int = sys.maxsize) -> Parse:
    def parse(text: str) -> int:
        value = int(text) if re.fullmatch("[0-9]{1,18}", text, re.ASCII) else -1
        if not least <= value <= most:
            raise ValueError(f"must be a whole number, {least} or more" + (f", at most {most}" if most < sys.maxsize else ""))
        return value

    return parse


def _seconds(least: float) -> Parse:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value < math.inf:
            raise ValueError(f"must be a number of seconds, at least {least:g}")
        return value

    return parse


def _one_of(*names: str) -> Parse:
    def parse(text: str) -> str:
        if text not in names:
            raise ValueError(f"must be one of {', '.join(names)}")
        return text

    return parse


def _yes_or_no(text: str) -> bool:
    yes, no = ("true", "1", "yes", "on"), ("false", "0", "no", "off")
    if text.lower() not in yes + no:
        raise ValueError("must be true or false (or 1, yes, on, 0, no, off)")
    return text.lower() in yes


def _text(text: str) -> str:
    if not text:
        raise ValueError("must not be empty")
    return text


def _host(text: str) -> str:
    """A name or an address, which may stand in brackets as it does in a URL."""
    host = _text(text[1:-1] if text[:1] + text[-1:] == "[]" else text)
    if re.search(r"[\s/\[\]]", host) or (":" in host and not _is_ipv6(host)):
        raise ValueError("must be a host name or an address, without a port")
    return host


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _path(text: str) -> Path:
    return Path(_text(text))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One server's settings. Raises UsageError where two of them contradict each other."""

    models: Path = _option(  # noqa: RUF009  (a Path is immutable)
        _path, "the directory of model versions, as `training fit` writes it; it may still be empty", metavar="DIR"
    )
    model_name: str = _option(
        _text, "the name that GetModel tells; for callers who talk to several servers", default="headline-popularity"
    )
    version: int | None = _option(
        _whole(1),
        "serve this version alone, instead of the highest that passes; to hold or roll back a release",
        default=None,
        metavar="N",
    )
    poll_seconds: float = _option(
        _seconds(0.05),
        "seconds between two looks for new versions, certificates and tokens; more spares a network volume",
        default=2.0,
    )
    # A version of the standard network has 32 MB. While one is loaded, its files and what the engine makes of them take memory
    # beside the live version.
    max_version_bytes: int = _option(
        _whole(1 << 20),
        "bytes of a version's files together; a larger one is refused before it is read, so that it cannot exhaust the memory",
        default=1 << 30,
    )
    engine: Literal["auto", "litert", "tensorflow"] = _option(
        _one_of("auto", "litert", "tensorflow"),
        "what computes: litert for CPUs, tensorflow for GPUs; auto takes tensorflow where there is a GPU and TensorFlow",
        default="auto",
    )
    host: str = _option(
        _host,
        "the address that gRPC listens at; :: opens it to the network, which wants --tls-certificate and --tokens",
        default="127.0.0.1",
    )
    port: int = _option(_whole(0, 65535), "gRPC's port; 0 takes a free one, which the log tells", default=50051)
    http_host: str = _option(
        _host,
        "the address that /metrics, /healthz and /readyz are at; :: and 0.0.0.0 are all of this machine's, of IPv4 and IPv6",
        default="127.0.0.1",
        metavar="HOST",
    )
    http_port: int = _option(
        _whole(0, 65535), "their port; 0 takes a free one, which the log tells", default=8080, metavar="PORT"
    )
    tls_certificate: Path | None = _option(  # noqa: RUF009
        _path,
        "a PEM file with gRPC's certificate and those between it and its authority; encrypts; may be renewed in place",
        default=None,
        metavar="FILE",
    )
    tls_key: Path | None = _option(  # noqa: RUF009
        _path, "a PEM file with its private key, unencrypted: RSA, or ECDSA on P-256 or P-384", default=None, metavar="FILE"
    )
    tls_client_ca: Path | None = _option(  # noqa: RUF009
        _path,
        "a PEM file with authorities; only callers with a certificate of theirs may then connect",
        default=None,
        metavar="FILE",
    )
    tokens: Path | None = _option(  # noqa: RUF009
        _path,
        "a file with a token a line, # begins a comment; every call but health must then bear one of them",
        default=None,
        metavar="FILE",
    )
    # Every server takes 128 headlines and 1 MiB, so that clients may split without asking.
    max_headlines: int = _option(
        _whole(128),
        "headlines in one request; fewer keep the answers of others quick, more spare bulk callers calls",
        default=1024,
    )
    max_text_bytes: int = _option(
        _whole(1), "bytes of UTF-8 in one headline; raise it to score texts longer than headlines", default=4096
    )
    max_message_bytes: int = _option(
        _whole(1 << 20, _INT32), "bytes of one request; raise it together with --max-headlines", default=4 << 20
    )
    message_memory_bytes: int = _option(
        _whole(2 << 20),
        "bytes of all requests together that are read and unanswered, at least twice --max-message-bytes; more lets more bulk "
        "callers send at once, less spares memory",
        default=64 << 20,
    )
    max_metadata_bytes: int = _option(
        _whole(1024, _INT32),
        "bytes of a call's metadata; raise it where a proxy or a tracer adds much",
        default=16 << 10,
    )
    queue_headlines: int = _option(
        _whole(1),
        "headlines that may wait, at least twice --max-headlines; more ride out bursts, fewer refuse earlier when overloaded",
        default=4096,
    )
    # gRPC counts a call until it is cleared away, some time after its answer, and refuses what is beyond the limit. On a busy
    # machine nearly every caller of a connection counts twice: of 96 callers' calls 2 to 21 % were refused with 112, 0.2 to 1 %
    # with 128, up to 0.05 % with 160, 0.01 % with 200, on a machine with six times the load that it can carry.
    # With that protection off (grpc.http.overload_protection) nobody is refused, and 60,000 rapid resets take 800 MB. The more
    # calls wait in gRPC's core, the longer: first come, first served, health included (benchmarks/overload.py, crowds.py).
    max_streams: int = _option(
        _whole(1, _INT32),
        "calls at once on one connection, answered ones included until gRPC has cleared them away: allow two for each caller "
        "that shares a connection; more are refused before they cost anything; lower it if many connections may overload it",
        default=256,
    )
    max_connections: int | None = _option(
        _whole(1, _INT32 - 1),
        "gRPC connections at once; more are closed as soon as they come. Each takes a descriptor and some 14 kB; by default it "
        "is 4096, or what the limit of open files (ulimit -Hn) leaves",
        default=None,
        metavar="N",
    )
    handshake_seconds: float = _option(
        _seconds(0.1),
        "seconds after which a connection that has not spoken ends: TLS and HTTP/2's settings to gRPC, a whole request to the "
        "HTTP port; raise it for slow networks",
        default=10.0,
    )
    max_connection_age: float = _option(
        _seconds(1),
        "seconds, give or take a tenth, after which a connection or a stream ends in order and its caller comes back, "
        "perhaps to a newer replica; less spreads callers sooner, more spares handshakes",
        default=300.0,
    )
    drain_seconds: float = _option(
        _seconds(0),
        "seconds of answering as before once told to stop, for load balancers to notice; on a terminal the default is 0",
        default=5.0,
    )
    grace_seconds: float = _option(
        _seconds(0),
        "seconds after that, or after --max-connection-age, for what is still being answered; raise it for slow callers",
        default=20.0,
    )
    reflection: bool = _option(
        _yes_or_no, "tell callers such as grpcurl which methods there are; turn it off to show strangers less", default=True
    )
    log_level: str = _option(
        _one_of("debug", "info", "warning", "error"), "the least that is worth a line in the log", default="info"
    )
    log_format: str = _option(
        _one_of("auto", "text", "json"),
        "text for people, json for programs: an object a line; auto is text on a terminal, else json",
        default="auto",
    )

    def __post_init__(self) -> None:
        if self.queue_headlines < 2 * self.max_headlines:
            raise UsageError(
                f"{_names('queue_headlines')}: must be at least twice --max-headlines, {2 * self.max_headlines}, "
                f"since streams get half of the queue; it is {self.queue_headlines}"
            )
        if self.message_memory_bytes < 2 * self.max_message_bytes:
            raise UsageError(
                f"{_names('message_memory_bytes')}: must be at least twice --max-message-bytes, {2 * self.max_message_bytes}, "
                f"since bulk gets half of it; it is {self.message_memory_bytes}"
            )
        if (self.tls_certificate is None) != (self.tls_key is None):
            missing = "tls_key" if self.tls_key is None else "tls_certificate"
            raise UsageError(f"{_names(missing)}: is missing; a certificate and its key go together")
        if self.tls_client_ca and not self.tls_certificate:
            raise UsageError(f"{_names('tls_client_ca')}: needs --tls-certificate and --tls-key beside it")


def add_arguments(parser: argparse.ArgumentParser, names: Iterable[str] | None = None) -> None:
    """Add a flag for each setting, or for those of these names."""
    for option in _options(names):
        flag = _flag(option.name)
        default = "required" if option.default is MISSING else f"default {_show(option.default)}"
        help_ = f"{option.metadata['help']} ({default}; {_variable(option.name)})".replace("%", "%%")
        if isinstance(option.default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=help_)
        else:
            metavar = option.metadata["metavar"] or _metavar(option.name)
            parser.add_argument(flag, action="append", metavar=metavar, help=help_)


def read(arguments: argparse.Namespace, environment: Mapping[str, str]) -> Settings:
    """The settings by these flags and variables; raises UsageError that names the one that is wrong."""
    found = values(arguments, environment)
    if "models" not in found:
        raise UsageError(f"{_names('models')}: is missing; name the directory of model versions")
    if sys.stderr and sys.stderr.isatty():
        found.setdefault("drain_seconds", 0.0)  # whoever presses Ctrl-C looks at it; no load balancer does
    return Settings(**found)


def values(arguments: argparse.Namespace, environment: Mapping[str, str], names: Iterable[str] | None = None) -> dict[str, Any]:
    """What flags and variables say of the settings, or of those of these names; without those that neither says.

    Raises UsageError that names the flag or variable that is wrong.
    """
    found: dict[str, Any] = {}
    for option in _options(names):
        given = getattr(arguments, option.name)
        if isinstance(given, bool):
            found[option.name] = given
            continue
        source, text = _flag(option.name), given[-1] if given else None
        if text is None:
            source, text = _variable(option.name), environment.get(_variable(option.name))
            if not text or _is_link(source, text):
                continue
        try:
            found[option.name] = option.metadata["parse"](text.strip())
        except ValueError as error:
            other = _flag(option.name) if source != _flag(option.name) else _variable(option.name)
            raise UsageError(f"{source} ({other}): {error}, not {text!r}") from None
    return found


def warnings(arguments: argparse.Namespace, environment: Mapping[str, str]) -> list[str]:
    """Sentences about flags given twice and variables that no command knows."""
    sentences = []
    for option in fields(Settings):
        given = getattr(arguments, option.name)
        if isinstance(given, list) and len(set(given)) > 1:
            sentences.append(f"{_flag(option.name)} is given {len(given)} times; the last one counts: {given[-1]!r}")
    known = {option.name for option in fields(Settings)} | _OTHER_COMMANDS
    for variable, text in sorted(environment.items()):
        name = variable.removeprefix(_PREFIX).lower()
        if not variable.startswith(_PREFIX) or not text or name in known or _is_link(variable, text):
            continue
        near = get_close_matches(name, known, 1)
        hint = f"did you mean {_variable(near[0])}?" if near else "`headlines serve --help` lists them"
        sentences.append(f"{variable} is not a variable of this program; {hint}")
    return sentences


def _options(names: Iterable[str] | None) -> list[Field[Any]]:
    return [option for option in fields(Settings) if names is None or option.name in names]


def _is_link(variable: str, text: str) -> bool:
    """Whether Kubernetes or Docker set the variable for a service, and not a person."""
    if variable.endswith("PORT") and text.startswith(_LINKS):
        return True
    return variable.startswith(_PREFIX) and bool(_LINK_NAMES.fullmatch(variable.removeprefix(_PREFIX)))


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _variable(name: str) -> str:
    return _PREFIX + name.upper()


def _names(name: str) -> str:
    return f"{_flag(name)} ({_variable(name)})"


def _metavar(name: str) -> str:
    return name.rsplit("_", 1)[-1].upper()


def _show(default: Any) -> str:  # noqa: ANN401
    if default is None:
        return "none"
    return f"{default:g}" if isinstance(default, float) else str(default)
