"""The life of a server: build, start, wait for a signal or until a part dies, stop gracefully."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

import grpc

from headlines.commands import versions
from service import connections, credentials, log, timer
from service.api import health, inference, middleware, popularity, reflection
from service.batcher import Batcher
from service.budget import Budget
from service.credentials import Certificate, Tokens
from service.description import ModelDescription
from service.drain import DrainGate
from service.hosts import is_loopback
from service.metrics import Metrics
from service.model import engines
from service.model.engines import Engine
from service.model.version import Version
from service.predictor import Item, Limits, Predictor, Result, cost
from service.repository import Repository
from service.settings import Settings
from service.signals import StopSignals
from service.web import operators
from service.web import port as web_port
from service.web.operators import HttpServer, make_app
from service.web.port import WebPort

if TYPE_CHECKING:
    from service.web.app import App

logger = logging.getLogger(__name__)

LARGEST_BATCH = 256  # headlines; a millisecond of the CPU engine, beyond which more save nothing
LARGEST_BATCH_BYTES = 64 << 10  # of text and outlets; 256 ordinary headlines have 25 kB, and the dearest text takes 20 ms
HEALTH_READS = 4  # health checks whose messages are being read at once
# New objects after which the garbage collector looks at the young ones. Calls leave no cycles, so all that it finds there are
# the calls in flight: a twentieth of a small request's instructions at Python's own 700.
_YOUNG_OBJECTS = 20_000
_HEARTBEAT = 1.0  # seconds between two beats of the event loop
_DEAD_AFTER = 10.0  # seconds without a beat
_CLOSE_TIMEOUT = 1.0  # seconds for what has been written and not yet sent
_INT_MAX = (1 << 31) - 1


def run(settings: Settings, stop_signals: StopSignals) -> NoReturn:
    """Serve until a signal comes, and end the process.

    Exit code 0: stopped gracefully. 1: it could not start, or a part of it died. Raises UsageError if the engine that is asked
    for is not installed.
    """
    began = time.monotonic()
    libraries = versions.installed()
    logger.info("%s", versions.describe(libraries), extra=libraries)
    engine = engines.choose(settings.engine)
    spare_collector()
    code = _new_event_loop().run_until_complete(_live(settings, engine, began, stop_signals))
    log.close()
    os._exit(code)  # does not wait for a thread that still loads or computes what nobody will ask for


def spare_collector() -> None:
    """Let the garbage collector pass over all that is loaded, which stays, and look at what is new less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS)


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


async def _live(settings: Settings, engine: Engine, began: float, stop_signals: StopSignals) -> int:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_log_fault)
    stop = asyncio.Event()
    stop_signals.on_stop(lambda: loop.call_soon_threadsafe(stop.set))
    server = Server(settings, engine, began)
    server.metrics.count_dropped_log_lines(log.dropped)
    try:
        await server.start()
    except OSError as error:
        logger.critical("cannot start: %s", error)
        return 1
    died = await server.wait(stop)
    await server.stop(drain_seconds=0 if died else settings.drain_seconds)
    return 1 if died else 0


def _log_fault(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:  # noqa: ARG001
    error = context.get("exception")
    logger.error("%s", context["message"], extra={"traceback": log.redacted_traceback(error)} if error else None)


class Server:
    """A server with its ports. Build it on the event loop.

    async with Server(settings, engine) as server:
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{server.port}")
    """

    def __init__(self, settings: Settings, engine: Engine, began: float | None = None) -> None:
        """Build all parts; `began` is when the start began, by time.monotonic().

        Raises UsageError if a certificate or the tokens cannot be used, or if there are too few descriptors for connections.
        """
        self.port = settings.port  # the real ones from the start on
        self.http_port = settings.http_port
        self.metrics = Metrics(settings.queue_headlines)
        self._settings = settings
        self._engine = engine
        self._began = time.monotonic() if began is None else began
        self._certificate = (
            Certificate(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
            if settings.tls_certificate and settings.tls_key
            else None
        )
        self._tokens = Tokens(settings.tokens) if settings.tokens else None
        self._executor = None if engine.inline else ThreadPoolExecutor(1, "engine")
        self._batcher: Batcher[Item, Result] = Batcher(
            capacity=settings.queue_headlines,
            largest_batch=LARGEST_BATCH,
            largest_cost=LARGEST_BATCH_BYTES,
            cost=cost,
            executor=self._executor,
            observer=self.metrics,
            timer=timer.exact,
        )
        self.metrics.watch_queue(lambda: self._batcher.queued)
        self._repository = Repository(
            settings.models,
            engine,
            pinned=settings.version,
            poll_seconds=settings.poll_seconds,
            max_version_bytes=settings.max_version_bytes,
            on_load=self.metrics.loaded,
            on_live=self._on_live,
        )
        self._gate = DrainGate()
        limits = Limits(settings.max_headlines, settings.max_text_bytes)
        predictor = self._predictor = Predictor(self._repository, self._batcher, limits, self.metrics.predicted)
        self._description = ModelDescription(self._repository, settings.model_name, limits, settings.max_message_bytes)
        self._popularity = self._build_popularity(predictor)
        self._inference = self._build_inference(predictor)
        self._capacity = connections.grpc_capacity(
            settings.max_connections, operators.MAX_CONNECTIONS + (web_port.MAX_CONNECTIONS if settings.web else 0)
        )
        self._health = health.Health([popularity.SERVICE.full_name, inference.SERVICE.full_name])
        self.metrics.ready.set_function(lambda: self._health.serving)
        self.metrics.model_directory_missing.set_function(lambda: self._repository.directory_missing)
        self._grpc = self._build_grpc()
        self._tasks: list[asyncio.Task[None]] = []
        self._http: HttpServer | None = None
        self._web = WebPort(settings, self._certificate)
        self._was_live = asyncio.Event()
        self._stopping = False
        self._heartbeat = time.monotonic()
        self._version: Version | None = None
        if engine.gpu_memory() is not None:
            self.metrics.watch_gpu_memory(lambda: engine.gpu_memory() or 0)

    def _build_popularity(self, predictor: Predictor) -> popularity.Popularity:
        return popularity.Popularity(
            predictor, self._description, stream_age=self._settings.max_connection_age, gate=self._gate
        )

    def _build_inference(self, predictor: Predictor) -> inference.Inference:
        return inference.Inference(
            predictor,
            self._repository,
            model_name=self._settings.model_name,
            server_version=versions.installed()["version"],
            ready=lambda: self._health.serving,
            gate=self._gate,
        )

    def _build_grpc(self) -> grpc.aio.Server:
        settings = self._settings
        options = [
            ("grpc.so_reuseport", 0),  # a taken port is an error, not two servers that share callers
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            # What nobody reads stays with its caller but for 64 KiB a stream; by default gRPC takes in more if it arrives fast.
            # A message that is being read gets a window of its own size: 4 MiB over 60 ms take 0.4 s for 0.15.
            ("grpc.http2.bdp_probe", 0),
            ("grpc.max_metadata_size", settings.max_metadata_bytes),
            ("grpc.absolute_max_metadata_size", settings.max_metadata_bytes),
            ("grpc.max_concurrent_streams", settings.max_streams),
            # One that never calls ends by its age; gRPC has no way to end idle ones only when there is no room for others.
            ("grpc.max_allowed_incoming_connections", max(1, self._capacity // connections.listeners(settings.host))),
            ("grpc.server_handshake_timeout_ms", _milliseconds(settings.handshake_seconds)),
            # Only what is not compressed: a message is unpacked before its size is looked at.
            ("grpc.compression_enabled_algorithms_bitset", 1 << grpc.Compression.NoCompression.value),
            # By default gRPC waits for ever for a connection's last stream. One that begins at the last moment ends by its
            # own age, which may be a tenth longer, and then has its answers; what lasts longer is cut off.
            ("grpc.max_connection_age_ms", _milliseconds(settings.max_connection_age)),
            ("grpc.max_connection_age_grace_ms", _milliseconds(1.1 * settings.max_connection_age + settings.grace_seconds)),
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
        ]
        services = {
            popularity.SERVICE: self._popularity.handlers(),
            inference.SERVICE: self._inference.handlers(),
            health.SERVICE: self._health.handlers(),
        }
        if settings.reflection:
            services |= reflection.handlers([service.full_name for service in services])
        largest = settings.max_message_bytes
        budget = Budget(settings.message_memory_bytes, largest)
        self.metrics.watch_messages(lambda: budget.reserved, lambda: budget.waiting)
        handlers = middleware.Middleware(
            self.metrics, services, budget, self._tokens, exempt={health.SERVICE: Budget(HEALTH_READS * largest, largest)}
        )
        server = grpc.aio.server(options=options)
        server.add_generic_rpc_handlers((handlers,))
        return server

    @property
    def web_port(self) -> int | None:
        """The page's port; None if there is no page."""
        return self._web.port

    async def start(self) -> None:
        """Open the ports and begin to look for versions. Raises OSError if a port is in use or a host is unknown."""
        settings = self._settings
        if not is_loopback(settings.host) and not self._certificate:
            logger.warning("%s is open to the network, %s", settings.host, self._lacks())
        app = make_app(self.metrics.registry, self._is_alive, lambda: self._health.serving, self._not_ready)
        self._http = _open_http(settings, app)
        self.http_port = self._http.port
        address = f"[{settings.host}]:{settings.port}" if ":" in settings.host else f"{settings.host}:{settings.port}"
        try:
            if self._certificate:
                self.port = self._grpc.add_secure_port(address, self._certificate.for_server())
            else:
                self.port = self._grpc.add_insecure_port(address)
            self._web.open()
        except RuntimeError as error:
            self._http.close()
            raise OSError(
                f"cannot listen on {address}: is --port already in use, or is --host not an address of this machine?"
            ) from error
        except OSError:
            self._http.close()
            raise
        self.metrics.watch_connections("grpc", lambda: connections.count_open(self.port), self._capacity)
        self.metrics.watch_connections("http", lambda: self._http.connections if self._http else 0, operators.MAX_CONNECTIONS)
        if self._certificate:
            self.metrics.watch_certificate(self._certificate.expires_at)
        self._beat()
        self._http.start()
        await self._grpc.start()
        page = f", page at {self._web.url}" if self._web.is_open else ""
        if self._web.is_open and not is_loopback(settings.web_host) and not self._certificate:
            logger.warning("the page at %s is open to the network, %s", settings.web_host, self._lacks())
        logger.info(
            "listening at %s, gRPC port %d, HTTP port %d%s; looking for versions in %s",
            settings.host,
            self.port,
            self.http_port,
            page,
            settings.models,
            extra={**self._ports(), "host": settings.host, "engine": self._engine.name},
        )
        self._tasks = [
            asyncio.create_task(self._batcher.run(), name="batcher"),
            asyncio.create_task(self._repository.run(), name="repository"),
            asyncio.create_task(self._http.run(), name="HTTP port"),
        ]
        if self._web.is_open:
            self.metrics.watch_connections("web", lambda: self._web.connections, web_port.MAX_CONNECTIONS)
            self._tasks.append(asyncio.create_task(self._web.run(self._was_live, self._build_app), name="web port"))
        if watched := [it for it in (self._certificate, self._tokens) if it]:
            watch = credentials.watch(watched, settings.poll_seconds)
            self._tasks.append(asyncio.create_task(watch, name="watch over certificates and tokens"))

    def _lacks(self) -> str:
        """What is missing where a port is open to the network without TLS."""
        if self._tokens:
            return "without TLS: whoever is on the way can read tokens and headlines"
        return "with neither TLS nor tokens: anybody there may call"

    def _ports(self) -> dict[str, int | None]:
        """What the log tells of ports, for programs."""
        return {"port": self.port, "http_port": self.http_port, "web_port": self.web_port}

    def _build_app(self) -> App:
        from service.web.app import App  # here, when WebPort has imported it

        return App(
            self._predictor,
            self._repository,
            self._description,
            hosts=self._settings.web_hosts,
            gate=self._gate,
            metrics=self.metrics,
            tokens=self._tokens,
            version=versions.installed()["version"],
        )

    async def wait(self, stop: asyncio.Event) -> bool:
        """Wait until `stop` is set or a part has died; returns whether one has."""
        stopped = asyncio.create_task(stop.wait())
        done, _ = await asyncio.wait([*self._tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        dead = [task for task in self._tasks if task in done]
        for task in dead:
            error = task.exception() or RuntimeError("it ended")
            logger.critical("the %s died; the server ends", task.get_name(), extra={"traceback": log.redacted_traceback(error)})
        return bool(dead)

    async def stop(self, drain_seconds: float = 0.0) -> None:
        """Stop gracefully: report NOT_SERVING, answer as before while load balancers notice, drain, close."""
        self._stopping = True
        self._health.set_serving(False)
        await asyncio.sleep(drain_seconds)
        self._gate.close()
        self._popularity.stop_reading()
        with suppress(TimeoutError):  # raised by a grace time of 0 even if no call is in flight
            await asyncio.wait_for(self._gate.wait_until_drained(), self._settings.grace_seconds)
        if self._gate.in_flight:
            logger.warning("%d calls in flight are cut off after the grace time", self._gate.in_flight)
        self._health.end()
        await self._grpc.stop(_CLOSE_TIMEOUT)
        for task in self._tasks:
            task.cancel()
        if self._executor:
            self._executor.shutdown(wait=False, cancel_futures=True)
        await self._web.stop(_CLOSE_TIMEOUT)
        if self._http:
            await asyncio.to_thread(self._http.stop)
        ended = self.metrics.ended()
        logger.info("stopped after %d calls", sum(ended.values()), extra={"calls": ended})

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    def _on_live(self, version: Version | None) -> None:
        first, self._version = not self._version, version
        if version:
            self.metrics.went_live(version.number, version.digest, self._engine.name, version.info.created_at)
            if first:
                seconds = time.monotonic() - self._began
                logger.info(
                    "serving version %d on %s, %.2f s after the start",
                    version.number,
                    self._engine.name,
                    seconds,
                    extra={
                        **self._ports(),
                        "seconds": seconds,
                        "version": version.number,
                        "engine": self._engine.name,
                    },
                )
                self._was_live.set()
        else:
            self.metrics.went_away()
        if not self._stopping:
            self._health.set_serving(version is not None)

    def _not_ready(self) -> str:
        return "the server is stopping" if self._stopping else self._repository.problem

    def _beat(self) -> None:
        self._heartbeat = time.monotonic()
        asyncio.get_running_loop().call_later(_HEARTBEAT, self._beat)

    def _is_alive(self) -> bool:
        return time.monotonic() - self._heartbeat < _DEAD_AFTER


def _open_http(settings: Settings, app: operators.App) -> HttpServer:
    try:
        return HttpServer(settings.http_host, settings.http_port, app, settings.handshake_seconds)
    except OSError as error:
        where = f"{settings.http_host}:{settings.http_port}"
        raise OSError(
            f"cannot listen on {where} ({error.strerror}): is --http-port already in use, or is --http-host not an address of "
            "this machine?"
        ) from error


def _milliseconds(seconds: float) -> int:
    return min(round(1000 * seconds), _INT_MAX)  # which means for ever to gRPC
