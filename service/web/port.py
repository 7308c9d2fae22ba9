"""The web port's life: whether it is opened and where, when its libraries are imported, and how it ends."""

from __future__ import annotations

import asyncio
import importlib
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from service.credentials import Certificate
from service.hosts import is_loopback
from service.settings import Settings
from service.web import operators

if TYPE_CHECKING:
    from service.web.app import App
    from service.web.listener import Listener

logger = logging.getLogger(__name__)

DEFAULT_PORT = 8000
MAX_CONNECTIONS = 64  # a browser has up to six; the oldest idle one makes room
_BACKLOG = 128
_PATIENCE = 1.0  # seconds at most for the first version to be live before the libraries are imported


class WebPort:
    """A port for people and their browsers, if there is to be one."""

    def __init__(self, settings: Settings, certificate: Certificate | None) -> None:
        self.port: int | None = None  # there is none
        self._settings = settings
        self._certificate = None if is_loopback(settings.web_host) else certificate
        self._socket: socket.socket | None = None
        self._listener: Listener | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is one."""
        return self._socket is not None

    @property
    def url(self) -> str:
        """Where a browser on this machine finds it."""
        host = {"::": "localhost", "0.0.0.0": "localhost"}.get(self._settings.web_host, self._settings.web_host)
        return f"{'https' if self._certificate else 'http'}://{f'[{host}]' if ':' in host else host}:{self.port}/"

    @property
    def connections(self) -> int:
        """How many are open."""
        return self._listener.connections if self._listener else 0

    def open(self) -> None:
        """Open it if it may be. Raises OSError if it cannot be had although it was asked for by name."""
        settings = self._settings
        host, asked = settings.web_host, settings.web_port is not None
        if not settings.web:
            return
        if not settings.may_serve_web:
            logger.warning("there is no page: --web-host %s opens it to the network, which wants --tokens or --web-open", host)
            return
        try:
            opened = operators.bind(host, settings.web_port if settings.web_port is not None else DEFAULT_PORT)
        except OSError as error:
            if asked:
                raise OSError(
                    f"cannot listen on {host}:{settings.web_port} ({error.strerror}): is --web-port already in use, or is "
                    "--web-host not an address of this machine?"
                ) from error
            logger.warning(
                "there is no page: port %d at %s cannot be had (%s); --web-port names another, and --no-web wants none",
                DEFAULT_PORT,
                host,
                error.strerror,
            )
            return
        opened.listen(_BACKLOG)  # what comes before the application is imported waits in the kernel
        opened.setblocking(False)
        self._socket = opened
        self.port = opened.getsockname()[1]

    async def run(self, live: asyncio.Event, build_app: Callable[[], App]) -> None:
        """Serve what `build_app` returns for ever. Whoever opens the port must watch this.

        The libraries are imported when a version is live, so that this comes no later for them.
        """
        assert self._socket
        with suppress(TimeoutError):
            await asyncio.wait_for(live.wait(), _PATIENCE)
        await asyncio.to_thread(importlib.import_module, "service.web.app")
        listener = await asyncio.to_thread(importlib.import_module, "service.web.listener")
        self._listener = listener.Listener(
            build_app(),
            self._socket,
            context=self._certificate.for_https if self._certificate else None,
            seconds=self._settings.handshake_seconds,
            max_connections=MAX_CONNECTIONS,
        )
        await self._listener.run()

    async def stop(self, grace: float) -> None:
        """Close it, and its connections once they have their answers, within so many seconds. `run` has ended."""
        if self._socket:
            self._socket.close()
        if self._listener:
            await self._listener.stop(grace)
