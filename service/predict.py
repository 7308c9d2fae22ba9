"""The command `predict`: asks a running server, and prints a table for people or JSON Lines for programs."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from datetime import datetime
from io import TextIOWrapper
from itertools import tee
from pathlib import Path

import grpc

from headlines.client import Client, ClientError, Headline, InvalidRequest, Prediction
from service.errors import UsageError

_OPTIONS = {
    "posted_at": ("ISO", "when they are posted, with the zone, such as 2026-03-01T18:30Z (default: now)"),
    "outlet": ("NAME", "the account that posts them, as the training data named it (default: none)"),
    "target": ("HOST:PORT", "the server (default: 127.0.0.1:50051)"),
    "timeout": ("SECONDS", "how long all of it may take (default: 5; for standard input no limit)"),
    "tls_ca": ("FILE", "encrypt, and trust the authorities in this PEM file"),
    "tls_client_certificate": ("FILE", "encrypt, and show the certificate in this PEM file, for a server that asks for one"),
    "tls_client_key": ("FILE", "the PEM file with its private key"),
    "tls_server_name": ("NAME", "the name in the server's certificate (default: the target's host)"),
    "token_file": ("FILE", "a file that holds the token which the server asks for"),
}
_SWITCHES = {
    "tls": "encrypt, and trust the usual authorities",
    "json": "print one JSON object a line",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument(
        "headlines", nargs="+", metavar="HEADLINE", help="a headline; - for those on standard input, one a line"
    )
    for name, (metavar, text) in _OPTIONS.items():
        parser.add_argument(_flag(name), metavar=metavar, help=f"{text} [{_variable(name)}]")
    for name, text in _SWITCHES.items():
        parser.add_argument(_flag(name), action=argparse.BooleanOptionalAction, help=f"{text} [{_variable(name)}]")


def run(arguments: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> int:
    """Print the predictions; 0, or 1 where one could not be had. Raises UsageError for a wrong flag or variable."""
    values = {name: getattr(arguments, name) or environment.get(_variable(name)) for name in _OPTIONS}
    tls = _tls(values) or _switch("tls", arguments, environment)
    token = _token(values["token_file"]) if values["token_file"] else None
    posted_at = _moment(values["posted_at"]) if values["posted_at"] else None
    timeout = _seconds(values["timeout"]) if values["timeout"] else None if "-" in arguments.headlines else 5.0
    target = values["target"] or "127.0.0.1:50051"
    show = _JSONLines() if _switch("json", arguments, environment) else _Table()

    headlines = (Headline(text, posted_at, values["outlet"] or "") for text in _texts(arguments.headlines))
    asked, shown = tee(headlines)
    failed = False
    try:
        with Client(target, tls=tls, tls_server_name=values["tls_server_name"], token=token) as client:
            for headline, answer in zip(shown, client.predict_stream(asked, timeout=timeout), strict=True):
                if isinstance(answer, Prediction):
                    show.prediction(headline, answer)
                else:
                    failed = True
                    show.error(headline, answer)
            show.end(client)
    except ClientError as error:
        failed = True
        print(f"headlines: {target} gives no answer: {error}", file=sys.stderr)
    except BrokenPipeError:  # as when `head` has read enough
        failed = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return int(failed)


def _texts(arguments: list[str]) -> Iterator[str]:
    for argument in arguments:
        if argument == "-":
            # Bytes that are no UTF-8 become half surrogate pairs, which the client refuses by the headline's number.
            for line in TextIOWrapper(sys.stdin.buffer, "utf-8-sig", errors="surrogateescape"):
                if text := line.strip():
                    yield text
        else:
            yield argument


class _JSONLines:
    """One object a headline, malformed ones too, so that a program can put the lines beside its own."""

    def prediction(self, headline: Headline, prediction: Prediction) -> None:
        self._print(headline, {**prediction._asdict(), "best": prediction.best})

    def error(self, headline: Headline, error: InvalidRequest) -> None:
        self._print(headline, {"error": str(error)})

    def end(self, client: Client) -> None:
        pass

    def _print(self, headline: Headline, answer: dict[str, object]) -> None:
        posted_at = headline.posted_at.isoformat() if headline.posted_at else None
        print(json.dumps({"headline": headline.text, "posted_at": posted_at, "outlet": headline.outlet, **answer}))


class _Table:
    """One line a headline, printed as it comes."""

    def __init__(self) -> None:
        self._unknown_outlet: str | None = None  # the outlet, "" for none
        self._begun = False

    def prediction(self, headline: Headline, prediction: Prediction) -> None:
        if not self._begun:
            print("   main     aux  words  unknown  headline")
            self._begun = True
        if not prediction.outlet_known:
            self._unknown_outlet = headline.outlet
        text = "".join(character if character.isprintable() else "\ufffd" for character in headline.text)
        print(
            f"{prediction.main_output:7.1%} {prediction.aux_output:7.1%} {prediction.word_count:6} "
            f"{prediction.unknown_word_count:8}  {text}"
        )

    def error(self, headline: Headline, error: InvalidRequest) -> None:  # noqa: ARG002
        print(f"headlines: {error}", file=sys.stderr)

    def end(self, client: Client) -> None:
        if not self._begun:
            return
        print()
        print("main: the chance to become popular, by words, time and outlet; aux: by the words alone.")
        if self._unknown_outlet:
            print(f"The model does not know the outlet {self._unknown_outlet!r}: use aux. GetModel lists those that it knows.")
        elif self._unknown_outlet == "":
            print("No outlet was named (--outlet): use aux.")
        model = client.model()
        print(f"Model version {model.version}" + (", which learned from made-up data." if model.synthetic else "."))


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.utcoffset() is None:
        raise UsageError(f"{_names('posted_at')}: must be a time with its zone, such as 2026-03-01T18:30Z, not {text!r}")
    return moment


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise UsageError(f"{_names('timeout')}: must be a number of seconds above 0, not {text!r}")
    return seconds


def _read(name: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{_names(name)}: cannot read {path!r}: {error.strerror}") from None


def _tls(values: Mapping[str, str | None]) -> grpc.ChannelCredentials | None:
    names = ("tls_ca", "tls_client_key", "tls_client_certificate")
    ca, key, certificate = (_read(name, path) if (path := values[name]) else None for name in names)
    if (key is None) != (certificate is None):
        missing = "tls_client_key" if key is None else "tls_client_certificate"
        raise UsageError(f"{_names(missing)}: is missing; a certificate and its key go together")
    return grpc.ssl_channel_credentials(ca, key, certificate) if ca or certificate else None


def _token(path: str) -> str:
    token = _read("token_file", path).decode("latin-1").strip()
    if not token or not token.isascii() or not token.isprintable():
        raise UsageError(f"{_names('token_file')}: {path!r} must hold one token, of printable ASCII characters")
    return token


def _switch(name: str, arguments: argparse.Namespace, environment: Mapping[str, str]) -> bool:
    given: bool | None = getattr(arguments, name)
    text = environment.get(_variable(name), "").lower()
    if given is None and text not in {"", "true", "1", "yes", "false", "0", "no"}:
        raise UsageError(f"{_names(name)}: must be true or false, not {text!r}")
    return text in {"true", "1", "yes"} if given is None else given


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _variable(name: str) -> str:
    return "HEADLINES_" + name.upper()


def _names(name: str) -> str:
    return f"{_flag(name)} ({_variable(name)})"
