"""Connections to the web port that are many, slow or silent: they end, and hinder nobody."""

import asyncio
import json
import socket
from contextlib import ExitStack

import pytest
from in_process import HeldEngine, running, until
from test_server import sample
from web import ask, connect, predict

from headlines.v1 import popularity_pb2 as pb
from service.web import app

BODY = json.dumps({"headlines": [{"text": "park"}]}).encode()


def head(length, *lines):
    fields = (
        "POST /v1/predict HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {length}",
        *lines,
    )
    return "\r\n".join([*fields, "", ""]).encode()


def rest(connection):
    """What comes until the connection ends; b"" if it is reset before."""
    received = b""
    try:
        while part := connection.recv(65_536):
            received += part
    except ConnectionError:
        return received
    return received


@pytest.fixture
def quick(make_settings):
    """Settings of a server that waits but half a second."""
    return make_settings(web=True, web_port=0, handshake_seconds=0.5)


@pytest.fixture
def make_server(monkeypatch):
    """Sets how many connections a server may have."""
    return lambda most: monkeypatch.setattr("service.web.port.MAX_CONNECTIONS", most)


async def test_silent_and_slow_connections_end(quick):
    async with running(quick) as (server, _):
        assert (await asyncio.to_thread(predict, server.web_port, "park")).code == 200

        def drip():
            with connect(server.web_port) as connection, pytest.raises(ConnectionError):
                for byte in head(len(BODY)).replace(b"\r\n\r\n", b"\r\nX: " + b"x" * 10_000):
                    connection.sendall(bytes([byte]))
                    connection.settimeout(0.01)
                    try:
                        if connection.recv(1) == b"":
                            raise ConnectionResetError
                    except TimeoutError:
                        pass

        def silent():
            with connect(server.web_port) as connection:
                assert rest(connection) == b""

        await asyncio.gather(*(asyncio.to_thread(it) for it in (drip, silent, silent)))
        await until(lambda: sample(server, "headlines_connections", port="web") == 0)


async def test_a_slow_body_is_given_up(quick, monkeypatch):
    monkeypatch.setattr(app, "SECONDS", 0.3)
    async with running(quick) as (server, _):

        def slow():
            with connect(server.web_port) as connection:
                connection.sendall(head(len(BODY)) + BODY[:5])
                answer = rest(connection)
                assert answer.startswith(b"HTTP/1.1 408 ")
                assert b"DEADLINE_EXCEEDED" in answer

        await asyncio.to_thread(slow)
        assert (await asyncio.to_thread(predict, server.web_port, "park")).code == 200


async def test_a_client_that_reads_nothing_is_cut_off(quick):
    async with running(quick) as (server, _):
        assert (await asyncio.to_thread(predict, server.web_port, "park")).code == 200
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.web_port))
        connection.setblocking(False)
        requests = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100
        loop = asyncio.get_running_loop()
        with connection, pytest.raises(ConnectionError):
            async with asyncio.timeout(60):
                while True:
                    await loop.sock_sendall(connection, requests)
        await until(lambda: sample(server, "headlines_connections", port="web") == 0)


async def test_the_oldest_idle_connection_makes_room_and_one_that_is_answered_does_not(make_settings, make_server):
    make_server(4)
    engine = HeldEngine()
    async with running(make_settings(web=True, web_port=0), engine) as (server, stub):
        port = server.web_port
        assert (await asyncio.to_thread(predict, port, "park")).code == 200
        await until(lambda: sample(server, "headlines_connections", port="web") == 0)
        held = asyncio.ensure_future(asyncio.to_thread(predict, port, "park", grpc_timeout="100S"))
        await engine.hold()
        with ExitStack() as stack:
            idle = [stack.enter_context(connect(port)) for _ in range(3)]
            await until(lambda: sample(server, "headlines_connections", port="web") == 4)
            assert (await asyncio.to_thread(ask, port, "GET", "/v1/model")).code == 200
            assert await asyncio.to_thread(rest, idle[0]) == b""
            many = await asyncio.to_thread(lambda: [stack.enter_context(connect(port)) for _ in range(60)])
            assert (await asyncio.to_thread(ask, port, "GET", "/v1/model")).code == 200
            assert (await stub.GetModel(pb.GetModelRequest())).version == 1
            assert sample(server, "headlines_connections", port="web") <= 4
            engine.go.set()
            assert (await held).code == 200
        assert len(many) == 60


async def test_when_all_are_being_answered_the_next_ones_wait(make_settings, make_server):
    make_server(4)
    engine = HeldEngine()
    async with running(make_settings(web=True, web_port=0), engine) as (server, _):
        assert (await asyncio.to_thread(predict, server.web_port, "park")).code == 200
        engine.go.clear()
        asked = [asyncio.ensure_future(asyncio.to_thread(predict, server.web_port, "park")) for _ in range(8)]
        await until(lambda: server._gate.in_flight == 4)
        engine.go.set()
        assert [(await it).code for it in asked] == [200] * 8


async def test_bodies_that_do_not_come_make_room(make_settings, make_server):
    make_server(4)
    async with running(make_settings(web=True, web_port=0)) as (server, _):
        assert (await asyncio.to_thread(predict, server.web_port, "park")).code == 200
        with ExitStack() as stack:
            slow = [stack.enter_context(connect(server.web_port)) for _ in range(12)]
            for connection in slow:
                connection.sendall(head(1000) + b"x")
            assert (await asyncio.to_thread(predict, server.web_port, "park")).code == 200


@pytest.mark.parametrize("length", ["9" * 11, "9" * 5000, "-1", "1.0", "0x10", "٣"])
async def test_a_length_that_is_none_or_huge_is_refused(make_settings, length):
    async with running(make_settings(web=True, web_port=0)) as (server, _):

        def send():
            with connect(server.web_port) as connection:
                connection.sendall(head(0).replace(b"Length: 0", b"Length: " + length.encode()))
                return rest(connection)

        assert (await asyncio.to_thread(send)).split()[1] in {b"400", b"413"}


async def test_large_bodies_share_their_memory_and_small_ones_pass(make_settings, monkeypatch):
    monkeypatch.setattr(app, "_BODY_MEMORY_BYTES", 900_000)
    async with running(make_settings(web=True, web_port=0)) as (server, _):
        assert (await asyncio.to_thread(predict, server.web_port, "park")).code == 200
        with connect(server.web_port) as large:
            await asyncio.to_thread(large.sendall, head(1_000_000) + b"x" * 600_000)
            await asyncio.sleep(0.05)

            def second():
                return ask(server.web_port, "POST", "/v1/predict", b"x" * 700_000)

            async with asyncio.timeout(60):
                while (refused := await asyncio.to_thread(second)).code != 429:
                    assert refused.code == 400  # the first has not arrived yet
            assert refused.headers["retry-after"] == "1"
            assert (await asyncio.to_thread(predict, server.web_port, "park")).code == 200
        async with asyncio.timeout(60):
            while (await asyncio.to_thread(second)).code != 400:  # not JSON, but read
                await asyncio.sleep(0.01)
