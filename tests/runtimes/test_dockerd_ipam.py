"""One IPAM driver's process that serves a real dockerd and our plugin at once."""

import json
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import cni
from tests.cni import Endpoint
from tests.remote_ipam import Driver

MakeEndpoint = Callable[[], Endpoint]
BUSYBOX = Path("/bin/busybox")
PATIENCE = 60  # seconds until dockerd counts as hanging


@dataclass(frozen=True)
class Docker:
    """Docker's command line with a daemon of our own."""

    socket: Path
    home: Path

    def call(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run a command."""
        return subprocess.run(
            ["/usr/bin/docker", "--host", f"unix://{self.socket}", *words],
            env={"PATH": cni.SEARCH_PATH, "HOME": str(self.home)},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def run(self, *words: str) -> str:
        """The output of a command, which must succeed."""
        done = self.call(*words)
        assert done.returncode == 0, done
        return done.stdout.strip()

    def start(self, name: str, network: str) -> None:
        """Start a container that does nothing."""
        command = ("busybox", "/bin/busybox", "sleep", "1000")
        self.run("run", "--detach", "--name", name, "--network", network, *command)

    def network(self, name: str) -> dict[str, Any]:
        """What there is to say about a network."""
        (network,) = json.loads(self.run("network", "inspect", name))
        assert isinstance(network, dict)
        return network

    def addresses(self, name: str) -> list[str]:
        """The addresses of a network's containers."""
        containers = self.network(name)["Containers"].values()
        return [each["IPv4Address"].partition("/")[0] for each in containers]


@pytest.fixture
def docker(docker_plugins: Path, tmp_path: Path) -> Iterator[Docker]:
    """A dockerd with an image of busybox, in the namespaces of the test."""
    socket = tmp_path / "docker.sock"
    command = [
        "unshare", "--mount", "--propagation", "private",
        "/usr/sbin/dockerd", "--host", f"unix://{socket}", "--bridge", "none",
        "--data-root", str(tmp_path / "data"), "--exec-root", str(tmp_path / "exec"),
        "--pidfile", str(tmp_path / "pid"), "--storage-driver", "vfs",
    ]  # fmt: skip
    log = tmp_path / "dockerd.log"
    environment = {"PATH": cni.SEARCH_PATH, "HOME": str(tmp_path)}
    with log.open("wb") as output:
        daemon = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    client = Docker(socket, tmp_path)
    try:
        deadline = time.monotonic() + PATIENCE
        while client.call("version").returncode:
            assert daemon.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        image = tmp_path / "image.tar"
        with tarfile.open(image, "w") as archive:
            archive.add(BUSYBOX, "bin/busybox")
        client.run("import", str(image), "busybox")
        yield client
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(PATIENCE)


@pytest.fixture
def driver(docker_plugins: Path, tmp_path: Path) -> Iterator[Driver]:
    """A driver named custom, which both find by its socket."""
    driver = Driver(f"{docker_plugins}/custom.sock", tmp_path / "custom")
    driver.start()
    yield driver
    driver.stop()


def test_one_driver_for_both(docker: Docker, driver: Driver, endpoint: MakeEndpoint) -> None:
    """dockerd and we use it at once: no pool and no address is given twice, all come back."""
    blue = cni.network(ipam={"type": "remote", "driver": "custom"})
    ours = [endpoint() for _ in range(6)]
    first = ours[0].add(blue)
    docker.run("network", "create", "--ipam-driver", "custom", "green")
    names = [f"c{number}" for number in range(4)]
    with ThreadPoolExecutor(10) as pool:
        started = [pool.submit(docker.start, name, "green") for name in names]
        results = [first, *pool.map(lambda each: each.add(blue), ours[1:])]
        for each in started:
            each.result()
    mine = [address for result in results for address in cni.addresses(result)]
    theirs = docker.addresses("green")
    (config,) = docker.network("green")["IPAM"]["Config"]
    gateways = [first["ips"][0]["gateway"], config["Gateway"].partition("/")[0]]
    assert (len(mine), len(theirs)) == (6, 4)
    assert driver.held() == sorted(mine + theirs + gateways)
    assert len(set(driver.held())) == 12
    assert driver.pools() == ["10.90.0.0/24", config["Subnet"]]
    _each_sees_the_other(docker, ours[0], config["Subnet"])
    docker.run("rm", "--force", *names)
    for each in ours:
        each.delete(blue)
    docker.run("network", "rm", "green")
    assert driver.held() == driver.pools() == []


def _each_sees_the_other(docker: Docker, eth0: Endpoint, subnet: str) -> None:
    """A pool of one is taken for the other, in the driver's words."""
    words = "Pool overlaps with other one on this address space"
    create = ("network", "create", "--ipam-driver", "custom")
    taken = docker.call(*create, "--subnet", "10.90.0.0/24", "x")
    assert taken.returncode and words in taken.stderr
    red = cni.network(name="red", bridge="red0", ipam={"type": "custom", "subnet": subnet})
    assert words in eth0.other("eth1").call("ADD", red).error()["msg"]
