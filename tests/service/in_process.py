"""A server in the test's own process, for what a process cannot show."""

import asyncio
import threading
import time
from contextlib import asynccontextmanager

import grpc

from headlines.v1 import popularity_pb2, popularity_pb2_grpc
from service.model import engines
from service.server import Server


@asynccontextmanager
async def running(settings, engine=None):
    """A server with a live version, and a stub for it; `engine` is LiteRT unless it is given."""
    async with Server(settings, engine or engines.choose("litert")) as server:
        await serving(server)
        async with connect(server) as channel:
            yield server, popularity_pb2_grpc.PopularityServiceStub(channel)


def connect(server):
    return grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=[("grpc.enable_retries", 0)])


async def serving(server):
    """Wait until a version is live."""
    async with connect(server) as channel, asyncio.timeout(60):
        model = popularity_pb2_grpc.PopularityServiceStub(channel)
        while not (await model.GetModel(popularity_pb2.GetModelRequest())).version:
            await asyncio.sleep(0.01)


async def until(condition):
    """Wait until the condition holds."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


async def generous(stub):
    """Seconds that are enough for a call to arrive on this machine, as busy as it is now."""
    began = time.perf_counter()
    for _ in range(5):
        await stub.GetModel(popularity_pb2.GetModelRequest())
    return 0.5 + 20 * (time.perf_counter() - began)


class HeldEngine:
    """LiteRT in a thread, which computes only while `go` is set and fails, with these words, where `fault` is."""

    name = "held"
    inline = False

    def __init__(self):
        self.go = threading.Event()
        self.go.set()
        self.called = threading.Event()
        self.fault = ""

    def load(self, read):
        return HeldModel(self, engines.choose("litert").load(read))

    def gpu_memory(self):
        return 1 << 20

    async def hold(self):
        """Let the next batch begin and not end."""
        self.go.clear()
        self.called.clear()
        assert await asyncio.to_thread(self.called.wait, 60)


class HeldModel:
    def __init__(self, engine, model):
        self._engine = engine
        self._model = model
        self.warm = model.warm

    def predict(self, ids, lengths, aux):
        self._engine.called.set()
        assert self._engine.go.wait(60)
        if self._engine.fault:
            raise ArithmeticError(self._engine.fault)
        return self._model.predict(ids, lengths, aux)
