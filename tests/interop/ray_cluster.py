"""A Ray cluster of several nodes on this machine, each in Linux namespaces of its own.

The nodes share files and processors, but no network, process or shared memory. Nothing has to be cleaned up: the namespaces
have no names, and the kernel ends a node with the process that started it, even if that is killed.
"""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from harness.process import PATIENCE, ROOT, environment

PYTHON = ROOT / ".tools" / "ray" / "bin" / "python"
TEMPORARY = "/dev/shm/ray"  # of a node; short, because the paths of sockets are
SUBNET = f"10.213.{os.getpid() % 256}"  # which this machine sees of one cluster at most, but there may be others on it
HEAD = f"{SUBNET}.1:6379"

# It says its process id as the machine counts, which /proc shows until it is mounted anew, and waits for the node's network.
_NODE = """set -e
read -r pid _ </proc/self/stat
mount -t proc proc /proc
mount --bind "$1" /dev/shm
[ -z "$2" ] || mount -t tmpfs none "$2"
ip link set lo up
echo "$pid"
read -r _
shift 2
exec "$@" >/dev/shm/output 2>&1 </dev/null
"""

# A node that is lost is noticed after some two seconds instead of sixteen; a slow machine gets longer to start one.
_SETTINGS = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_raylet_start_wait_time_s": "120",
}


def missing():
    """What a cluster needs that is not there; empty if nothing is."""
    if not shutil.which(PYTHON):
        return "Ray is not there: make interop-all"
    if tools := [tool for tool in ("ip", "mount", "nsenter", "setpriv", "unshare") if not shutil.which(tool)]:
        return f"{', '.join(tools)} is not there"
    return "" if os.geteuid() == 0 else "namespaces need root"


def without_ray():
    """The environment of a program that is to know of no cluster."""
    return {name: value for name, value in environment().items() if not name.startswith("RAY_")}


class Node:
    """A node. `connect` gives it a network, then Ray is started with these arguments. `hidden` is an empty directory there."""

    def __init__(self, directory, connect, *arguments, hidden=""):
        directory.mkdir(parents=True)
        self.directory = directory
        alone = ("setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child")
        ray = (PYTHON, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1", "--object-store-memory=80000000")
        with (directory / "namespaces").open("wb") as log:
            self.process = subprocess.Popen(
                [*alone, "sh", "-c", _NODE, "sh", directory, hidden, *ray, f"--temp-dir={TEMPORARY}", *arguments],
                env=without_ray() | _SETTINGS,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self.init = None  # the first of its processes, without which the others cannot be
        try:
            line = self.process.stdout.readline()
            assert line, (directory / "namespaces").read_text()
            self.init = int(line)
            connect(self)
            self.process.stdin.write(b"\n")
            self.process.stdin.flush()
            self._wait(directory / "output")
        except BaseException:
            self.kill()
            raise

    def _wait(self, output):
        until = time.monotonic() + PATIENCE
        while not (output.exists() and "Ray runtime started" in output.read_text()):
            assert self.process.poll() is None, output.read_text()
            assert time.monotonic() < until, output.read_text()
            time.sleep(0.05)

    def inside(self, *command):
        """The command that runs a command in the node; who kills it kills both."""
        target = ("nsenter", "--target", str(self.init), "--net", "--mount", "--pid")
        return [*target, "setpriv", "--pdeathsig", "KILL", *map(str, command)]

    def network(self, *arguments):
        """Run `ip` in the node's network."""
        subprocess.run(["nsenter", "--target", str(self.init), "--net", "ip", *arguments], check=True, timeout=PATIENCE)

    def kill(self):
        """End all its processes with SIGKILL."""
        if self.process.poll() is None:
            os.kill(self.init or self.process.pid, signal.SIGKILL)
        self.process.communicate(timeout=PATIENCE)


class Cluster:
    """A cluster of `nodes` nodes of one CPU each. The first is the head, on which commands run."""

    def __init__(self, directory: Path, nodes=2):
        self.directory = directory
        self.nodes = []
        self._cable = ""  # of this machine
        try:
            self._start(self._make_bridge, "--head", "--port=6379", "--include-dashboard=false", "--disable-usage-stats")
            for _ in range(1, nodes):
                self.add()
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self._cable:  # the kernel may keep a network for minutes, for what it had yet to send to a lost node
            subprocess.run(["ip", "link", "delete", self._cable], check=False, timeout=PATIENCE)
        for node in reversed(self.nodes):
            node.kill()

    def add(self, **others):
        """Join one more node."""
        self._start(self._join, f"--address={HEAD}", **others)

    def lose(self, node):
        """As if it lost its power: it is silent before it ends, so that no connection is closed."""
        self.nodes[node].network("link", "set", "eth0", "down")
        self.nodes[node].kill()

    def command(self, *arguments):
        """The command that runs Python on the head."""
        return self.nodes[0].inside("env", f"RAY_ADDRESS={HEAD}", "RAY_AUTH_MODE=disabled", PYTHON, *arguments)

    def join_this_machine(self):
        """Connect this machine, too, until the cluster ends; its address, as nodes see it."""
        self._cable = f"ray{os.getpid()}"
        self._connect(self._cable, os.getpid())
        for command in (("address", "add", f"{SUBNET}.254/24", "dev", self._cable), ("link", "set", self._cable, "up")):
            subprocess.run(["ip", *command], check=True, timeout=PATIENCE)
        return f"{SUBNET}.254"

    def _start(self, connect, *arguments, **others):
        number = len(self.nodes) + 1
        address = f"--node-ip-address={SUBNET}.{number}"
        self.nodes.append(Node(self.directory / f"node-{number}", connect, *arguments, address, **others))

    def _make_bridge(self, head):
        head.network("link", "add", "bridge", "type", "bridge")
        head.network("address", "add", f"{SUBNET}.1/24", "dev", "bridge")
        head.network("link", "set", "bridge", "up")
        head.network("route", "add", "default", "dev", "bridge")  # Ray looks for the address that leads to the Internet

    def _join(self, node):
        self._connect("eth0", node.init)
        node.network("address", "add", f"{SUBNET}.{len(self.nodes) + 1}/24", "dev", "eth0")
        node.network("link", "set", "eth0", "up")
        node.network("route", "add", "default", "via", f"{SUBNET}.1")

    def _connect(self, name, process):
        """Make a cable from the bridge to the network of a process, where its end has this name."""
        head = self.nodes[0]
        head.network("link", "add", f"to-{process}", "type", "veth", "peer", "name", name, "netns", str(process))
        head.network("link", "set", f"to-{process}", "master", "bridge", "up")
