"""A Ray cluster of several nodes on this machine, each in a network namespace of its own: they share its disk, not its network.

Needs root and `ip`. Whatever becomes of a test, the next cluster removes what the one before has left.
"""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

PREFIX = "headlines-ray"  # of the namespaces and directories that are made here
BRIDGE = "hlray"
SUBNET = "10.213.77"
HEAD = f"{SUBNET}.10:6379"
PATIENCE = 180  # seconds; a busy machine takes long to start Ray
# A node that is lost is missed after two seconds; with Ray's own settings it may take a minute.
HEALTH = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}
ALIVE = """
import sys, time, ray
until = time.monotonic() + float(sys.argv[2])
ray.init(logging_level="error", log_to_driver=False)
while sum(node["Alive"] for node in ray.nodes()) != int(sys.argv[1]):
    assert time.monotonic() < until, ray.nodes()
    time.sleep(0.2)
"""


class Cluster:
    """A cluster that runs. Node 0 is the head, on which drivers run."""

    def __init__(self, python, directory):
        self.temporary = directory  # what Ray writes, a directory for each node
        self.host = f"{SUBNET}.1"  # this machine, as the nodes see it
        self._python = python
        self._nodes = []
        self._environment = {**os.environ, **HEALTH, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
        self._environment.pop("RAY_ADDRESS", None)

    def start_node(self):
        """Start another node with one CPU, without waiting for it."""
        index = len(self._nodes)
        name = f"{PREFIX}-{index}"
        _ip("netns", "add", name)
        _ip("-n", name, "link", "set", "lo", "up")
        _ip("link", "add", f"{BRIDGE}{index}", "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", f"{BRIDGE}{index}", "master", BRIDGE, "up")
        _ip("-n", name, "address", "add", f"{SUBNET}.{10 + index}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")
        role = ["--head", "--port=6379", "--include-dashboard=false"] if index == 0 else [f"--address={HEAD}"]
        directory = self.temporary / str(index)
        directory.mkdir()
        command = [self._python, "-m", "ray.scripts.scripts", "start", "--block", *role, "--num-cpus=1"]
        command += [f"--node-ip-address={SUBNET}.{10 + index}", "--object-store-memory=80000000", f"--temp-dir={directory}"]
        with (self.temporary / f"{index}.log").open("wb") as log:
            node = subprocess.Popen(
                _inside(name, command), stdout=log, stderr=log, env=self._environment, start_new_session=True
            )
        self._nodes.append(node)

    def start(self, command, **options):
        """Start a command on the head."""
        environment = {**self._environment, "RAY_ADDRESS": HEAD, **options.pop("env", {})}
        return subprocess.Popen(_inside(f"{PREFIX}-0", command), env=environment, **options)

    def wait_for(self, nodes):
        """Wait until so many nodes are alive."""
        command = [self._python, "-c", ALIVE, str(nodes), str(PATIENCE)]
        with self.start(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as waiting:
            said, _ = waiting.communicate(timeout=2 * PATIENCE)
        assert waiting.returncode == 0, said

    def kill(self, index):
        """Kill all processes of a node at once."""
        _kill_all(f"{PREFIX}-{index}")
        self._nodes[index].wait()

    def wait_for_head(self):
        """Wait until the head takes connections; other nodes give up on one that does not."""
        host, port = HEAD.split(":")
        script = f"import socket; socket.create_connection(({host!r}, {port}), 1)"
        until = time.monotonic() + PATIENCE
        while subprocess.run(_inside(f"{PREFIX}-0", [self._python, "-c", script]), capture_output=True, check=False).returncode:
            assert self._nodes[0].poll() is None, (self.temporary / "0.log").read_text()
            assert time.monotonic() < until
            time.sleep(0.2)

    def stop(self):
        """Kill all nodes."""
        for index in range(len(self._nodes)):
            self.kill(index)


@contextmanager
def cluster(python, nodes):
    """A cluster of so many nodes, whose environment has Ray."""
    _remove()
    with ExitStack() as stack:
        stack.callback(_remove)
        # Ray makes sockets below it, whose paths have 107 bytes at most.
        directory = Path(tempfile.mkdtemp(prefix=f"{PREFIX}-", dir="/tmp"))
        _ip("link", "add", BRIDGE, "type", "bridge")
        _ip("address", "add", f"{SUBNET}.1/24", "dev", BRIDGE)
        _ip("link", "set", BRIDGE, "up")
        made = Cluster(python, directory)
        stack.callback(made.stop)
        made.start_node()
        made.wait_for_head()
        for _ in range(nodes - 1):
            made.start_node()
        made.wait_for(nodes)
        yield made


def _remove():
    for namespace in json.loads(_ip("-json", "netns", "list") or "[]"):
        if namespace["name"].startswith(PREFIX):
            _kill_all(namespace["name"])
            _ip("netns", "delete", namespace["name"])
    for link in json.loads(_ip("-json", "link", "show") or "[]"):
        if link["ifname"].startswith(BRIDGE):
            with suppress(RuntimeError):  # a cable goes with its namespace
                _ip("link", "delete", link["ifname"])
    for directory in Path("/tmp").glob(f"{PREFIX}-*"):
        shutil.rmtree(directory, ignore_errors=True)


def _inside(namespace, command):
    return ["ip", "netns", "exec", namespace, *map(str, command)]  # it becomes the command


def _kill_all(namespace):
    until = time.monotonic() + 60
    while pids := _ip("netns", "pids", namespace).split():
        assert time.monotonic() < until
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        time.sleep(0.02)


def _ip(*arguments):
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
