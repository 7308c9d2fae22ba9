"""Certificates and tokens: read from files, and read again when these change while the server runs.

Files are seldom renewed in one moment: a key comes after its certificate, a list of tokens is empty before it is written.
What cannot be used changes nothing, and the log says so once.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import ssl
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import grpc

from service.errors import UsageError

logger = logging.getLogger(__name__)


class Credentials(ABC):
    """What stands in some files, as it was when it could last be used."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        """Read `files`, each given under its flag. Raises UsageError where they cannot be used."""
        self._files = files
        self._problem = ""  # the last one that the log tells of
        self._contents: list[bytes] | None = self._read()  # None: they could not be read
        self._take(self._contents)

    def refresh(self) -> None:
        """Look at the files, and take what is new if it can be used. It reads from disk."""
        before, self._contents = self._contents, None
        try:
            self._contents = self._read()
            if self._contents == before:
                return
            self._take(self._contents)
        except UsageError as error:
            if str(error) != self._problem:
                logger.error("%s; what was read before stays in use", error)
            self._problem = str(error)
        else:
            self._problem = ""
            logger.info("%s: taken up anew", self._flags)

    @property
    def _flags(self) -> str:
        return ", ".join(self._files)

    def _read(self) -> list[bytes]:
        contents = []
        for flag, path in self._files.items():
            try:
                contents.append(path.read_bytes())
            except OSError as error:
                raise UsageError(f"{flag}: cannot read {str(path)!r}: {error.strerror}") from None
        return contents

    @abstractmethod
    def _take(self, contents: list[bytes]) -> None:
        """Use what the files hold from now on. Raises UsageError where it cannot be used, and changes nothing."""


class Certificate(Credentials):
    """The server's certificate, its key and perhaps the authorities of its callers; new connections get the newest."""

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        self._renewed: deque[grpc.ServerCertificateConfiguration] = deque(maxlen=1)
        super().__init__(
            {"--tls-certificate": certificate, "--tls-key": key, **({"--tls-client-ca": client_ca} if client_ca else {})}
        )

    def for_server(self) -> grpc.ServerCredentials:
        """What a gRPC server opens its port with; to be called once."""
        return grpc.dynamic_ssl_server_credentials(
            self._renewed.pop(),
            self._fetch,  # type: ignore[arg-type]  # the stubs do not know None
            require_client_authentication=self._client_ca is not None,
        )

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """What is new since the last time; gRPC asks at each new connection, one at a time, in a thread of its own."""
        try:
            return self._renewed.pop()
        except IndexError:
            return None

    def _take(self, contents: list[bytes]) -> None:
        # gRPC would keep the old certificate too, without a word.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self._certificate, self._key, password=lambda: "")  # else it asks the terminal for one
        except (OSError, ValueError) as error:
            raise UsageError(
                f"--tls-certificate, --tls-key: {str(self._certificate)!r} and {str(self._key)!r} are no certificate "
                f"and its private key, as PEM and unencrypted{_reason(error)}"
            ) from None
        try:
            if self._client_ca:
                context.load_verify_locations(cadata=contents[2].decode("ascii", "ignore"))
        except (OSError, ValueError) as error:
            raise UsageError(
                f"--tls-client-ca: {str(self._client_ca)!r} holds no certificates as PEM{_reason(error)}"
            ) from None
        if self._read() != contents:
            raise UsageError(f"{self._flags}: they change at this moment")
        self._renewed.append(grpc.ssl_server_certificate_configuration([(contents[1], contents[0])], *contents[2:]))


class Tokens(Credentials):
    """The tokens that callers may bear, any of several, so that one can be replaced while its callers still bear the old."""

    def __init__(self, tokens: Path) -> None:
        self._hashes: list[bytes] = []  # all of one length, which a comparison would tell
        super().__init__({"--tokens": tokens})

    def admit(self, metadata: Sequence[tuple[str, str | bytes]] | None) -> bool:
        """Whether a call with this metadata bears one of them, as `authorization: Bearer TOKEN`."""
        for key, value in metadata or ():
            if key == "authorization" and isinstance(value, str):
                scheme, _, token = value.partition(" ")
                presented = sha256(token.strip().encode()).digest()
                known = False
                for it in self._hashes:  # all of them, so that the time tells nothing
                    known |= hmac.compare_digest(it, presented)
                return known and scheme.lower() == "bearer"
        return False

    def _take(self, contents: list[bytes]) -> None:
        path = str(self._files["--tokens"])
        hashes = []
        for number, line in enumerate(contents[0].removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
            if not line.strip() or line.strip().startswith(b"#"):
                continue
            token, *comment = line.split(maxsplit=1)
            if not all(0x20 < byte < 0x7F for byte in token) or (comment and not comment[0].startswith(b"#")):
                raise UsageError(
                    f"--tokens: line {number} of {path!r} is no token; "
                    "write one a line, of printable ASCII characters without spaces"
                )
            hashes.append(sha256(token).digest())
        if not hashes:
            raise UsageError(f"--tokens: {path!r} holds no token; write at least one line")
        self._hashes = hashes


async def watch(credentials: Sequence[Credentials], poll_seconds: float) -> None:
    """Refresh them for ever. What it raises is a fault of its own, and whoever runs it must watch it."""
    while True:
        await asyncio.sleep(poll_seconds)
        for it in credentials:
            await asyncio.to_thread(it.refresh)


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None)  # OpenSSL's, such as KEY_VALUES_MISMATCH
    return f" ({reason})" if reason else ""
