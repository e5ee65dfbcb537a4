"""VLANs of bridge ports: membership, traffic, gateways, CHECK, and what DEL leaves."""

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cnm_core.drivers.bridge import Bridge
from cnm_core.model import Network
from tests import cni
from tests.cni import INVALID_CONFIG, PLUGIN_SPECIFIC, Config, Endpoint
from tests.iproute import HOST, Netns, Snapshot, run

MakeEndpoint = Callable[[], Endpoint]
TakeSnapshot = Callable[..., Snapshot]

BRIDGE = "blue0"
GO_PLUGINS = "/usr/lib/cni"
KILLS = 10
FOREIGN = "02:00:00:00:00:77"


@pytest.fixture
def plugin() -> str:
    """Always the bridge plugin."""
    return "bridge"


@pytest.fixture
def layer2(config: Config) -> Config:
    """A network without addresses."""
    return cni.without(config, "ipam", "isGateway")


def _in_vlan(config: Config, vid: int, **members: Any) -> Config:
    """A network of its own in a VLAN of the bridge, with its gateway there."""
    own = {"name": f"vlan{vid}", "vlan": vid, "ipam": cni.host_local(f"10.{vid}.0.0/24")}
    return config | own | members


def _host_end(result: Config) -> str:
    name: str = result["interfaces"][1]["name"]
    return name


def _members(link: str) -> dict[int, list[str]]:
    """The VLANs of a bridge or port, with their flags."""
    (listed,) = json.loads(run("bridge", "-j", "vlan", "show", "dev", link)) or [{"vlans": []}]
    return {
        vid: each.get("flags", [])
        for each in listed["vlans"]
        for vid in range(each["vlan"], each.get("vlanEnd", each["vlan"]) + 1)
    }


def _filters(bridge: str = BRIDGE) -> bool:
    return HOST.link(bridge)["linkinfo"]["info_data"]["vlan_filtering"] == 1


def _address(netns: Netns, number: int, link: str = "eth0", subnet: int = 7) -> None:
    netns.ip("addr", "add", f"10.{subnet}.0.{number}/24", "dev", link)


def _tagged(netns: Netns, vid: int, number: int) -> None:
    """A VLAN link inside, with the address 10.VID.0.NUMBER."""
    name = f"eth0.{vid}"
    netns.ip("link", "add", "link", "eth0", "name", name, "up", "type", "vlan", "id", str(vid))
    _address(netns, number, name, vid)


BOTH = ["PVID", "Egress Untagged"]
MEMBERSHIPS: list[tuple[Config, dict[int, list[str]]]] = [
    ({"vlan": 10}, {10: BOTH}),
    ({"vlan": 1}, {1: BOTH}),
    ({"vlan": 10, "preserveDefaultVlan": True}, {1: ["Egress Untagged"], 10: BOTH}),
    ({"vlanTrunk": [{"id": 10}]}, {1: BOTH, 10: []}),
    ({"vlanTrunk": [{"id": 1}, {"id": 4094}]}, {1: BOTH, 4094: []}),
    (
        {"vlan": 10, "vlanTrunk": [{"minID": 9, "maxID": 12}, {"id": 30}]},
        {9: [], 10: BOTH, 11: [], 12: [], 30: []},
    ),
    (
        {"vlan": 10, "vlanTrunk": [{"minID": 20, "maxID": 21, "id": 30}]},
        {10: BOTH, 20: [], 21: [], 30: []},
    ),
    (
        {"vlan": 10, "vlanTrunk": [{"id": 20}], "preserveDefaultVlan": True},
        {1: ["Egress Untagged"], 10: BOTH, 20: []},
    ),
    (
        {"vlanTrunk": [{"minID": 1, "maxID": 4094}]},
        {1: BOTH} | {vid: [] for vid in range(2, 4095)},
    ),
]


@pytest.mark.parametrize(("members", "expected"), MEMBERSHIPS, ids=str)
def test_membership(
    endpoint: MakeEndpoint, layer2: Config, members: Config, expected: dict[int, list[str]]
) -> None:
    """A port is in the VLANs that are asked for, and CHECK agrees."""
    eth0 = endpoint()
    result = eth0.add(layer2 | members)
    assert _filters()
    assert _members(_host_end(result)) == expected
    eth0.check(layer2 | members, result).silent()


@pytest.mark.parametrize("members", [{}, {"vlan": 0}, {"vlanTrunk": []}], ids=str)
def test_without_vlans(endpoint: MakeEndpoint, layer2: Config, members: Config) -> None:
    """A bridge that nobody asks to does not filter; its ports are in its default VLAN."""
    result = endpoint().add(layer2 | members)
    assert not _filters()
    assert _members(_host_end(result)) == {1: BOTH}


# --- traffic


def test_two_vlans(endpoint: MakeEndpoint, layer2: Config) -> None:
    """Containers of one VLAN reach each other, and none of another VLAN."""
    one, same, other, none = (endpoint() for _ in range(4))
    for number, (each, vid) in enumerate(((one, 10), (same, 10), (other, 20), (none, 0)), 1):
        each.add(layer2 | {"vlan": vid})
        _address(each.netns, number)
    assert one.netns.reaches("10.7.0.2", seconds=cni.PATIENCE)
    assert not one.netns.reaches("10.7.0.3", seconds=1)
    assert not one.netns.reaches("10.7.0.4", seconds=1)
    assert not other.netns.reaches("10.7.0.4", seconds=1)


def test_trunk(endpoint: MakeEndpoint, layer2: Config) -> None:
    """A trunk passes the tagged frames of its VLANs, untagged ones of VLAN 1, and no others."""
    trunk = layer2 | {"vlanTrunk": [{"id": 10}, {"minID": 20, "maxID": 22}]}
    one, other = endpoint(), endpoint()
    for number, each in enumerate((one, other), 1):
        each.add(trunk)
        _address(each.netns, number)
        for vid in (10, 21, 30):
            _tagged(each.netns, vid, number)
    for subnet in (7, 10, 21):
        assert one.netns.reaches(f"10.{subnet}.0.2", seconds=cni.PATIENCE)
    assert not one.netns.reaches("10.30.0.2", seconds=1)


def test_trunk_and_access(endpoint: MakeEndpoint, layer2: Config) -> None:
    """What a trunk sends with a tag reaches the port that has that VLAN untagged."""
    trunk, access = endpoint(), endpoint()
    trunk.add(layer2 | {"vlan": 20, "vlanTrunk": [{"id": 10}]})
    access.add(layer2 | {"vlan": 10})
    _tagged(trunk.netns, 10, 1)
    _address(access.netns, 2, subnet=10)
    assert trunk.netns.reaches("10.10.0.2", seconds=cni.PATIENCE)


@pytest.mark.parametrize("preserved", [True, False])
def test_preserve_default_vlan(endpoint: MakeEndpoint, layer2: Config, preserved: bool) -> None:
    """With preserveDefaultVlan a port still gets what VLAN 1 sends, and sends into its own."""
    default, access = endpoint(), endpoint()
    access.add(layer2 | {"vlan": 10, "preserveDefaultVlan": preserved})
    default.add(layer2)
    _address(default.netns, 1)
    with access.netns.entered():
        listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
    with listener:
        listener.settimeout(2)
        assert not default.netns.reaches("10.7.0.2", seconds=1)
        assert _asked_for(listener, "10.7.0.2") is preserved


def _asked_for(listener: socket.socket, address: str) -> bool:
    """Whether an ARP request for an address comes in before the listener's timeout."""
    try:
        while listener.recv(100)[38:42] != socket.inet_aton(address):
            pass
    except TimeoutError:
        return False
    return True


def test_macspoofchk(endpoint: MakeEndpoint, layer2: Config) -> None:
    """A port in VLANs sends from its own MAC address only, with a tag and without."""
    trunk = layer2 | {"vlan": 20, "vlanTrunk": [{"id": 10}], "macspoofchk": True}
    one, other = endpoint(), endpoint()
    results = [each.add(trunk) for each in (one, other)]
    for number, each in enumerate((one, other), 1):
        _address(each.netns, number)
        _tagged(each.netns, 10, number)
    for address in ("10.7.0.2", "10.10.0.2"):
        assert one.netns.reaches(address, seconds=cni.PATIENCE)
    one.netns.ip("link", "set", "eth0.10", "address", FOREIGN)
    assert not one.netns.reaches("10.10.0.2", seconds=1)
    one.netns.ip("link", "set", "eth0", "address", FOREIGN)
    assert not one.netns.reaches("10.7.0.2", seconds=1)
    other.check(trunk, results[1]).silent()


# --- gateways


def test_gateways(endpoint: MakeEndpoint, config: Config) -> None:
    """Each VLAN has its gateway on a link of its own, through which others are reached."""
    default = {"isDefaultGateway": True}
    red, green = _in_vlan(config, 10, **default), _in_vlan(config, 20, **default)
    one, other = endpoint(), endpoint()
    results = [one.add(red), other.add(green)]
    assert HOST.addresses(BRIDGE) == []
    for vid, result in zip((10, 20), results, strict=True):
        gateway = HOST.link(f"{BRIDGE}.{vid}")
        assert HOST.addresses(gateway["ifname"]) == [f"10.{vid}.0.1/24"]
        assert gateway["linkinfo"]["info_data"]["id"] == vid
        told = {"name": gateway["ifname"], "mac": gateway["address"], "mtu": gateway["mtu"]}
        assert result["interfaces"][3] == told
        assert result["ips"][0]["interface"] == 2
    assert _members(BRIDGE) == {1: BOTH, 10: [], 20: []}
    for address in ("10.10.0.1", "10.20.0.1", "10.20.0.2"):
        assert one.netns.reaches(address, seconds=cni.PATIENCE)
    for each, network, result in zip((one, other), (red, green), results, strict=True):
        each.check(network, result).silent()


@pytest.mark.parametrize("members", [{"vlan": 1}, {"vlan": 0, "vlanTrunk": [{"id": 20}]}], ids=str)
def test_gateway_of_vlan_1(endpoint: MakeEndpoint, config: Config, members: Config) -> None:
    """The gateway of what is untagged in VLAN 1 is the bridge."""
    eth0 = endpoint()
    result = eth0.add(config | members)
    assert HOST.addresses(BRIDGE) == ["10.1.0.1/24"]
    assert len(result["interfaces"]) == 3
    assert eth0.netns.reaches("10.1.0.1", seconds=cni.PATIENCE)
    eth0.check(config | members, result).silent()


@pytest.mark.parametrize("filtered", ["0", "1"], ids=["", "br_netfilter"])
def test_firewall(endpoint: MakeEndpoint, config: Config, filtered: str) -> None:
    """Masqueraded networks in VLANs are isolated from each other, and not within themselves.

    With br_netfilter, too, which shows what stays on the bridge to the same rules.
    """
    run("modprobe", "br_netfilter")
    Path("/proc/sys/net/bridge/bridge-nf-call-iptables").write_text(filtered)
    masqueraded = {"isDefaultGateway": True, "ipMasq": True}
    red, green = (_in_vlan(config, vid, **masqueraded) for vid in (10, 20))
    one, same, other = endpoint(), endpoint(), endpoint()
    one.add(red)
    result = same.add(red)
    other.add(green)
    assert one.netns.reaches("10.10.0.3", seconds=cni.PATIENCE)
    assert one.netns.reaches("10.10.0.1", seconds=cni.PATIENCE)
    assert not one.netns.reaches("10.20.0.2", seconds=1)
    same.check(red, result).silent()


def test_gateway_of_the_go_plugin(endpoint: MakeEndpoint, config: Config) -> None:
    """The veth pair that the Go plugin makes for a VLAN's gateway goes on to be it."""
    theirs = _in_vlan(config, 10, cniVersion="1.0.0")
    old, new = endpoint(), endpoint()
    cni.call(
        Path(GO_PLUGINS, "bridge"),
        "ADD",
        theirs,
        container_id=old.container_id,
        netns=old.netns.path,
        ifname="eth0",
        path=GO_PLUGINS,
    ).result()
    result = new.add(theirs)
    assert HOST.link(f"{BRIDGE}.10")["linkinfo"]["info_kind"] == "veth"
    for address in ("10.10.0.1", "10.10.0.2"):
        assert new.netns.reaches(address, seconds=cni.PATIENCE)
    new.check(theirs, result).silent()


def test_kernel_without_vlan_links(endpoint: MakeEndpoint, config: Config) -> None:
    """STATUS and ADD say what a gateway needs of the kernel; without one they do without."""
    eth0 = endpoint()
    program = Path("/proc/sys/kernel/modprobe")
    before = program.read_text()
    run("modprobe", "--remove", "--quiet", "8021q")
    program.write_text("/bin/false")
    try:
        for command in ("STATUS", "ADD"):
            error = eth0.call(command, _in_vlan(config, 10)).error()
            assert "vlan: 10" in error["msg"]
            assert "CONFIG_VLAN_8021Q" in error["details"]
        eth0.add(_in_vlan(config, 10, isGateway=False))
    finally:
        program.write_text(before)
    endpoint().add(_in_vlan(config, 10))


# --- bridges and links that are there


def test_bridge_that_does_not_filter(
    endpoint: MakeEndpoint, snapshot: TakeSnapshot, config: Config
) -> None:
    """Somebody else's bridge is not made to filter; the error says how to."""
    HOST.ip("link", "add", BRIDGE, "up", "type", "bridge")
    eth0 = endpoint()
    before = snapshot(eth0.netns)
    error = eth0.call("ADD", _in_vlan(config, 10)).error(INVALID_CONFIG)
    assert "vlan: 10" in error["msg"]
    assert snapshot(eth0.netns) == before
    run(*error["details"].split())
    eth0.add(_in_vlan(config, 10))


def test_our_bridge_begins_to_filter(endpoint: MakeEndpoint, config: Config) -> None:
    """A bridge of ours begins to filter when a network asks for it; its other ports go on."""
    plain, other, vlan = endpoint(), endpoint(), endpoint()
    plain.add(config)
    other.add(config)
    vlan.add(_in_vlan(config, 10))
    assert _filters()
    assert plain.netns.reaches("10.1.0.3", seconds=cni.PATIENCE)
    assert plain.netns.reaches("10.1.0.1", seconds=cni.PATIENCE)
    assert vlan.netns.reaches("10.10.0.1", seconds=cni.PATIENCE)


def test_gateway_link_taken(endpoint: MakeEndpoint, snapshot: TakeSnapshot, config: Config) -> None:
    """Another link of the gateway's name is an error, and stays as it is."""
    endpoint().add(config)
    HOST.ip("link", "add", f"{BRIDGE}.10", "type", "dummy")
    eth0 = endpoint()
    before = snapshot(eth0.netns)
    error = eth0.call("ADD", _in_vlan(config, 10)).error(INVALID_CONFIG)
    assert f"{BRIDGE}.10" in error["msg"]
    assert snapshot(eth0.netns).links == before.links


def test_other_default_vlan(
    endpoint: MakeEndpoint, snapshot: TakeSnapshot, config: Config, layer2: Config
) -> None:
    """A bridge whose default VLAN is not 1 has ports in VLANs, and no gateways in that one."""
    with_default = "type bridge vlan_filtering 1 vlan_default_pvid 10"
    HOST.ip("link", "add", BRIDGE, "up", *with_default.split())
    assert _members(_host_end(endpoint().add(layer2 | {"vlan": 20}))) == {20: BOTH}
    assert _members(_host_end(endpoint().add(layer2 | {"vlan": 10}))) == {10: BOTH}
    eth0 = endpoint()
    before = snapshot(eth0.netns)
    for vid in (1, 10):
        error = eth0.call("ADD", _in_vlan(config, vid)).error(INVALID_CONFIG)
        assert f"vlan: {vid}" in error["msg"]
    assert snapshot(eth0.netns) == before
    eth0.add(_in_vlan(config, 20))
    assert eth0.netns.reaches("10.20.0.1", seconds=cni.PATIENCE)


# --- CHECK, DEL and what a kill leaves


DRIFTS: dict[str, tuple[str, str]] = {
    "VLAN gone": ("bridge vlan del dev {port} vid 10", "10 PVID untagged, found none"),
    "VLAN added": ("bridge vlan add dev {port} vid 30", "found 10 PVID untagged, 30"),
    "tagged": ("bridge vlan add dev {port} vid 10", "10 PVID untagged, found 10"),
    "no filtering": ("ip link set blue0 type bridge vlan_filtering 0", "filtering of bridge blue0"),
    "bridge out": ("bridge vlan del dev blue0 vid 10 self", "VLANs of bridge blue0 itself"),
    "gateway gone": ("ip link delete blue0.10", "blue0.10"),
    "gateway down": ("ip link set blue0.10 down", "blue0.10"),
    "address gone": ("ip addr flush dev blue0.10", "10.10.0.1/24, found no address"),
}


@pytest.mark.parametrize("drift", DRIFTS)
def test_drift(endpoint: MakeEndpoint, config: Config, drift: str) -> None:
    """CHECK says what was expected and what was found; another ADD repairs what is shared."""
    command, told = DRIFTS[drift]
    eth0 = endpoint()
    network = _in_vlan(config, 10)
    result = eth0.add(network)
    run(*command.format(port=_host_end(result)).split())
    assert told in eth0.check(network, result).error(PLUGIN_SPECIFIC)["msg"]
    eth0.delete(network, result)
    eth0.check(network, eth0.add(network)).silent()
    assert eth0.netns.reaches("10.10.0.1", seconds=cni.PATIENCE)


def test_delete(endpoint: MakeEndpoint, snapshot: TakeSnapshot, config: Config) -> None:
    """DEL leaves nothing of an endpoint; GC neither."""
    trunk = {"vlanTrunk": [{"minID": 20, "maxID": 40}], "ipMasq": True, "macspoofchk": True}
    network = _in_vlan(config, 10, **trunk)
    first, eth0 = endpoint(), endpoint()
    result = first.add(network)  # bridge and gateway stay
    before = snapshot(eth0.netns)
    members = run("bridge", "vlan", "show")
    eth0.add(network)
    assert snapshot(eth0.netns) != before
    eth0.delete(network)
    eth0.delete(network)
    assert snapshot(eth0.netns) == before
    assert run("bridge", "vlan", "show") == members
    eth0.add(network)
    endpoint().add(network)
    first.call("GC", cni.collected(network, first)).silent()
    assert HOST.ports(BRIDGE) == [_host_end(result)]


@pytest.mark.parametrize("ours", [True, False])
def test_delete_network(endpoint: MakeEndpoint, config: Config, ours: bool) -> None:
    """A network takes the gateway's link along; the bridge only where it made that, too."""
    if not ours:
        HOST.ip("link", "add", BRIDGE, "up", "type", "bridge", "vlan_filtering", "1")
    network = _in_vlan(config, 10)
    eth0 = endpoint()
    eth0.delete(network, eth0.add(network))
    assert f"{BRIDGE}.10" in HOST.links()
    for _ in range(2):
        Bridge().delete_network(Network("vlan10", options=Bridge.options(network)))
        if ours:
            assert HOST.links().keys() == {"lo"}
        else:
            assert HOST.links().keys() == {"lo", BRIDGE}
            assert _members(BRIDGE) == {1: BOTH}


def test_killed_add(endpoint: MakeEndpoint, config: Config) -> None:
    """Whatever an ADD has done when it is killed, DEL and another ADD make good."""
    network = _in_vlan(config, 10, vlanTrunk=[{"minID": 20, "maxID": 40}], isDefaultGateway=True)
    eth0 = endpoint()
    eth0.delete(network, eth0.add(network))
    begin = time.monotonic()
    eth0.delete(network, eth0.add(network))
    once = time.monotonic() - begin
    for step in range(KILLS):
        if step % 2:  # bridge and gateway are made anew
            HOST.ip("link", "delete", BRIDGE)
        eth0.kill("ADD", network, once * step / KILLS)
        eth0.delete(network)
        eth0.check(network, eth0.add(network)).silent()
        eth0.delete(network)
        assert eth0.netns.links().keys() == {"lo"}
        assert HOST.links().keys() == {"lo", BRIDGE, f"{BRIDGE}.10"}
    assert not cni.leases("vlan10")
