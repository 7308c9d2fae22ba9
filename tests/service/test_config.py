"""Settings: each a flag and a variable, and what is wrong is said by name."""

import argparse
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from service.__main__ import main
from service.config import Settings, add_arguments, read
from service.errors import UsageError

# For each setting a text and what it means; a new setting must come here.
OTHER_VALUES = {
    "models": ("elsewhere", Path("elsewhere")),
    "model_name": ("gazette", "gazette"),
    "version": ("7", 7),
    "poll_seconds": ("0.5", 0.5),
    "engine": ("litert", "litert"),
    "host": ("::1", "::1"),
    "port": ("0", 0),
    "http_host": ("0.0.0.0", "0.0.0.0"),
    "http_port": ("65535", 65535),
    "tls_certificate": ("c", Path("c")),
    "tls_key": ("k", Path("k")),
    "tls_client_ca": ("a", Path("a")),
    "tokens": ("t", Path("t")),
    "max_headlines": ("128", 128),
    "max_text_bytes": ("100", 100),
    "max_message_bytes": ("1048576", 1 << 20),
    "max_metadata_bytes": ("8192", 8192),
    "queue_headlines": ("2048", 2048),
    "max_streams": ("10", 10),
    "max_connection_age": ("60", 60.0),
    "drain_seconds": ("0", 0.0),
    "grace_seconds": ("1e1", 10.0),
    "reflection": ("no", False),
    "log_level": ("debug", "debug"),
    "log_format": ("text", "text"),
}

# What cannot stand alone.
COMPANIONS = {
    "tls_certificate": ["--tls-key=k"],
    "tls_key": ["--tls-certificate=c"],
    "tls_client_ca": ["--tls-key=k", "--tls-certificate=c"],
}


def parse(*flags, **variables):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return read(parser.parse_args(flags), {f"HEADLINES_{name.upper()}": text for name, text in variables.items()})


def flag(name, text):
    if isinstance(getattr(Settings(models=Path()), name), bool):
        return f"--no-{name}" if text == "no" else f"--{name}"
    return f"--{name.replace('_', '-')}={text}"


def test_every_setting_is_a_flag_and_a_variable_and_the_flag_goes_first():
    assert set(OTHER_VALUES) == {field.name for field in fields(Settings)}
    for name, (text, value) in OTHER_VALUES.items():
        base = [*([] if name == "models" else ["--models=m"]), *COMPANIONS.get(name, [])]
        assert getattr(parse(*base, flag(name, text)), name) == value
        assert getattr(parse(*base, **{name: text}), name) == value
        assert getattr(parse(*base, flag(name, text), **{name: "not looked at"}), name) == value


def test_defaults_are_the_documented_ones():
    settings = parse("--models=m")
    assert settings == Settings(models=Path("m"))
    assert (settings.host, settings.port, settings.http_host, settings.http_port) == ("127.0.0.1", 50051, "127.0.0.1", 8080)
    assert (settings.max_headlines, settings.max_text_bytes, settings.max_message_bytes) == (1024, 4096, 4 << 20)
    assert (settings.queue_headlines, settings.drain_seconds, settings.grace_seconds) == (4096, 5.0, 20.0)
    assert (settings.tls_certificate, settings.tokens, settings.max_connection_age) == (None, None, 300.0)


def test_nobody_waits_for_a_load_balancer_on_a_terminal(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert parse("--models=m").drain_seconds == 0
    assert parse("--models=m", "--drain-seconds=3").drain_seconds == 3


@pytest.mark.parametrize(
    ("name", "text", "right"),
    [
        ("port", "65536", "at most 65535"),
        ("port", "http", "a whole number"),
        ("port", "-1", "0 or more"),
        ("port", "٣", "a whole number"),
        ("http_port", "1.5", "a whole number"),
        ("version", "0", "1 or more"),
        ("max_headlines", "127", "128 or more"),
        ("max_message_bytes", "1048575", "1048576 or more"),
        ("max_message_bytes", "4294967296", "at most 2147483647"),
        ("max_streams", "0", "1 or more"),
        ("queue_headlines", "2047", "twice --max-headlines, 2048"),
        ("poll_seconds", "0", "at least 0.05"),
        ("max_connection_age", "0", "at least 1"),
        ("grace_seconds", "nan", "a number of seconds"),
        ("grace_seconds", "inf", "a number of seconds"),
        ("drain_seconds", "soon", "a number of seconds"),
        ("engine", "torch", "one of auto, litert, tensorflow"),
        ("reflection", "maybe", "true or false"),
        ("log_level", "INFO", "one of debug, info"),
        ("host", " ", "not be empty"),
    ],
)
def test_a_wrong_value_is_refused_with_what_would_be_right(name, text, right):
    with pytest.raises(UsageError) as error:
        parse("--models=m", **{name: text})
    assert f"HEADLINES_{name.upper()}" in str(error.value)
    assert right in str(error.value)
    if name != "reflection":
        with pytest.raises(UsageError) as error:
            parse("--models=m", f"--{name.replace('_', '-')}={text}")
        assert f"--{name.replace('_', '-')}" in str(error.value)
        assert right in str(error.value)


def test_more_headlines_a_request_need_a_longer_queue():
    with pytest.raises(UsageError, match=r"--queue-headlines .* at least twice --max-headlines, 6000"):
        parse("--models=m", "--max-headlines=3000")
    assert parse("--models=m", "--max-headlines=3000", "--queue-headlines=6000").max_headlines == 3000


def test_a_certificate_and_its_key_go_together():
    with pytest.raises(UsageError, match=r"--tls-key \(HEADLINES_TLS_KEY\): is missing"):
        parse("--models=m", tls_certificate="c")
    with pytest.raises(UsageError, match=r"--tls-certificate \(HEADLINES_TLS_CERTIFICATE\): is missing"):
        parse("--models=m", "--tls-key=k", "--tls-client-ca=a")
    with pytest.raises(UsageError, match=r"--tls-client-ca .* needs --tls-certificate and --tls-key"):
        parse("--models=m", "--tls-client-ca=a")


@pytest.mark.parametrize("link", ["tcp://10.0.0.7:50051", "udp://10.0.0.7:50051", "sctp://10.0.0.7:50051"])
def test_what_kubernetes_sets_for_a_service_called_headlines_is_passed_over(link):
    settings = parse(
        "--models=m",
        port=link,
        http_port=link,
        service_host="10.0.0.7",
        service_port="50051",
        port_50051_tcp=link,
        port_50051_tcp_addr="10.0.0.7",
        version="",
    )
    assert settings == Settings(models=Path("m"))


def test_only_a_port_may_be_such_a_link():
    with pytest.raises(UsageError, match="HEADLINES_VERSION"):
        parse("--models=m", version="tcp://10.0.0.7:50051")


def test_a_wrong_setting_ends_the_command_with_exit_code_2(capsys, monkeypatch):
    monkeypatch.setenv("HEADLINES_MAX_HEADLINES", "many")
    assert main(["serve", "--models", "m"]) == 2
    assert capsys.readouterr().err == (
        "headlines serve: HEADLINES_MAX_HEADLINES (--max-headlines): must be a whole number, 128 or more, not 'many'\n"
    )
    monkeypatch.delenv("HEADLINES_MAX_HEADLINES")
    assert main(["serve"]) == 2
    assert "--models (HEADLINES_MODELS): is missing" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["serve", "--modell=m"], ["serve", "--model=m"], ["serve", "more"], ["sell"], []])
def test_an_unknown_argument_ends_the_command_with_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err


def test_help_tells_every_flag_variable_and_default(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--help"])
    assert ended.value.code == 0
    told = " ".join(capsys.readouterr().out.split())
    for field in fields(Settings):
        assert f"--{field.name.replace('_', '-')}" in told
        assert f"HEADLINES_{field.name.upper()})" in told
