"""Certificates and tokens on disk: what is refused, and what happens when they change."""

import logging

import pytest
from certificates import Authority
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption

from service.credentials import Certificate, Tokens
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
        "--tls-certificate, --tls-key: taken up anew"
    ]
