"""Machines that a test may lose: nodes of Ray on this one, each with its own temporary folder, and if wanted with its own network address.

They see the code of this checkout, wherever it is, but nothing that another writes. It needs root.
"""

import itertools
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

RAY = Path(sys.executable).parent / "ray"
_TEMPORARY = "/tmp/ray"  # where Ray writes; all of /tmp would hide a checkout that is there
_IMPATIENT = {  # how soon a node that no longer responds counts as lost; 15 s otherwise
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "4",
}


def can_have_machines() -> bool:
    """Whether this process may make network namespaces and mount file systems."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    return subprocess.run(["unshare", "-m", "-n", "true"], capture_output=True, check=False).returncode == 0


class Machines:
    """A head without CPUs, which is this machine, and `count` machines with a CPU each. Drivers run here and join with `environment`.

    With `own_addresses` all of them, the head too, are on a network of their own.
    """

    def __init__(self, count: int = 2, *, own_addresses: bool) -> None:
        self._network = _Network() if own_addresses else None
        self.address = self._network.head if self._network else "127.0.0.1"
        with socket.socket() as probe:
            probe.bind((self.address, 0))
            port = probe.getsockname()[1]
        self.environment = {"RAY_ADDRESS": f"{self.address}:{port}", "RAY_AUTH_MODE": "disabled"}
        self._nodes: list[_Node] = []
        as_head = ["--head", "--port", str(port), "--num-cpus", "0", "--include-dashboard=false"]
        self._head = _Node([], *as_head, "--node-ip-address", self.address)
        try:
            self._wait_for(0)
            for _ in range(count):
                self.add()
            self._wait_for(count)
        except BaseException:
            self.close()
            raise

    def add(self) -> None:
        """A machine, with a new address if it has one of its own."""
        namespace = self._network.add() if self._network else None
        own_folder = f'mkdir -p {_TEMPORARY} && mount -t tmpfs tmpfs {_TEMPORARY} && export TMPDIR={_TEMPORARY} && exec "$@"'
        inside = [*(namespace.inside if namespace else []), "unshare", "-m", "sh", "-c", own_folder, "sh"]
        address = namespace.address if namespace else self.address
        options = ["--address", self.environment["RAY_ADDRESS"], "--node-ip-address", address, "--num-cpus", "1"]
        self._nodes.append(_Node(inside, *options))

    def replace(self) -> None:
        """Lose the older machine with all that runs on it, and add another."""
        self._nodes.pop(0).lose()
        self.add()

    def processes(self, title: str) -> list[psutil.Process]:
        """The processes of Ray on all machines whose title has these words."""
        found = []
        for process in [child for node in (self._head, *self._nodes) for child in node.processes()]:
            try:
                if title in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def close(self) -> None:
        for node in (*self._nodes, self._head):
            node.lose()
        if self._network:
            self._network.remove()

    def _wait_for(self, count: int) -> None:
        """Until the head knows as many machines."""
        deadline = time.monotonic() + 120
        listing = "import ray; ray.init(log_to_driver=False, logging_level='ERROR'); print(sum(n['Alive'] for n in ray.nodes()))"
        environment = os.environ | self.environment
        while True:
            run = subprocess.run([sys.executable, "-c", listing], env=environment, capture_output=True, text=True, check=False)
            if run.returncode == 0 and int(run.stdout.split()[-1]) > count:
                return
            if time.monotonic() > deadline:
                logs = "\n".join(node.log() for node in (self._head, *self._nodes))
                raise AssertionError(f"the cluster has not got {count} machines: {run.stderr[-2000:]}\n{logs}")
            time.sleep(1)


class _Node:
    """`ray start` with all that it starts."""

    def __init__(self, inside: list[str], *options: str) -> None:
        command = [*inside, str(RAY), "start", *options, "--block", "--disable-usage-stats"]
        environment = os.environ | _IMPATIENT | {"RAY_AUTH_MODE": "disabled"}
        self._output = os.fdopen(os.memfd_create("output"), "w+b")
        self._process = subprocess.Popen(command, env=environment, stdout=self._output, stderr=subprocess.STDOUT)

    def log(self) -> str:
        """The end of what it printed."""
        self._output.seek(0)
        return self._output.read()[-2000:].decode(errors="replace")

    def processes(self) -> list[psutil.Process]:
        try:
            root = psutil.Process(self._process.pid)
            return [*root.children(recursive=True), root]
        except psutil.NoSuchProcess:
            return []

    def lose(self) -> None:
        """As a machine whose power fails."""
        doomed = self.processes()
        for each in doomed:
            try:
                each.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(doomed, timeout=10)
        self._process.wait(timeout=10)
        self._output.close()


class _Network:
    """A bridge between network namespaces, with an address of its own."""

    def __init__(self) -> None:
        number = os.getpid() % 50_000
        self._bridge, self._net = f"nh{number}", f"10.{200 + number // 250 % 50}.{number % 250}"
        self.head = f"{self._net}.1"
        self._numbers, self._namespaces = itertools.count(2), []
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("addr", "add", f"{self.head}/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")

    def add(self) -> "_Namespace":
        self._namespaces.append(_Namespace(self._bridge, f"{self._net}.{next(self._numbers)}"))
        return self._namespaces[-1]

    def remove(self) -> None:
        for namespace in self._namespaces:
            _ip("netns", "del", namespace.name)
        _ip("link", "del", self._bridge)


class _Namespace:
    def __init__(self, bridge: str, address: str) -> None:
        self.address, self.name = address, f"{bridge}-{address.rpartition('.')[2]}"
        self.inside = ["ip", "netns", "exec", self.name]
        outer, inner = f"v{self.name[2:]}", f"w{self.name[2:]}"
        _ip("netns", "add", self.name)
        _ip("link", "add", outer, "type", "veth", "peer", "name", inner)
        _ip("link", "set", outer, "master", bridge, "up")
        _ip("link", "set", inner, "netns", self.name)
        _ip("-n", self.name, "addr", "add", f"{address}/24", "dev", inner)
        _ip("-n", self.name, "link", "set", inner, "up")
        _ip("-n", self.name, "link", "set", "lo", "up")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
