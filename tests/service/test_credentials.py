"""Certificates and tokens on disk: what is refused, and what happens when they change."""

import asyncio
import logging
import os
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption

from harness.certificates import NAME, Authority
from service import credentials, x509
from service.credentials import Certificate, Tokens, watch
from service.errors import UsageError

SECRET = "Xyzzy-secret"


@pytest.fixture(scope="module")
def authority():
    return Authority()


@pytest.fixture
def write(tmp_path):
    def write(name, contents):
        path = tmp_path / name
        path.write_bytes(contents)
        return path

    return write


def bearing(token):
    return (("user-agent", "x"), ("authorization", f"Bearer {token}"))


def told(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


def test_any_of_the_tokens_is_admitted_and_nothing_else(write):
    tokens = Tokens(write("tokens", b"\xef\xbb\xbf# of the night shift\nfirst\r\n\n  second\t# \xc3\xa9  \nth#ird"))
    assert all(tokens.admit(bearing(token)) for token in ("first", "second", "th#ird", " first "))
    for token in ("", "firs", "firstx", "First", "#", "# of the night shift", "of", "first second", "\u00e9", "first\0"):
        assert not tokens.admit(bearing(token))
    assert tokens.admit([("authorization", "bearer first")])
    for value in ("first", "Basic first", "Bearer", "", "Bearerfirst", b"Bearer first"):
        assert not tokens.admit([("authorization", value)])
    assert not tokens.admit([("authorization", "Bearer wrong"), ("authorization", "Bearer first")])
    assert not tokens.admit([("x-authorization", "Bearer first")])
    assert not tokens.admit(())
    assert not tokens.admit(None)


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (b"", "holds no token"),
        (b"\n  \n# first\n", "holds no token"),
        (f"fine\n{SECRET} {SECRET}\n".encode(), "line 2 of"),
        (f"{SECRET}\u00e9".encode(), "line 1 of"),
        (f"{SECRET}\0".encode(), "line 1 of"),
        (f"{SECRET}\n".encode("utf-16"), "line 1 of"),
    ],
)
def test_a_file_without_a_token_is_refused_by_its_line(write, contents, words):
    with pytest.raises(UsageError, match=r"^--tokens: ") as error:
        Tokens(write("tokens", contents))
    assert words in str(error.value)
    assert SECRET not in str(error.value)


def test_tokens_that_cannot_be_read_later_leave_the_old_ones_and_are_told_once(write, caplog):
    path = write("tokens", b"old")
    tokens = Tokens(path)
    for spoil in (lambda: write("tokens", b""), path.unlink, lambda: write("tokens", f"new {SECRET}".encode())):
        caplog.clear()
        spoil()
        for _ in range(3):
            tokens.refresh()
        assert len(told(caplog)) == 1
        assert told(caplog)[0].endswith("; what was read before stays in use")
        assert SECRET not in caplog.text
        assert tokens.admit(bearing("old"))
    write("tokens", b"new\nnewer")
    tokens.refresh()
    assert [tokens.admit(bearing(token)) for token in ("old", "new", "newer")] == [False, True, True]
    path.unlink()
    tokens.refresh()
    assert len(told(caplog)) == 2


def test_a_certificate_and_a_key_that_cannot_be_used_are_named(write, authority, tmp_path):
    pair, other = authority.issue(), authority.issue()
    locked = authority.issue(encryption=BestAvailableEncryption(b"password"))
    for certificate, key, reason in (
        (pair.certificate, other.key, r" \(KEY_VALUES_MISMATCH\)"),
        (pair.certificate[:-40], pair.key, ""),
        (pair.certificate, pair.key[:-40], ""),
        (pair.key, pair.certificate, ""),
        (b"", b"", ""),
        (*locked, ""),
    ):
        with pytest.raises(
            UsageError, match=r"^--tls-certificate, --tls-key: '.*/c' and '.*/k' are no .* unencrypted" + reason
        ):
            Certificate(write("c", certificate), write("k", key))
    for client_ca in (b"", b"\xff", pair.key, authority.certificate[:-40]):
        with pytest.raises(UsageError, match=r"^--tls-client-ca: '.*/a' holds no certificates"):
            Certificate(write("c", pair.certificate), write("k", pair.key), write("a", client_ca))
    Certificate(write("c", pair.certificate), write("k", pair.key), write("a", b"# \xc3\xa9\n" + authority.certificate))
    with pytest.raises(UsageError, match=r"^--tls-key: cannot read '.*/none': No such file"):
        Certificate(tmp_path / "c", tmp_path / "none")
    with pytest.raises(UsageError, match=r"^--tls-certificate: cannot read '.*': Is a directory"):
        Certificate(tmp_path, tmp_path / "k")


def test_a_half_renewed_certificate_is_told_once_and_the_whole_one_taken(write, authority, caplog):
    caplog.set_level(logging.INFO)
    old, new = authority.issue(), authority.issue()
    certificate = Certificate(write("c", old.certificate), write("k", old.key))
    write("c", new.certificate)
    for _ in range(3):
        certificate.refresh()
    write("k", new.key[:50])
    for _ in range(3):
        certificate.refresh()
    assert len(told(caplog)) == 2
    write("k", new.key)
    for _ in range(3):
        certificate.refresh()
    assert len(told(caplog)) == 2
    assert [it.getMessage() for it in caplog.records if it.levelno == logging.INFO] == [
        "--tls-certificate, --tls-key: reloaded"
    ]


# Files that are none, and that hang


def put_fifo(path):
    os.mkfifo(path)


def put_socket(path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def put_large_file(path):
    with path.open("wb") as file:
        file.truncate(1 << 30)


STRANGE = {
    "fifo": (put_fifo, "not a regular file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    "directory": (lambda path: path.mkdir(), "Is a directory"),
    "socket": (put_socket, "cannot read"),
    "link to itself": (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    "gigabyte": (put_large_file, "is too large; it may have "),
}


@pytest.fixture
def use(write, authority, tmp_path):
    """Make a Certificate or Tokens whose file under `flag` is at the path "it"; a file of their own for the other flags."""
    pair = authority.issue()

    def use(flag, path=tmp_path / "it"):
        if flag == "--tokens":
            return Tokens(path)
        paths = {
            "--tls-certificate": write("c", pair.certificate),
            "--tls-key": write("k", pair.key),
            "--tls-client-ca": write("a", authority.certificate),
        }
        contents = paths[flag].read_bytes()
        paths[flag] = path
        if not os.path.lexists(path):
            path.write_bytes(contents)
        return Certificate(*paths.values())

    return use


@pytest.mark.parametrize("flag", ["--tokens", "--tls-certificate", "--tls-key", "--tls-client-ca"])
@pytest.mark.parametrize("strange", STRANGE)
def test_what_is_no_file_is_refused_by_name_at_the_start_and_later(use, tmp_path, caplog, flag, strange):
    put, words = STRANGE[strange]
    path = tmp_path / "it"
    put(path)
    with pytest.raises(UsageError, match=f"^{flag}: .*'{path}'") as error:
        use(flag)
    assert words in str(error.value)

    path.rmdir() if path.is_dir() else path.unlink()
    if flag == "--tokens":
        path.write_text("old")
    it = use(flag)
    path.unlink()
    put(path)
    for _ in range(3):
        it.refresh()
    (message,) = told(caplog)
    assert message.startswith(f"{flag}: ")
    assert words in message


@pytest.fixture
def hung(monkeypatch, tmp_path):
    """Opening the file "it" waits, as on a volume that hangs, until `go` is set; `tried` counts how often."""

    class Hung:
        go = threading.Event()
        hangs = True
        tried = 0

    real = os.open

    def hang(path, *arguments, **keywords):
        if path == tmp_path / "it" and Hung.hangs:
            Hung.tried += 1
            Hung.go.wait(60)
        return real(path, *arguments, **keywords)

    monkeypatch.setattr(os, "open", hang)
    monkeypatch.setattr(credentials, "_READ_SECONDS", 0.1)
    yield Hung
    Hung.go.set()


async def test_a_hung_volume_holds_one_thread_and_stops_no_other_file(use, write, caplog, hung):
    hung.hangs = False
    write("it", b"old")
    stuck, other = use("--tokens"), Tokens(write("other", b"first"))
    hung.hangs = True
    task = asyncio.create_task(watch([stuck, other], 0.05))
    async with asyncio.timeout(60):
        for token in ("second", "third", "fourth"):
            write("other", token.encode())
            while not other.admit(bearing(token)):
                await asyncio.sleep(0.01)
        assert stuck.admit(bearing("old"))
        assert hung.tried == 1
        assert [it for it in told(caplog) if "cannot be read within 0.1 s; does its volume hang?" in it] == told(caplog)
        assert len(told(caplog)) == 1
        write("it", b"new")
        hung.go.set()
        while not stuck.admit(bearing("new")):
            await asyncio.sleep(0.01)
    task.cancel()


@pytest.mark.usefixtures("hung")
def test_a_hung_volume_at_the_start_is_an_error(write, tmp_path):
    write("it", b"token")
    with pytest.raises(UsageError, match=r"^--tokens: '.*/it' cannot be read within 0.1 s"):
        Tokens(tmp_path / "it")


async def test_what_fails_unforeseen_is_logged_and_the_watch_goes_on(write, caplog):
    class Broken(Tokens):
        def refresh(self):
            raise MemoryError(SECRET)

    other = Tokens(write("other", b"first"))
    task = asyncio.create_task(watch([Broken(write("it", b"x")), other], 0.05))
    write("other", b"second")
    async with asyncio.timeout(60):
        while not other.admit(bearing("second")):
            await asyncio.sleep(0.01)
    task.cancel()
    assert told(caplog)[0] == "--tokens: the look for changes failed"
    assert "MemoryError" in caplog.records[0].traceback
    assert SECRET not in str([vars(it) for it in caplog.records])


def test_a_hundred_thousand_tokens_are_all_admitted(write):
    names = [f"token-{number:06}-{'x' * 30}" for number in range(100_000)]
    tokens = Tokens(write("tokens", "\n".join(names).encode()))
    for name in (names[0], names[50_000], names[-1]):
        assert tokens.admit(bearing(name))
        assert not tokens.admit(bearing(name + "x"))


# Dates and kinds of keys


def renew(write, pair):
    write("c", pair.certificate)
    write("k", pair.key)


def start(write, pair):
    renew(write, pair)
    return Certificate(write("c", pair.certificate), write("k", pair.key))


def days(number):
    return timedelta(days=number)


def in_use(certificate, pair):
    return certificate.expires_at() == x509.read_leaf(pair.certificate).not_after.timestamp()


def test_a_certificate_outside_its_dates_does_not_replace_one_that_is_valid(write, authority, caplog):
    valid = authority.issue(ends=days(30))
    certificate = start(write, valid)
    for pair, words in (
        (authority.issue(begins=days(-9), ends=days(-1)), r"'.*/c' expired on \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC; what was"),
        (authority.issue(begins=days(1), ends=days(9)), r"'.*/c' is not valid before \d{4}-\d\d-\d\d .* UTC; what was"),
    ):
        caplog.clear()
        renew(write, pair)
        for _ in range(4):
            certificate.refresh()
        (message,) = told(caplog)
        assert re.search(words, message)
        assert in_use(certificate, valid)


def test_a_certificate_is_taken_as_soon_as_it_is_valid(write, authority, caplog):
    certificate = start(write, authority.issue(ends=days(30)))
    early = authority.issue(begins=timedelta(seconds=2), ends=days(40))
    renew(write, early)
    deadline = time.monotonic() + 60
    while not in_use(certificate, early) and time.monotonic() < deadline:
        certificate.refresh()
        time.sleep(0.05)
    assert in_use(certificate, early)
    assert len(told(caplog)) == 1


def test_a_start_with_an_expired_certificate_is_an_error_in_the_log_and_mended_by_a_renewal(write, authority, caplog):
    certificate = start(write, authority.issue(expired=True))
    for _ in range(3):
        certificate.refresh()
    (message,) = told(caplog)
    assert re.search(r"^--tls-certificate: '.*/c', which is in use, expired on .* UTC: callers cannot connect until", message)
    good = authority.issue(ends=days(30))
    renew(write, good)
    certificate.refresh()
    assert in_use(certificate, good)


@pytest.mark.parametrize(
    ("begins", "ends", "soon"),
    [
        (days(-83), days(6.9), True),
        (days(-82), days(7.1), False),
        (days(-0.92), days(0.08), True),
        (days(-0.8), days(0.2), False),
    ],
)
def test_one_warning_tells_that_the_certificate_expires_soon(write, authority, caplog, begins, ends, soon):
    certificate = start(write, authority.issue(begins=begins, ends=ends))
    for _ in range(3):
        certificate.refresh()
    warnings = [it.getMessage() for it in caplog.records if it.levelno == logging.WARNING]
    assert len(warnings) == soon
    assert all(re.search(r"'.*/c', which is in use, expires on \d{4}-.* UTC: renew it$", it) for it in warnings)
    assert not told(caplog)


KEYS = {
    "P-521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "P-224": lambda: ec.generate_private_key(ec.SECP224R1()),
    "secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
    "Ed448": ed448.Ed448PrivateKey.generate,
}


@pytest.mark.parametrize("kind", KEYS)
def test_a_key_that_grpc_does_not_support_is_refused_at_the_start_and_later(write, authority, caplog, kind):
    caplog.set_level(logging.INFO)
    pair, good = authority.issue(key=KEYS[kind]()), authority.issue()
    with pytest.raises(UsageError, match=r"^--tls-certificate: .* of a kind that gRPC does not support; it must be RSA, or"):
        start(write, pair)
    certificate = start(write, good)
    renew(write, pair)
    for _ in range(3):
        certificate.refresh()
    assert len(told(caplog)) == 1
    assert "reloaded" not in caplog.text
    assert in_use(certificate, good)


@pytest.mark.parametrize(
    "make_key",
    [lambda: rsa.generate_private_key(65537, 2048), lambda: ec.generate_private_key(ec.SECP384R1())],
    ids=["RSA", "P-384"],
)
def test_grpc_answers_with_the_other_kinds_of_keys(write, authority, make_key):
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_secure_port("127.0.0.1:0", start(write, authority.issue(key=make_key())).for_server())
    server.start()
    options = [("grpc.ssl_target_name_override", NAME)]
    with grpc.secure_channel(f"127.0.0.1:{port}", grpc.ssl_channel_credentials(authority.certificate), options) as channel:
        grpc.channel_ready_future(channel).result(60)
    server.stop(None).wait(60)


def test_a_small_rsa_key_is_refused(write, authority):
    with pytest.raises(UsageError, match="KEY_TOO_SMALL"):
        start(write, authority.issue(key=rsa.generate_private_key(65537, 1024)))


@pytest.mark.parametrize("first", ["certificate", "key"])
def test_a_renewal_in_two_steps_logs_no_error(write, authority, caplog, first):
    certificate, new = start(write, authority.issue()), authority.issue(ends=days(30))
    files = {"certificate": ("c", new.certificate), "key": ("k", new.key)}
    write(*files.pop(first))
    certificate.refresh()
    for name, contents in files.values():
        write(name, contents)
    certificate.refresh()
    assert not told(caplog)
    assert in_use(certificate, new)


def test_a_renewal_by_a_link_that_is_switched_is_taken(authority, tmp_path, caplog):
    for name, ends in (("old", days(20)), ("new", days(30))):
        (tmp_path / name).mkdir()
        renew(lambda file, contents, name=name: (tmp_path / name / file).write_bytes(contents), authority.issue(ends=ends))
    (tmp_path / "data").symlink_to("old")
    certificate = Certificate(tmp_path / "data" / "c", tmp_path / "data" / "k")
    (tmp_path / "next").symlink_to("new")
    (tmp_path / "next").replace(tmp_path / "data")
    certificate.refresh()
    assert not told(caplog)
    assert certificate.expires_at() == x509.read_leaf((tmp_path / "new" / "c").read_bytes()).not_after.timestamp()
