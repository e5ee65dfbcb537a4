"""GC where the records are lost: what the kernel itself says about whose something is."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import cni
from tests.cni import Config, Endpoint
from tests.iproute import HOST, Netns, Snapshot, run
from tests.kernel.test_firewall import mapping, numbered, publishing

MakeEndpoint = Callable[[], Endpoint]
TakeSnapshot = Callable[..., Snapshot]

STATE = Path("/run/cnm")
PORTS = (
    mapping(8001, 80, "tcp"),
    mapping(8001, 80, "udp"),
    mapping(8002, 80, "tcp", "127.0.0.1"),
    mapping(8002, 80, "udp", "2001:db8::1"),
)


@pytest.fixture
def plugin() -> str:
    """Always the bridge plugin."""
    return "bridge"


@pytest.fixture
def blue(config: Config) -> Config:
    """A network whose endpoints have all that the kernel may have of them."""
    subnets = cni.host_local("10.1.0.0/24", "fd00:1::/64")
    return config | {
        "isDefaultGateway": True,
        "ipMasq": True,
        "macspoofchk": True,
        "portIsolation": True,
        "ipam": subnets,
    }


def shifted(by: int) -> tuple[Config, ...]:
    """The published ports, others for each endpoint."""
    return tuple(each | {"hostPort": each["hostPort"] + by} for each in PORTS)


def owners() -> set[str]:
    """The comments of all elements that are there for an endpoint."""
    listed: list[dict[str, Any]] = json.loads(run("nft", "-j", "list", "ruleset"))["nftables"]
    maps = [
        each
        for entry in listed
        for each in entry.values()
        if each.get("name") in ("ports", "address_ports", "sources", "checked")
    ]
    found = set()
    for each in maps:
        for element in each.get("elem", []):
            key = element[0] if isinstance(element, list) else element
            found.add(key["elem"]["comment"])
    return found


def owner(network: str, endpoint: Endpoint) -> str:
    """The comment of an endpoint's elements."""
    return f"{network} {endpoint.container_id}:{endpoint.ifname}"


def lose_records() -> None:
    """What a full disk, or somebody who cleans up /run, does."""
    for directory in STATE.iterdir():
        shutil.rmtree(directory)


def test_all_records_lost(
    endpoint: MakeEndpoint, blue: Config, snapshot: TakeSnapshot, netns: Callable[[], Netns]
) -> None:
    """Host ends, ports and source checks of what is not valid go; the valid ones' stay."""
    valid = endpoint()
    config = publishing(blue, *shifted(0))
    result = valid.add(config)
    before = snapshot(valid.netns)
    stale = [endpoint() for _ in range(3)]
    for number, each in enumerate(stale, 1):
        each.add(publishing(blue, *shifted(10 * number)))
    run("ip", "netns", "delete", stale[0].netns.name)
    assert owners() == {owner("blue", each) for each in (valid, *stale)}
    for record in STATE.glob("blue/*:*"):
        if not record.name.startswith(valid.container_id):
            record.unlink()
    valid.call("GC", cni.collected(blue, valid)).silent()
    assert owners() == {owner("blue", valid)}
    assert snapshot(valid.netns) == before
    assert all("eth0" not in each.netns.links() for each in stale[1:])
    valid.check(config, result).silent()


def test_valid_ones_without_a_record(endpoint: MakeEndpoint, blue: Config) -> None:
    """What the runtime calls valid stays, though its record is lost like the others'."""
    valid, stale = endpoint(), endpoint()
    valid.add(publishing(blue, *shifted(0)))
    stale.add(publishing(blue, *shifted(10)))
    lose_records()
    valid.call("GC", cni.collected(blue, valid)).silent()
    assert owners() == {owner("blue", valid)}
    assert valid.netns.link("eth0")["operstate"] == "UP"
    assert len(HOST.ports("blue0")) == 1


def test_others_stay(
    endpoint: MakeEndpoint, blue: Config, snapshot: TakeSnapshot, netns: Callable[[], Netns]
) -> None:
    """Another network's endpoints, and links on the bridge that do not say that they are ours."""
    other, stale = endpoint(), endpoint()
    other.add(publishing(numbered(blue, "blue2", 2), *shifted(0)))
    stale.add(publishing(blue, *shifted(10)))
    for index, alias in enumerate(("", "cnm blue", "cnm bluex:eth0", "blue x:eth0")):
        name = f"veth0000000{index}"
        HOST.ip("link", "add", name, "type", "veth", "peer", "name", f"peer{index}")
        HOST.ip("link", "set", name, "master", "blue0")
        if alias:
            HOST.ip("link", "set", name, "alias", alias)
    HOST.ip("link", "add", "other0", "type", "bridge")
    HOST.ip("link", "set", "other0", "alias", "cnm blue x:eth0")
    before = snapshot(other.netns).links[other.netns.name], set(HOST.links())
    lose_records()
    gone = set(HOST.ports("blue0")) - {f"veth0000000{index}" for index in range(4)}
    stale.call("GC", cni.collected(blue)).silent()
    assert owners() == {owner("blue2", other)}
    assert snapshot(other.netns).links[other.netns.name] == before[0]
    assert set(HOST.links()) == before[1] - gone and len(gone) == 1


def test_long_names(endpoint: MakeEndpoint, blue: Config) -> None:
    """Comments and aliases have room for a part of a long name: in doubt nothing goes."""
    config = blue | {"name": "n" * 60, "isDefaultGateway": False}
    eth0 = endpoint()
    valid = Endpoint(eth0.binary, eth0.path, "c" * 120, eth0.netns)
    stale = valid.other("net1")
    elsewhere = endpoint()
    other = Endpoint(eth0.binary, eth0.path, "d" * 120, elsewhere.netns)
    for number, each in enumerate((valid, stale, other)):
        each.add(publishing(config, *shifted(10 * number)))
    lose_records()
    valid.call("GC", cni.collected(config, valid)).silent()
    assert "net1" not in valid.netns.links()
    assert "eth0" in valid.netns.links()
    assert "eth0" not in other.netns.links()
    assert owners() == {owner(config["name"], valid)[:128]}


@pytest.mark.parametrize("length", [4, 120, 200])
def test_damaged_records_of_long_names(endpoint: MakeEndpoint, blue: Config, length: int) -> None:
    """A DEL whose record is damaged takes from nobody else what looks like its own."""
    config = blue | {"name": "n" * length}
    here, there = endpoint(), endpoint()
    one = Endpoint(here.binary, here.path, "c" * 64, here.netns)
    other = Endpoint(here.binary, here.path, "c" * 63 + "d", there.netns)
    one.add(publishing(config, *shifted(0)))
    ports = publishing(config, *shifted(10))
    result = other.add(ports)
    (STATE / config["name"] / f"{one.container_id}:eth0").write_text("nonsense")
    one.delete(config)
    assert "eth0" not in one.netns.links()
    other.check(ports, result).silent()


def test_udp_flows_of_leftovers(endpoint: MakeEndpoint, blue: Config) -> None:
    """The port is free for the next container, and leads to it."""
    stale, heir = endpoint(), endpoint()
    ports = publishing(blue, *shifted(0))
    stale.add(ports)
    lose_records()
    stale.call("GC", cni.collected(blue)).silent()
    result = heir.add(ports)
    assert owners() == {owner("blue", heir)}
    heir.check(ports, result).silent()


def test_portmap(
    endpoint: MakeEndpoint, blue: Config, executable: Callable[[str], Path], cni_bin: Path
) -> None:
    """The chained plugin collects likewise, and leaves what the bridge has records of."""
    chained, stale = endpoint(), endpoint()
    own = endpoint()
    blue = cni.without(blue, "macspoofchk")
    own.add(publishing(blue, *shifted(0)))
    portmap = executable("portmap")
    for number, each in enumerate((chained, stale), 1):
        config = {"cniVersion": "1.1.0", "name": "blue", "type": "portmap", "snat": True}
        previous = each.add(blue)
        ports = publishing(config, *shifted(10 * number)) | {"prevResult": previous}
        Endpoint(portmap, str(cni_bin), each.container_id, each.netns).add(ports)
    everybody = {owner("blue", each) for each in (own, chained, stale)}
    assert owners() == everybody
    shutil.rmtree(STATE / ".portmap")
    collector = Endpoint(portmap, str(cni_bin), own.container_id, own.netns)
    collector.call("GC", cni.collected(config, chained)).silent()
    assert owners() == everybody  # those of the bridge have records, and are its own to collect
    shutil.rmtree(STATE / "blue")
    collector.call("GC", cni.collected(config, chained)).silent()
    assert owners() == {owner("blue", chained)}
