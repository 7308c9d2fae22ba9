"""Settings: each a flag and a variable, and what is wrong is said by name."""

import argparse
import re
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from headlines.__main__ import main
from headlines.commands import flags, registry
from service.errors import UsageError
from service.settings import FLAGS, Settings

# For each setting a text and what it means; a new setting must come here.
OTHER_VALUES = {
    "models": ("elsewhere", Path("elsewhere")),
    "model_name": ("gazette", "gazette"),
    "version": ("7", 7),
    "poll_seconds": ("0.5", 0.5),
    "max_version_bytes": ("1048576", 1 << 20),
    "engine": ("litert", "litert"),
    "host": ("::1", "::1"),
    "port": ("0", 0),
    "http_host": ("0.0.0.0", "0.0.0.0"),
    "http_port": ("65535", 65535),
    "web": ("no", False),
    "web_host": ("::1", "::1"),
    "web_port": ("0", 0),
    "web_hosts": ("news.example, Desk.example:8443 [::1]", (("news.example", ""), ("desk.example", "8443"), ("::1", ""))),
    "web_open": ("yes", True),
    "tls_certificate": ("c", Path("c")),
    "tls_key": ("k", Path("k")),
    "tls_client_ca": ("a", Path("a")),
    "tokens": ("t", Path("t")),
    "max_headlines": ("128", 128),
    "max_text_bytes": ("100", 100),
    "max_message_bytes": ("1048576", 1 << 20),
    "message_memory_bytes": ("8388608", 8 << 20),
    "max_metadata_bytes": ("8192", 8192),
    "queue_headlines": ("2048", 2048),
    "max_streams": ("10", 10),
    "max_connections": ("1000", 1000),
    "handshake_seconds": ("2.5", 2.5),
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


WRONG = (flags.UsageError, UsageError)


def given(*arguments, **variables):
    parser = argparse.ArgumentParser()
    flags.add(parser, FLAGS)
    return flags.read(parser.parse_args(arguments), environment(**variables), FLAGS)


def parse(*arguments, **variables):
    return Settings(**given(*arguments, **variables))


def environment(**variables):
    return {f"HEADLINES_{name.upper()}": text for name, text in variables.items()}


def flag(name, text):
    if isinstance(getattr(Settings(models=Path()), name), bool):
        return f"--{'no-' if text == 'no' else ''}{name.replace('_', '-')}"
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


@pytest.mark.parametrize(
    ("name", "text", "right"),
    [
        ("port", "65536", "at most 65535"),
        ("port", "http", "a whole number"),
        ("port", "-1", "0 or greater"),
        ("port", "٣", "a whole number"),
        ("http_port", "1.5", "a whole number"),
        ("web_port", "-1", "0 or greater"),
        ("web_hosts", "http://news.example", "host names"),
        ("web_hosts", ",", "host names"),
        ("version", "0", "1 or greater"),
        ("max_headlines", "127", "128 or greater"),
        ("max_message_bytes", "1048575", "1048576 or greater"),
        ("max_message_bytes", "4294967296", "at most 2147483647"),
        ("max_streams", "0", "1 or greater"),
        ("message_memory_bytes", "8388607", "twice --max-message-bytes, 8388608"),
        ("queue_headlines", "2047", "twice --max-headlines, 2048"),
        ("poll_seconds", "0", "0.05 or greater"),
        ("max_connection_age", "0", "1 or greater"),
        ("grace_seconds", "nan", "a number of seconds"),
        ("grace_seconds", "inf", "a number of seconds"),
        ("drain_seconds", "soon", "a number of seconds"),
        ("engine", "torch", "one of auto, litert, tensorflow"),
        ("reflection", "maybe", "true or false"),
        ("log_level", "INFO", "one of debug, info"),
        ("host", " ", "not be empty"),
        ("host", "[]", "not be empty"),
        ("host", "0.0.0.0:50051", "without a port"),
        ("http_host", "[::1]:8080", "without a port"),
        ("http_host", "http://localhost", "a host name or an address"),
        ("log_format", "xml", "one of auto, text, json"),
    ],
)
def test_a_wrong_value_is_refused_with_what_would_be_right(name, text, right):
    with pytest.raises(WRONG) as error:
        parse("--models=m", **{name: text})
    assert f"HEADLINES_{name.upper()}" in str(error.value)
    assert f"--{name.replace('_', '-')}" in str(error.value)
    assert right in str(error.value)
    if name != "reflection":
        with pytest.raises(WRONG) as error:
            parse("--models=m", f"--{name.replace('_', '-')}={text}")
        assert f"--{name.replace('_', '-')}" in str(error.value)
        assert right in str(error.value)


def test_more_headlines_a_request_need_a_longer_queue():
    with pytest.raises(WRONG, match=r"--queue-headlines .* at least twice --max-headlines, 6000"):
        parse("--models=m", "--max-headlines=3000")
    assert parse("--models=m", "--max-headlines=3000", "--queue-headlines=6000").max_headlines == 3000


def test_a_certificate_and_its_key_go_together():
    with pytest.raises(WRONG, match=r"--tls-key \(HEADLINES_TLS_KEY\): is missing"):
        parse("--models=m", tls_certificate="c")
    with pytest.raises(WRONG, match=r"--tls-certificate \(HEADLINES_TLS_CERTIFICATE\): is missing"):
        parse("--models=m", "--tls-key=k", "--tls-client-ca=a")
    with pytest.raises(WRONG, match=r"--tls-client-ca .* needs --tls-certificate and --tls-key"):
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
    with pytest.raises(WRONG, match="HEADLINES_VERSION"):
        parse("--models=m", version="tcp://10.0.0.7:50051")


@pytest.mark.parametrize(("text", "means"), [("true", True), ("1", True), ("Yes", True), ("ON", True), (" on\n", True)])
@pytest.mark.parametrize("opposite", [False, True])
def test_a_switch_is_turned_by_the_usual_words(text, means, opposite):
    opposites = {"true": "false", "1": "0", "yes": "no", "on": "off"}
    text = opposites[text.strip().lower()] if opposite else text
    assert parse("--models=m", reflection=text).reflection is (means != opposite)


def test_space_around_a_value_does_not_matter():
    settings = parse("--engine= litert ", models=" m\n", port=" 1 ", poll_seconds="\t2.5", host=" ::1 ", log_level="debug\r\n")
    assert settings == Settings(models=Path("m"), engine="litert", port=1, poll_seconds=2.5, host="::1", log_level="debug")


def test_an_address_may_stand_in_brackets():
    assert parse("--models=m", "--host=[::1]", http_host="[::]").host == "::1"
    assert parse("--models=m", "--host=[::1]", http_host="[::]").http_host == "::"
    assert parse("--models=m", "--host=fe80::1%eth0").host == "fe80::1%eth0"


def test_of_a_flag_given_twice_the_last_counts_with_a_warning():
    found = given("--models=m", "--port=1", "--port=2", "--http-port=3", "--http-port=3")
    assert found["port"] == 2
    assert found.warnings == ["--port is given 2 times; the last one counts: '2'"]


def test_an_unknown_variable_is_warned_about_with_the_nearest_name_and_without_its_value():
    unknown = environment(prot="tcp-secret", model="secret", token_fil="secret", xyzzy="secret", portt="")
    assert registry.unknown_variables(unknown) == [
        "HEADLINES_MODEL is not a variable of this program; did you mean HEADLINES_MODELS?",
        "HEADLINES_PROT is not a variable of this program; did you mean HEADLINES_PORT?",
        "HEADLINES_TOKEN_FIL is not a variable of this program; did you mean HEADLINES_TOKEN_FILE?",
        "HEADLINES_XYZZY is not a variable of this program; `headlines COMMAND --help` lists them",
    ]


def test_links_and_variables_of_all_commands_are_not_warned_about():
    link = "tcp://10.0.0.7:50051"
    links = {
        "port": link,
        "service_host": "10.0.0.7",
        "service_port": "50051",
        "service_port_grpc": "50051",
        "port_50051_tcp": link,
        "port_50051_tcp_proto": "tcp",
        "port_50051_tcp_port": "50051",
        "port_50051_tcp_addr": "10.0.0.7",
        "web_service_host": "10.0.0.8",  # of a service called headlines-web
        "web_port": link,
        "web_port_80_tcp_addr": "10.0.0.8",
        "real_data": "headlines.csv.gz",
    }
    assert registry.unknown_variables(environment(**links)) == []
    assert registry.unknown_variables({"HEADLINE": "1", "PATH": "/bin"}) == []
    known = [flag.name for command in registry.installed().values() for flag in command.flags]
    assert {"data", "min_age", "assume_utc", "target", "timeout", "port"} <= set(known)
    assert registry.unknown_variables(environment(**dict.fromkeys(known, "1"))) == []


def test_a_wrong_setting_ends_the_command_with_exit_code_2(capsys, monkeypatch):
    monkeypatch.setenv("HEADLINES_MAX_HEADLINES", "many")
    assert main(["serve", "--models", "m"]) == 2
    assert capsys.readouterr().err == (
        "headlines serve: HEADLINES_MAX_HEADLINES (--max-headlines): must be a whole number, 128 or greater, not 'many'\n"
    )
    monkeypatch.delenv("HEADLINES_MAX_HEADLINES")
    assert main(["serve"]) == 2
    assert "--models (HEADLINES_MODELS): is missing" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["serve", "--modell=m"], ["serve", "--model=m"], ["serve", "more"]])
def test_an_unknown_argument_ends_the_command_with_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err


def test_an_unknown_command_is_named_beside_those_that_there_are(capsys):
    assert main(["sell"]) == 2
    assert capsys.readouterr().err.startswith("headlines sell: there is no command 'sell'; there are predict, model, outlets, ")


def test_help_tells_every_flag_variable_and_default(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--help"])
    assert ended.value.code == 0
    told = " ".join(capsys.readouterr().out.split())
    for field in fields(Settings):
        assert f"--{field.name.replace('_', '-')}" in told
        assert f"HEADLINES_{field.name.upper()})" in told


def test_the_version_is_printed_without_heavy_imports(capsys):
    before = set(sys.modules)
    assert main(["--version"]) == 0
    printed = capsys.readouterr().out
    assert re.fullmatch(r"headlines \S+, Python 3\.\d+\.\S+, grpcio 1\.\S+.*\n", printed)
    assert not {"grpc", "numpy", "tensorflow", "ai_edge_litert"} & (set(sys.modules) - before)
