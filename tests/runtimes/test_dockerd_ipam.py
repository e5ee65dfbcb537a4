"""One IPAM driver's process that serves a real dockerd and our plugin at once."""

import json
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import cni
from tests.cni import Endpoint
from tests.docker import Docker, daemon
from tests.remote_ipam import Driver

MakeEndpoint = Callable[[], Endpoint]
BUSYBOX = Path("/bin/busybox")


@dataclass(frozen=True)
class Networks:
    """Docker's networks and the containers on them."""

    docker: Docker

    def start(self, name: str, network: str) -> None:
        """Start a container that does nothing."""
        command = ("busybox", "/bin/busybox", "sleep", "1000")
        self.docker.run("run", "--detach", "--name", name, "--network", network, *command)

    def network(self, name: str) -> dict[str, Any]:
        """What there is to say about a network."""
        (network,) = json.loads(self.docker.run("network", "inspect", name))
        assert isinstance(network, dict)
        return network

    def addresses(self, name: str) -> list[str]:
        """The addresses of a network's containers."""
        containers = self.network(name)["Containers"].values()
        return [each["IPv4Address"].partition("/")[0] for each in containers]


@pytest.fixture
def docker(docker_plugins: Path, tmp_path: Path) -> Iterator[Docker]:
    """A dockerd with an image of busybox."""
    with daemon(tmp_path) as client:
        image = tmp_path / "image.tar"
        with tarfile.open(image, "w") as archive:
            archive.add(BUSYBOX, "bin/busybox")
        client.run("import", str(image), "busybox")
        yield client


@pytest.fixture
def driver(docker_plugins: Path, tmp_path: Path) -> Iterator[Driver]:
    """A driver named custom, which both find by its socket."""
    driver = Driver(f"{docker_plugins}/custom.sock", tmp_path / "custom")
    driver.start()
    yield driver
    driver.stop()


def test_one_driver_for_both(docker: Docker, driver: Driver, endpoint: MakeEndpoint) -> None:
    """dockerd and we use it at once: no pool and no address is given twice, all come back."""
    networks = Networks(docker)
    ipam = {"type": "remote", "driver": "custom", "timeoutSeconds": cni.PATIENCE}
    blue = cni.network(ipam=ipam)
    ours = [endpoint() for _ in range(6)]
    first = ours[0].add(blue)
    docker.run("network", "create", "--ipam-driver", "custom", "green")
    names = [f"c{number}" for number in range(4)]
    with ThreadPoolExecutor(10) as pool:
        started = [pool.submit(networks.start, name, "green") for name in names]
        results = [first, *pool.map(lambda each: each.add(blue), ours[1:])]
        for each in started:
            each.result()
    mine = [address for result in results for address in cni.addresses(result)]
    theirs = networks.addresses("green")
    (config,) = networks.network("green")["IPAM"]["Config"]
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
