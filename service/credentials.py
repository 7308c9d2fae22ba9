"""Certificates and tokens: read from files, and read again when these change while the server runs.

Files are seldom renewed in one moment: a key comes after its certificate, a list of tokens is empty before it is written.
What cannot be used changes nothing, and the log says so once, unless the next look finds it mended.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import ssl
import stat
import tempfile
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from threading import Thread

import grpc

from service import log, x509
from service.errors import UsageError

logger = logging.getLogger(__name__)

_READ_SECONDS = 5.0  # for a file of at most some megabytes; what takes longer hangs
_MAX_PEM_BYTES = 1 << 20  # a bundle of all public authorities has a quarter
_MAX_TOKENS_BYTES = 16 << 20  # 200,000 long ones
_SOON = timedelta(days=7)
_TOKEN = re.compile(rb"[!-~]+")


class File:
    """A file that an operator names. Whatever stands at its path, reading it ends in time."""

    def __init__(self, flag: str, path: Path, max_bytes: int) -> None:
        self._flag = flag
        self._path = path
        self._max_bytes = max_bytes
        self._reading: Future[bytes] | None = None  # one that has not ended in time: a hung volume holds one thread, not more

    def read(self) -> bytes:
        """What it holds. Raises UsageError if it cannot be read, is no regular file or too large, or takes too long."""
        reading, seconds = self._reading, 0.0
        if not reading:
            reading, seconds = Future(), _READ_SECONDS
            Thread(target=self._read_into, args=(reading,), name=f"read {self._flag}", daemon=True).start()
        self._reading = reading if wait([reading], seconds).not_done else None
        if self._reading:
            raise UsageError(f"{self} cannot be read within {_READ_SECONDS:g} s; does its volume hang?")
        try:
            contents = reading.result()
        except OSError as error:
            raise UsageError(f"{self._flag}: cannot read {str(self._path)!r}: {error.strerror}") from None
        if len(contents) > self._max_bytes:
            raise UsageError(f"{self} is too large; it may have {self._max_bytes} bytes")
        return contents

    def _read_into(self, future: Future[bytes]) -> None:
        try:
            future.set_result(self._read())
        except BaseException as error:
            future.set_exception(error)

    def _read(self) -> bytes:
        # A FIFO without a writer would make an open that waits do so for ever.
        descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            mode = os.fstat(descriptor).st_mode
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(0, "Is a directory")
            if not stat.S_ISREG(mode):
                raise OSError(0, "not a regular file, but a FIFO, socket or device")
            return file.read(self._max_bytes + 1)

    def __str__(self) -> str:
        return f"{self._flag}: {str(self._path)!r}"


class Credentials(ABC):
    """What stands in some files, as it was when it could last be used."""

    def __init__(self, files: Mapping[str, Path], max_bytes: int) -> None:
        """Read `files`, each given under its flag and of at most `max_bytes`. Raises UsageError if they cannot be used."""
        self.flags = ", ".join(files)
        self._files = [File(flag, path, max_bytes) for flag, path in files.items()]
        self._failed = False  # at the last look
        self._problem = ""  # the last one that the log tells of
        self._contents = self._read()
        self._take(self._contents)

    def refresh(self) -> None:
        """Look at the files, and take what is new if it can be used. It reads from disk."""
        try:
            contents = self._read()
            if contents != self._contents:
                self._take(contents)
                self._contents = contents
                logger.info("%s: reloaded", self.flags)
            self._failed, self._problem = False, ""
        except UsageError as error:
            # Of files that belong together one is written after the other: they have until the next look.
            if (self._failed or len(self._files) == 1) and str(error) != self._problem:
                logger.error("%s; what was read before stays in use", error)
                self._problem = str(error)
            self._failed = True

    def _read(self) -> list[bytes]:
        return [file.read() for file in self._files]

    @abstractmethod
    def _take(self, contents: list[bytes]) -> None:
        """Use what the files hold from now on. Raises UsageError if it cannot be used, and changes nothing."""


class Certificate(Credentials):
    """The server's certificate, its key and perhaps the authorities of its callers; new connections get the newest."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        self._leaf: x509.Leaf | None = None
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._remark = ""  # the last one about the dates of the certificate in use
        self._renewed: deque[grpc.ServerCertificateConfiguration] = deque(maxlen=1)
        files = {"--tls-certificate": certificate, "--tls-key": key, **({"--tls-client-ca": client_ca} if client_ca else {})}
        super().__init__(files, _MAX_PEM_BYTES)
        self._check_dates()

    def expires_at(self) -> float:
        """When the certificate in use ends to be valid, in seconds since 1970."""
        return self._leaf.not_after.timestamp() if self._leaf else 0.0

    def for_server(self) -> grpc.ServerCredentials:
        """What a gRPC server opens its port with; to be called once."""
        return grpc.dynamic_ssl_server_credentials(
            self._renewed.pop(),
            self._fetch,  # type: ignore[arg-type]  # the stubs do not know None
            require_client_authentication=self._client_ca is not None,
        )

    def for_https(self) -> ssl.SSLContext:
        """What to accept a new HTTPS connection with. It asks for no client's certificate."""
        return self._context

    def refresh(self) -> None:
        """Look at the files, take what is new, and log when the certificate in use is about to expire or has expired."""
        super().refresh()
        self._check_dates()

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """What is new since the last time; gRPC asks at each new connection, one at a time, in a thread of its own."""
        try:
            return self._renewed.pop()
        except IndexError:
            return None

    def _take(self, contents: list[bytes]) -> None:
        # gRPC would keep the old certificate too, without a word.
        certificate, key, *client_ca = contents
        leaf, context = self._check_pair(certificate, key)
        if client_ca:
            self._check_client_ca(client_ca[0])
        # At the start there is no better one, and the port for health and metrics is worth having: _check_dates says it.
        if self._leaf and (wrong := _outside(leaf)):
            raise UsageError(f"--tls-certificate: {str(self._certificate)!r} {wrong}")
        self._leaf, self._context = leaf, context
        self._renewed.append(grpc.ssl_server_certificate_configuration([(key, certificate)], *client_ca))

    def _check_pair(self, certificate: bytes, key: bytes) -> tuple[x509.Leaf, ssl.SSLContext]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.set_alpn_protocols(["http/1.1"])
        try:
            with ExitStack() as stack:
                certificate_path, key_path = (stack.enter_context(_as_path(it)) for it in (certificate, key))
                context.load_cert_chain(certificate_path, key_path, password=lambda: "")  # else it asks the terminal for one
            leaf = x509.read_leaf(certificate)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"--tls-certificate, --tls-key: {str(self._certificate)!r} and {str(self._key)!r} are no certificate "
                f"and its private key, as PEM and unencrypted{_reason(error)}"
            ) from None
        if not leaf.key:  # gRPC's clients would fail to connect, and for some kinds its server to use it
            raise UsageError(
                f"--tls-certificate: {str(self._certificate)!r} has a key of a kind that gRPC does not support; "
                "it must be RSA, or ECDSA on P-256 or P-384"
            )
        return leaf, context

    def _check_client_ca(self, client_ca: bytes) -> None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=client_ca.decode("ascii", "ignore"))
        except (OSError, ValueError) as error:
            raise UsageError(
                f"--tls-client-ca: {str(self._client_ca)!r} holds no certificates as PEM{_reason(error)}"
            ) from None

    def _check_dates(self) -> None:
        if not (leaf := self._leaf):
            return
        remark, level = "", logging.ERROR
        if wrong := _outside(leaf):
            remark = f"{wrong}: callers cannot connect until it is renewed"
        elif leaf.not_after - datetime.now(UTC) < min(_SOON, (leaf.not_after - leaf.not_before) / 10):
            remark, level = f"expires on {_show(leaf.not_after)}: renew it", logging.WARNING
        if remark and remark != self._remark:
            logger.log(level, "--tls-certificate: %r, which is in use, %s", str(self._certificate), remark)
        self._remark = remark


class Tokens(Credentials):
    """The tokens that callers may bear, any of several, so that one can be replaced while its callers still bear the old."""

    def __init__(self, tokens: Path) -> None:
        self._path = tokens
        self._hashes: frozenset[bytes] = frozenset()
        super().__init__({"--tokens": tokens}, _MAX_TOKENS_BYTES)

    def admit(self, metadata: Sequence[tuple[str, str | bytes]] | None) -> bool:
        """Whether a call with this metadata has one of them, as `authorization: Bearer TOKEN`."""
        for key, value in metadata or ():
            if key == "authorization" and isinstance(value, str):
                scheme, _, token = value.partition(" ")
                # How long this takes may depend on the presented token's hash, from which nobody can work towards a valid one.
                return sha256(token.strip().encode()).digest() in self._hashes and scheme.lower() == "bearer"
        return False

    def _take(self, contents: list[bytes]) -> None:
        hashes = set()
        for number, line in enumerate(contents[0].removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
            token, *comment = line.split(maxsplit=1) or (b"#",)
            if token.startswith(b"#"):
                continue
            if not _TOKEN.fullmatch(token) or (comment and not comment[0].startswith(b"#")):
                raise UsageError(
                    f"--tokens: line {number} of {str(self._path)!r} is no token; "
                    "write one a line, of printable ASCII characters without spaces"
                )
            hashes.add(sha256(token).digest())
        if not hashes:
            raise UsageError(f"--tokens: {str(self._path)!r} holds no token; write at least one line")
        self._hashes = frozenset(hashes)


async def watch(credentials: Sequence[Credentials], poll_seconds: float) -> None:
    """Refresh them for ever, in a thread. One that fails stops none of the others."""
    while True:
        await asyncio.sleep(poll_seconds)
        for it in credentials:
            try:
                await asyncio.to_thread(it.refresh)
            except Exception as error:
                logger.error("%s: the look for changes failed", it.flags, extra={"traceback": log.redacted_traceback(error)})


@contextmanager
def _as_path(contents: bytes) -> Iterator[str]:
    """A private file with these contents, for OpenSSL, which reads by path only."""
    if hasattr(os, "memfd_create"):  # needs no writable directory, and leaves no key on a disk
        descriptor = os.memfd_create("pem")
        with os.fdopen(descriptor, "wb") as file:
            file.write(contents)
            file.flush()
            yield f"/proc/self/fd/{descriptor}"
    else:
        with tempfile.NamedTemporaryFile() as file:
            file.write(contents)
            file.flush()
            yield file.name


def _outside(leaf: x509.Leaf) -> str:
    """How a certificate is out of its dates now; empty if it is valid."""
    now = datetime.now(UTC)
    if now > leaf.not_after:
        return f"expired on {_show(leaf.not_after)}"
    if now < leaf.not_before:
        return f"is not valid before {_show(leaf.not_before)}"
    return ""


def _show(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None)  # OpenSSL's, such as KEY_VALUES_MISMATCH
    return f" ({reason})" if reason else ""
