"""1,000 connections to each port that say nothing, against a server that may open 256 files."""

import http.client
import resource
import select
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from harness.certificates import NAME, Authority
from headlines.v1 import popularity_pb2 as pb
from headlines.v1 import popularity_pb2_grpc

REQUEST = pb.PredictRequest(headlines=[pb.Headline(text="City votes on new park")])
SILENT = 1000  # connections to each port
OPEN_FILES = 256
HANDSHAKE_SECONDS = 3
PATIENCE = 60  # seconds


@pytest.fixture
def descriptors():
    """Room in this process for both ends' worth of connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 3 * SILENT + 500
    if 0 <= hard < needed:
        pytest.skip(f"this process may open {hard} files; {needed} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def ask(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request("GET", path)
    response = connection.getresponse()
    answer = response.status, response.read().decode()
    connection.close()
    return answer


def wait_until_closed(connections):
    """Wait until the server has closed them all."""
    left = {it.fileno() for it in connections}
    poll = select.poll()
    for descriptor in left:
        poll.register(descriptor, select.POLLIN)
    deadline = time.monotonic() + PATIENCE
    while left:
        closed = poll.poll(1000 * max(0, deadline - time.monotonic()))
        assert closed, f"{len(left)} connections are still open"
        for descriptor, _ in closed:
            poll.unregister(descriptor)
            left.remove(descriptor)


@pytest.mark.usefixtures("descriptors")
@pytest.mark.parametrize("tls", [False, True])
def test_silent_connections_hinder_neither_probes_nor_calls_and_end(serve, models, tmp_path, tls):
    authority = Authority()
    pair = authority.issue()
    certificate, key = tmp_path / "certificate", tmp_path / "key"
    certificate.write_bytes(pair.certificate)
    key.write_bytes(pair.key)
    flags = ("--tls-certificate", certificate, "--tls-key", key) if tls else ()
    over = Event()
    options = [("grpc.enable_retries", 0), ("grpc.ssl_target_name_override", NAME), ("grpc.use_local_subchannel_pool", 1)]

    def connect():
        if tls:
            return grpc.secure_channel(server.target, grpc.ssl_channel_credentials(authority.certificate), options)
        return grpc.insecure_channel(server.target, options)

    def probe():
        seconds = []
        while not over.wait(0.2):
            began = time.monotonic()
            assert ask(server.http_port, "/healthz")[0] == 200
            seconds.append(time.monotonic() - began)
        return seconds

    def call():
        answered = 0
        while not over.wait(0.01):
            answered += len(stub.Predict(REQUEST, timeout=PATIENCE).predictions)
        return answered

    waits = ("--handshake-seconds", HANDSHAKE_SECONDS)
    with serve(models, "--engine", "litert", *waits, *flags, open_files=OPEN_FILES) as server, ThreadPoolExecutor(2) as pool:
        server.wait_for("serving version 1")
        with connect() as channel:
            stub = popularity_pb2_grpc.PopularityServiceStub(channel)
            stub.Predict(REQUEST)
            probing, calling = pool.submit(probe), pool.submit(call)
            silent = []
            try:
                for _ in range(SILENT):
                    silent += [
                        socket.create_connection(("127.0.0.1", port), PATIENCE)
                        for port in (server.port, server.http_port, server.web_port)
                    ]
                wait_until_closed(silent)
            finally:
                over.set()
                for it in silent:
                    it.close()
            assert max(probing.result()) < 1
            assert calling.result() > 0
        with connect() as channel:  # there is room again
            assert popularity_pb2_grpc.PopularityServiceStub(channel).Predict(REQUEST).predictions
            samples = {
                (sample.name, *sample.labels.values()): sample.value
                for family in text_string_to_metric_families(ask(server.http_port, "/metrics")[1])
                for sample in family.samples
            }
            assert 1 <= samples["headlines_connections", "grpc"] <= 2  # one may not have ended yet
            assert (samples["headlines_connections", "http"], samples["headlines_connections", "web"]) == (1, 0)
            assert sum(samples["headlines_connection_capacity", port] for port in ("grpc", "http", "web")) < OPEN_FILES
            assert samples["process_max_fds",] == OPEN_FILES
