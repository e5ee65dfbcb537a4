"""podman with CNI networks: run, ports, several networks, connect and disconnect."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import cni, image
from tests.cni import Config
from tests.commands import Cnm
from tests.iproute import HOST
from tests.podman import Podman
from tests.runtimes.spy import Spy
from tests.runtimes.test_containerd import hostname, left

VERSION = "1.0.0"  # the newest that podman 4.3 takes


def bridge(number: int) -> Config:
    """A dual-stack bridge, as it stands in a list of plugins."""
    return {
        "type": "bridge",
        "bridge": f"blue{number}",
        "isDefaultGateway": number == 0,
        "isGateway": True,
        "ipMasq": True,
        "capabilities": {"portMappings": True, "ips": True, "mac": True},
        "ipam": cni.host_local(f"10.1.{number}.0/24", f"fd00:{number + 1}::/64"),
    }


@pytest.fixture
def spy(cni_bin: Path, tmp_path: Path) -> Spy:
    """Our plugins, with a record of the calls that they get."""
    return Spy.on(cni_bin, tmp_path / "bin")


@pytest.fixture
def podman(spy: Spy, tmp_path: Path) -> Iterator[Podman]:
    """podman with two networks."""
    podman = Podman.set_up(tmp_path / "podman", spy.directory)
    podman.network("blue", bridge(0), version=VERSION)
    podman.network("green", bridge(1), version=VERSION)
    yield podman
    podman.clear()


def test_run(podman: Podman) -> None:
    """Two containers reach each other and the host their ports; nothing is left of them."""
    podman.serve("one", "--network=blue", "--publish=8080:80")
    podman.serve("other", "--network=blue")
    addresses = podman.addresses("one")["blue"]
    assert addresses == ["10.1.0.2", "fd00:1::2"]
    assert [podman.fetch("other", address) for address in addresses] == ["one", "one"]
    assert hostname("127.0.0.1", 8080) == hostname("10.1.0.1", 8080) == "one"
    podman.remove("one", "other")
    assert left() == []


def test_what_is_asked_for(podman: Podman) -> None:
    """An address and a MAC that the command line names."""
    podman.serve("one", "--network=blue:ip=10.1.0.77,mac=02:42:0a:01:00:4d")
    assert podman.addresses("one")["blue"][0] == "10.1.0.77"
    (found,) = json.loads(podman.run("inspect", "one"))
    assert found["NetworkSettings"]["Networks"]["blue"]["MacAddress"] == "02:42:0a:01:00:4d"
    podman.remove("one")


def test_networks(podman: Podman) -> None:
    """`network ls` and `inspect` know ours."""
    listed = json.loads(podman.run("network", "ls", "--format=json"))
    assert {each["name"]: each["driver"] for each in listed if each["name"] != "podman"} == {
        "blue": "bridge",
        "green": "bridge",
    }
    (blue,) = json.loads(podman.run("network", "inspect", "blue"))
    assert blue["network_interface"] == "blue0"
    assert [each["subnet"] for each in blue["subnets"]] == ["10.1.0.0/24", "fd00:1::/64"]


def test_two_networks(podman: Podman) -> None:
    """A container on two networks is reached on both."""
    podman.serve("one", "--network=blue,green")
    podman.serve("near", "--network=blue")
    podman.serve("far", "--network=green")
    addresses = podman.addresses("one")
    assert podman.fetch("near", addresses["blue"][0]) == "one"
    assert podman.fetch("far", addresses["green"][1]) == "one"
    podman.remove("one", "near", "far")
    assert not HOST.ports("blue1")
    assert left() == []


def test_connect_and_disconnect(podman: Podman) -> None:
    """A running container joins another network, and leaves it."""
    podman.serve("one", "--network=blue")
    podman.serve("far", "--network=green")
    podman.run("network", "connect", "green", "one")
    address = podman.addresses("one")["green"][0]
    assert podman.fetch("far", address) == "one"
    podman.run("network", "disconnect", "green", "one")
    assert "green" not in podman.addresses("one")
    assert len(HOST.ports("blue1")) == 1
    podman.remove("one", "far")
    assert left() == []


def test_calls(podman: Podman, spy: Spy) -> None:
    """What it calls: VERSION of every plugin of every network, ADD, and DEL once."""
    podman.serve("one", "--network=blue")
    podman.run("restart", "--time=0", "one")
    podman.remove("one")
    commands = spy.commands()["bridge"]
    assert [each for each in commands if each != "VERSION"] == ["ADD", "DEL", "ADD", "DEL"]
    assert commands.count("VERSION") >= 2


def test_a_network_of_cnm(podman: Podman, cnm: Cnm) -> None:
    """A network that `cnm network create` made is one to podman."""
    cnm.run("network", "create", "--subnet", "10.1.2.0/24", "red")
    shutil.copy(cnm.networks / "90-red.conflist", podman.networks)
    podman.serve("one", "--network=red", "--publish=8080:80")
    assert podman.addresses("one") == {"red": ["10.1.2.2"]}
    assert hostname("127.0.0.1", 8080) == "one"


def test_newest_version(podman: Podman) -> None:
    """A network of CNI 1.1.0: podman 4.3 refuses the result, and nothing is left of it."""
    podman.network("blue", bridge(0), version="1.1.0")
    done = podman.call("run", "--pull=never", "--network=blue", image.NAME)
    assert 'unsupported CNI result version "1.1.0"' in done.stderr
    assert left() == []
