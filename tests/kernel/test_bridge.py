"""The bridge plugin, by what the kernel has after it."""

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from tests import cni
from tests.cni import INVALID_CONFIG, INVALID_ENVIRONMENT, PLUGIN_SPECIFIC, Config, Endpoint
from tests.iproute import HOST, Netns, Snapshot, exchange_by_tcp, run

MakeEndpoint = Callable[[], Endpoint]
TakeSnapshot = Callable[..., Snapshot]

BRIDGE = "blue0"
MACS = [f"02:42:00:00:00:0{number}" for number in (1, 2, 3)]
NET_ADDR_SET = "3"  # include/uapi/linux/netdevice.h
FORWARDING = {4: ("ipv4", "ip_forward"), 6: ("ipv6", "conf", "all", "forwarding")}


@pytest.fixture
def plugin() -> str:
    """Always the bridge plugin."""
    return "bridge"


@pytest.fixture
def dual(config: Config) -> Config:
    """A dual-stack network whose bridge is the gateway."""
    return config | {"ipam": cni.host_local("10.1.0.0/24", "fd00:1::/64")}


@pytest.fixture
def layer2(config: Config) -> Config:
    """A network without addresses."""
    return cni.without(config, "ipam", "isGateway")


def _host_end(result: Config) -> str:
    name: str = result["interfaces"][1]["name"]
    return name


def _port(result: Config) -> dict[str, Any]:
    """The kernel's flags of the endpoint's bridge port."""
    port: dict[str, Any] = HOST.link(_host_end(result))["linkinfo"]["info_slave_data"]
    return port


def _forward(value: str) -> None:
    for path in FORWARDING.values():
        Path("/proc/sys/net", *path).write_text(value)


def _defaults(netns: Netns, family: int) -> list[str]:
    return [each["gateway"] for each in netns.routes(family) if each["dst"] == "default"]


# --- the links


def test_answer_that_is_no_use(endpoint: MakeEndpoint, config: Config) -> None:
    """An ADD whose answer has no room in its version, or cannot be written, leaves no bridge."""
    eth0 = endpoint()
    two = config | {"cniVersion": "0.2.0", "ipam": cni.host_local("10.1.0.0/24", "10.2.0.0/24")}
    assert "0.2.0" in eth0.call("ADD", two).error(INVALID_CONFIG)["msg"]
    with open("/dev/full", "wb") as full:
        assert eth0.call("ADD", config, stdout=full.fileno()).code != 0
    assert HOST.links().keys() == {"lo"}
    assert not cni.leases()


def test_links(endpoint: MakeEndpoint, config: Config) -> None:
    """A bridge, and a veth pair from one of its ports to the container, all up."""
    eth0 = endpoint()
    result = eth0.add(config)
    bridge, host_end = HOST.link(BRIDGE), HOST.link(_host_end(result))
    container_end = eth0.netns.link("eth0")
    assert bridge["linkinfo"]["info_kind"] == "bridge"
    assert host_end["linkinfo"]["info_kind"] == container_end["linkinfo"]["info_kind"] == "veth"
    assert host_end["master"] == BRIDGE
    assert host_end["link_index"] == container_end["ifindex"]
    assert all("UP" in link["flags"] for link in (bridge, host_end, container_end))
    assert HOST.links().keys() == {"lo", BRIDGE, _host_end(result)}
    assert eth0.netns.links().keys() == {"lo", "eth0"}


@pytest.mark.parametrize("version", ["1.0.0", "1.1.0"])
def test_order_of_interfaces(endpoint: MakeEndpoint, config: Config, version: str) -> None:
    """The result has bridge, host end and container end; with MTUs from 1.1.0 on."""
    eth0 = endpoint()
    result = eth0.add(config | {"cniVersion": version, "mtu": 1400})
    links = [HOST.link(BRIDGE), HOST.link(_host_end(result)), eth0.netns.link("eth0")]
    expected = [{"name": link["ifname"], "mac": link["address"]} for link in links]
    expected[2]["sandbox"] = eth0.netns.path
    if version == "1.1.0":
        expected = [each | {"mtu": 1400} for each in expected]
    assert result["interfaces"] == expected


def test_default_name_of_the_bridge(endpoint: MakeEndpoint, config: Config) -> None:
    """Without a name the bridge is cni0."""
    endpoint().add(cni.without(config, "bridge"))
    assert HOST.link("cni0")["linkinfo"]["info_kind"] == "bridge"


def test_a_bridge_that_is_there(endpoint: MakeEndpoint, config: Config) -> None:
    """A bridge of that name is used as it is, and brought up; its MAC stays."""
    HOST.ip("link", "add", BRIDGE, "address", MACS[0], "type", "bridge", "ageing_time", "1000")
    before = HOST.link(BRIDGE)
    eth0 = endpoint()
    eth0.add(config)
    after = HOST.link(BRIDGE)
    assert (after["ifindex"], after["address"]) == (before["ifindex"], MACS[0])
    assert after["linkinfo"]["info_data"]["ageing_time"] == 1000
    assert "UP" in after["flags"]
    eth0.delete(config)
    assert HOST.link(BRIDGE)["ifindex"] == before["ifindex"]


@pytest.mark.parametrize(
    "kind",
    [["veth", "peer", "name", "peer0"], ["vxlan", "id", "1", "dstport", "4789"]],
    ids=["veth", "vxlan"],
)
def test_name_of_the_bridge_taken(
    endpoint: MakeEndpoint, snapshot: TakeSnapshot, config: Config, kind: list[str]
) -> None:
    """A link of that name that is no bridge is an error, and stays as it is."""
    HOST.ip("link", "add", BRIDGE, "type", *kind)
    before = snapshot()
    error = endpoint().call("ADD", config).error(INVALID_CONFIG)
    assert BRIDGE in error["msg"]
    assert snapshot() == before


def test_mac_of_the_bridge_stays(endpoint: MakeEndpoint, layer2: Config) -> None:
    """A bridge does not take the lowest MAC of its ports, which come and go."""
    first = endpoint()
    first.add(layer2)
    mac = HOST.link(BRIDGE)["address"]
    others = [endpoint() for _ in range(4)]
    for each in others:
        each.add(layer2)
        assert HOST.link(BRIDGE)["address"] == mac
    HOST.ip("link", "add", "low", "address", "02:00:00:00:00:01", "type", "veth")
    HOST.ip("link", "set", "low", "master", BRIDGE)
    assert HOST.link(BRIDGE)["address"] == mac
    for each in (first, *others):
        each.delete(layer2)
        assert HOST.link(BRIDGE)["address"] == mac


def test_macs_are_set(endpoint: MakeEndpoint, config: Config) -> None:
    """Every link has the address that it was made with, so that systemd-udev leaves it alone."""
    eth0 = endpoint()
    eth0.add(config)
    assigned = "/sys/class/net/{}/addr_assign_type"
    sandbox = ["ip", "netns", "exec", eth0.netns.name, "cat", assigned.format("eth0")]
    assert run(*sandbox).strip() == NET_ADDR_SET
    run("mount", "-t", "sysfs", "sysfs", "/sys")  # of the test's network namespace
    try:
        for name in (BRIDGE, *HOST.ports(BRIDGE)):
            assert Path(assigned.format(name)).read_text().strip() == NET_ADDR_SET
    finally:
        run("umount", "/sys")


def test_networks_on_one_bridge(endpoint: MakeEndpoint, config: Config) -> None:
    """Several networks may share a bridge."""
    green = config | {"name": "green", "isGateway": False, "ipam": cni.host_local("10.2.0.0/24")}
    one, other = endpoint(), endpoint()
    one.add(config)
    other.add(green)
    assert len(HOST.ports(BRIDGE)) == 2
    one.delete(config)
    assert len(HOST.ports(BRIDGE)) == 1


def test_the_host_is_quiet_about_ipv6(endpoint: MakeEndpoint, dual: Config) -> None:
    """Router advertisements of a container do not configure the host."""
    result = endpoint().add(dual)
    assert HOST.sysctl("ipv6", "conf", BRIDGE, "accept_ra") == "0"
    assert HOST.sysctl("ipv6", "conf", _host_end(result), "disable_ipv6") == "1"


# --- addresses and gateways


def test_is_gateway(endpoint: MakeEndpoint, dual: Config) -> None:
    """isGateway gives the pools' gateways to the bridge and switches forwarding on."""
    _forward("0")
    endpoint().add(dual)
    assert HOST.addresses(BRIDGE) == ["10.1.0.1/24", "fd00:1::1/64"]
    assert [HOST.sysctl(*path) for path in FORWARDING.values()] == ["1", "1"]


@pytest.mark.parametrize(("subnet", "family"), [("10.1.0.0/24", 4), ("fd00:1::/64", 6)])
def test_is_gateway_of_one_family(
    endpoint: MakeEndpoint, config: Config, subnet: str, family: int
) -> None:
    """Forwarding is switched on for the families that the network has."""
    _forward("0")
    endpoint().add(config | {"ipam": cni.host_local(subnet)})
    forwarding = {each: HOST.sysctl(*path) for each, path in FORWARDING.items()}
    assert forwarding == {family: "1", 10 - family: "0"}


def test_no_gateway(endpoint: MakeEndpoint, dual: Config) -> None:
    """Without isGateway the bridge has no address, and nothing is forwarded."""
    _forward("0")
    eth0 = endpoint()
    eth0.add(dual | {"isGateway": False})
    assert HOST.addresses(BRIDGE) == []
    assert [HOST.sysctl(*path) for path in FORWARDING.values()] == ["0", "0"]
    assert not _defaults(eth0.netns, 4)


def test_gateway_from_the_pool(endpoint: MakeEndpoint, config: Config) -> None:
    """The gateway is the one that the pool names."""
    eth0 = endpoint()
    named = cni.changed(config, "ipam.ranges[0][0].gateway", "10.1.0.254")
    eth0.add(named | {"isDefaultGateway": True})
    assert HOST.addresses(BRIDGE) == ["10.1.0.254/24"]
    assert _defaults(eth0.netns, 4) == ["10.1.0.254"]


def test_is_default_gateway(endpoint: MakeEndpoint, dual: Config) -> None:
    """isDefaultGateway implies isGateway, and routes everything through it."""
    eth0 = endpoint()
    result = eth0.add(cni.without(dual, "isGateway") | {"isDefaultGateway": True})
    assert HOST.addresses(BRIDGE) == ["10.1.0.1/24", "fd00:1::1/64"]
    assert _defaults(eth0.netns, 4) == ["10.1.0.1"]
    assert _defaults(eth0.netns, 6) == ["fd00:1::1"]
    assert result["routes"] == [
        {"dst": "0.0.0.0/0", "gw": "10.1.0.1"},
        {"dst": "::/0", "gw": "fd00:1::1"},
    ]


@pytest.mark.parametrize(
    ("ipam", "what"),
    [
        (cni.host_local("10.1.0.5/32"), "10.1.0.5/32"),
        (cni.host_local("fd00:1::5/128"), "fd00:1::5/128"),
        ({"type": "static", "addresses": [{"address": "10.1.0.1/24"}]}, "10.1.0.1/24"),
        (
            {"type": "static", "addresses": [{"address": "10.1.0.9/24", "gateway": "10.1.0.9"}]},
            "10.1.0.9 is its gateway",
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("key", ["isGateway", "isDefaultGateway"])
def test_no_address_for_the_bridge(
    endpoint: MakeEndpoint,
    snapshot: TakeSnapshot,
    config: Config,
    ipam: Config,
    what: str,
    key: str,
) -> None:
    """A gateway needs an address beside the container's."""
    eth0 = endpoint()
    before = snapshot(eth0.netns)
    bad = cni.without(config, "isGateway") | {key: True, "ipam": ipam}
    error = eth0.call("ADD", bad).error(INVALID_CONFIG)
    assert what in error["msg"]
    assert snapshot(eth0.netns) == before
    assert not cni.leases()
    eth0.add(cni.without(bad, key))


@pytest.mark.parametrize(("own", "other"), [("10.1.0.0", "10.1.0.1"), ("10.1.0.1", "10.1.0.0")])
def test_point_to_point(endpoint: MakeEndpoint, config: Config, own: str, other: str) -> None:
    """Of two addresses that are a subnet the bridge has the one that the container has not."""
    eth0 = endpoint()
    ipam = {"type": "static", "addresses": [{"address": f"{own}/31"}]}
    eth0.add(config | {"isDefaultGateway": True, "ipam": ipam})
    assert HOST.addresses(BRIDGE) == [f"{other}/31"]
    assert eth0.netns.reaches(other)


def _advertise(router: Netns) -> None:
    """Have a namespace say by its eth0 that it is a router (RFC 4861, section 4.2)."""
    with router.entered():
        raw = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    with raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        lifetime = (1800).to_bytes(2, "big")
        raw.sendto(bytes([134, 0, 0, 0, 64, 0]) + lifetime + bytes(8), ("ff02::1", 0))


@pytest.mark.parametrize("accept_ra", ["1", "0"])
def test_routers_of_the_host(
    endpoint: MakeEndpoint, netns: Callable[[], Netns], dual: Config, accept_ra: str
) -> None:
    """A host that learns its default route from a router has it after the first container too."""
    router = netns()
    HOST.ip("link", "add", "up0", "type", "veth", "peer", "name", "eth0", "netns", router.name)
    for place, name in ((HOST, "up0"), (router, "eth0")):
        place.run(["sysctl", "-qw", f"net.ipv6.conf.{name}.accept_dad=0"])
        place.ip("link", "set", name, "up")
    setting = Path("/proc/sys/net/ipv6/conf/up0/accept_ra")
    deadline = monotonic() + cni.PATIENCE
    while not _defaults(HOST, 6) and monotonic() < deadline:
        try:
            _advertise(router)
        except OSError:
            pass  # its own address is not there yet
        sleep(0.05)
    learned = _defaults(HOST, 6)
    assert learned
    setting.write_text(accept_ra)
    endpoint().add(dual)
    assert HOST.sysctl("ipv6", "conf", "all", "forwarding") == "1"
    if accept_ra == "1":
        assert _defaults(HOST, 6) == learned
        assert setting.read_text() == "2\n"
    else:
        assert setting.read_text() == "0\n"


def test_forwarding_of_the_bridge_alone(endpoint: MakeEndpoint, config: Config) -> None:
    """What one link forwards is a setting of its own."""
    eth0 = endpoint()
    result = eth0.add(config)
    own = Path("/proc/sys/net/ipv4/conf", BRIDGE, "forwarding")
    own.write_text("0")
    assert HOST.sysctl("ipv4", "ip_forward") == "1"
    message = eth0.check(config, result).error(PLUGIN_SPECIFIC)["msg"]
    assert "forwarding of IPv4: expected on, found off" in message
    eth0.delete(config)
    result = eth0.add(config)
    assert own.read_text() == "1\n"
    eth0.check(config, result).silent()


def test_forwarding_of_chosen_links(endpoint: MakeEndpoint, config: Config) -> None:
    """Who lets some links forward and no others, the bridge among them, keeps that."""
    endpoint().add(config)
    _forward("0")
    Path("/proc/sys/net/ipv4/conf", BRIDGE, "forwarding").write_text("1")
    endpoint().add(config)
    assert HOST.sysctl("ipv4", "ip_forward") == "0"


def test_default_route_from_the_pool(endpoint: MakeEndpoint, dual: Config) -> None:
    """A default route that the pool has is not made a second time."""
    dual["ipam"]["routes"] = [{"dst": "0.0.0.0/0", "gw": "10.1.0.9"}]
    eth0 = endpoint()
    eth0.add(dual | {"isDefaultGateway": True})
    assert _defaults(eth0.netns, 4) == ["10.1.0.9"]
    assert _defaults(eth0.netns, 6) == ["fd00:1::1"]


def test_default_routes_of_two_interfaces(endpoint: MakeEndpoint, dual: Config) -> None:
    """A container may be on two networks that both have a default route."""
    eth0 = endpoint()
    eth1 = replace(eth0, ifname="eth1")
    green = cni.host_local("10.2.0.0/24", "fd00:2::/64")
    eth0.add(dual | {"isDefaultGateway": True})
    other = dual | {"name": "green", "bridge": "green0", "isDefaultGateway": True, "ipam": green}
    result = eth1.add(other)
    assert sorted(_defaults(eth0.netns, 4)) == ["10.1.0.1", "10.2.0.1"]
    eth1.check(other, result).silent()
    eth1.delete(other)
    assert _defaults(eth0.netns, 4) == ["10.1.0.1"]


def test_another_address_of_the_bridge(
    endpoint: MakeEndpoint, snapshot: TakeSnapshot, config: Config
) -> None:
    """A different IPv4 address of the bridge is an error that has both."""
    HOST.ip("link", "add", BRIDGE, "up", "type", "bridge")
    HOST.ip("addr", "add", "10.9.0.1/24", "dev", BRIDGE)
    eth0 = endpoint()
    before = snapshot(eth0.netns)
    message = eth0.call("ADD", config).error()["msg"]
    assert "10.9.0.1/24" in message
    assert "10.1.0.1/24" in message
    assert snapshot(eth0.netns) == before


def test_force_address(endpoint: MakeEndpoint, config: Config) -> None:
    """forceAddress replaces it."""
    HOST.ip("link", "add", BRIDGE, "up", "type", "bridge")
    HOST.ip("addr", "add", "10.9.0.1/24", "dev", BRIDGE)
    endpoint().add(config | {"forceAddress": True})
    assert HOST.addresses(BRIDGE) == ["10.1.0.1/24"]


@pytest.mark.parametrize("second", ["10.8.0.1/24", "10.9.0.2/24"])
def test_force_addresses(endpoint: MakeEndpoint, config: Config, second: str) -> None:
    """forceAddress replaces all, of which some go with the first of their subnet, by several."""
    HOST.ip("link", "add", BRIDGE, "up", "type", "bridge")
    for each in ("10.9.0.1/24", second):
        HOST.ip("addr", "add", each, "dev", BRIDGE)
    ipam = cni.host_local("10.1.0.0/24", "10.2.0.0/24")
    endpoint().add(config | {"forceAddress": True, "ipam": ipam})
    assert HOST.addresses(BRIDGE) == ["10.1.0.1/24", "10.2.0.1/24"]


def test_another_address_beside_it(endpoint: MakeEndpoint, config: Config) -> None:
    """A foreign address beside the wanted one is not in the way of ADD, and told by CHECK."""
    HOST.ip("link", "add", BRIDGE, "up", "type", "bridge")
    for each in ("10.1.0.1/24", "10.9.0.1/24"):
        HOST.ip("addr", "add", each, "dev", BRIDGE)
    eth0 = endpoint()
    outcome = eth0.check(config, eth0.add(config))
    assert "10.9.0.1/24" in outcome.error(PLUGIN_SPECIFIC)["msg"]


def test_the_same_address_of_the_bridge(endpoint: MakeEndpoint, dual: Config) -> None:
    """The wanted address, once there, is no obstacle."""
    HOST.ip("link", "add", BRIDGE, "up", "type", "bridge")
    HOST.ip("addr", "add", "10.1.0.1/24", "dev", BRIDGE)
    endpoint().add(dual)
    assert HOST.addresses(BRIDGE) == ["10.1.0.1/24", "fd00:1::1/64"]


@pytest.mark.parametrize(("present", "conflicts"), [("fd09::1/64", False), ("fd00:1::9/64", True)])
def test_another_ipv6_address_of_the_bridge(
    endpoint: MakeEndpoint, dual: Config, present: str, conflicts: bool
) -> None:
    """IPv6 addresses of other subnets may stay; one of the same subnet is an error."""
    HOST.ip("link", "add", BRIDGE, "up", "type", "bridge")
    HOST.ip("addr", "add", present, "dev", BRIDGE, "nodad")
    outcome = endpoint().call("ADD", dual)
    if conflicts:
        assert present in outcome.error()["msg"]
    else:
        outcome.result()
        assert set(HOST.addresses(BRIDGE)) == {"10.1.0.1/24", "fd00:1::1/64", present}


@pytest.mark.parametrize(
    ("subnets", "expected"),
    [
        (["10.1.0.0/24"], ["10.1.0.2/24"]),
        (["fd00:1::/64"], ["fd00:1::2/64"]),
        (["10.1.0.0/24", "fd00:1::/64"], ["10.1.0.2/24", "fd00:1::2/64"]),
    ],
    ids=["IPv4", "IPv6", "both"],
)
def test_addresses(
    endpoint: MakeEndpoint, config: Config, subnets: list[str], expected: list[str]
) -> None:
    """The container end has an address of each family, usable when ADD is done."""
    eth0 = endpoint()
    result = eth0.add(config | {"ipam": cni.host_local(*subnets)})
    assert eth0.netns.addresses("eth0") == expected
    assert [ip["address"] for ip in result["ips"]] == expected
    assert not [info for info in eth0.netns.address_info("eth0") if info.get("tentative")]


def test_ipv6_that_is_switched_off(endpoint: MakeEndpoint, dual: Config) -> None:
    """Where a namespace has IPv6 off, an IPv6 address switches it on for its interface."""
    eth0 = endpoint()
    for name in ("all", "default"):
        eth0.netns.run(["sysctl", "-qw", f"net.ipv6.conf.{name}.disable_ipv6=1"])
    eth0.add(dual)
    assert eth0.netns.addresses("eth0") == ["10.1.0.2/24", "fd00:1::2/64"]


def test_without_duplicate_address_detection(endpoint: MakeEndpoint, dual: Config) -> None:
    """By default no time is lost on looking for duplicates of addresses that we gave."""
    eth0 = endpoint()
    eth0.add(dual)
    assert eth0.netns.sysctl("ipv6", "conf", "eth0", "accept_dad") == "0"


def test_enabledad(endpoint: MakeEndpoint, dual: Config) -> None:
    """enabledad looks for duplicates, and has looked when ADD is done."""
    eth0 = endpoint()
    eth0.add(dual | {"enabledad": True})
    assert eth0.netns.sysctl("ipv6", "conf", "eth0", "accept_dad") == "1"
    assert eth0.netns.sysctl("ipv6", "conf", "eth0", "enhanced_dad") == "1"
    (info,) = [each for each in eth0.netns.address_info("eth0") if each["family"] == "inet6"]
    assert not info.get("nodad")
    assert not info.get("tentative")


def test_a_duplicate_address(endpoint: MakeEndpoint, snapshot: TakeSnapshot, dual: Config) -> None:
    """With enabledad an address that somebody else has is an error; nothing is left."""
    somebody = endpoint()
    somebody.add(dual)
    somebody.netns.ip("addr", "add", "fd00:1::3/64", "dev", "eth0", "nodad")
    eth0 = endpoint()
    before = snapshot(eth0.netns)
    error = eth0.call("ADD", dual | {"enabledad": True}).error(PLUGIN_SPECIFIC)
    assert "fd00:1::3" in error["msg"]
    assert error["code"] != 999
    assert snapshot(eth0.netns) == before


# --- properties of the links


@pytest.mark.parametrize("mtu", [1280, 1400, 9000])
def test_mtu(endpoint: MakeEndpoint, config: Config, mtu: int) -> None:
    """mtu is that of bridge, host end and container end."""
    eth0 = endpoint()
    result = eth0.add(config | {"mtu": mtu})
    links = [HOST.link(BRIDGE), HOST.link(_host_end(result)), eth0.netns.link("eth0")]
    assert [link["mtu"] for link in links] == [mtu] * 3


@pytest.mark.parametrize("key", ["isGateway", "isDefaultGateway"])
def test_mtu_too_small_for_ipv6(
    endpoint: MakeEndpoint, snapshot: TakeSnapshot, dual: Config, key: str
) -> None:
    """IPv6 needs 1280 bytes, and the error says so."""
    eth0 = endpoint()
    before = snapshot(eth0.netns).links
    small = cni.without(dual, "isGateway") | {"mtu": 1279, key: True}
    error = eth0.call("ADD", small).error(INVALID_CONFIG)
    assert error["msg"] == "mtu: 1279 is too small for IPv6, which needs 1280"
    assert snapshot(eth0.netns).links == before
    assert not cni.leases()


@pytest.mark.parametrize("name", ["a%d", "%", "all", "default"])
def test_names_that_are_not_one_links(
    endpoint: MakeEndpoint, snapshot: TakeSnapshot, config: Config, name: str
) -> None:
    """Patterns, and names of all links' settings, are refused for what they are."""
    eth0 = endpoint()
    before = snapshot(eth0.netns)
    error = replace(eth0, ifname=name).call("ADD", config).error(INVALID_ENVIRONMENT)
    assert (
        f'CNI_IFNAME must be a name that the kernel leaves to one link, got "{name}"'
        in error["msg"]
    )
    assert snapshot(eth0.netns) == before


def test_mtu_of_a_bridge_that_is_there(endpoint: MakeEndpoint, config: Config) -> None:
    """Without mtu a pair takes the bridge's; with it a bridge that is there keeps its own."""
    HOST.ip("link", "add", BRIDGE, "mtu", "1400", "type", "bridge")
    eth0, small = endpoint(), endpoint()
    eth0.add(config)
    assert eth0.netns.link("eth0")["mtu"] == 1400
    result = small.add(config | {"mtu": 1300})
    assert small.netns.link("eth0")["mtu"] == 1300
    assert [each["mtu"] for each in result["interfaces"]] == [
        HOST.link(BRIDGE)["mtu"],
        HOST.link(_host_end(result))["mtu"],
        1300,
    ]


@pytest.mark.parametrize("wanted", [True, False])
def test_hairpin_mode(endpoint: MakeEndpoint, config: Config, wanted: bool) -> None:
    """hairpinMode is a flag of the port."""
    result = endpoint().add(config | {"hairpinMode": wanted})
    assert _port(result)["hairpin"] is wanted


@pytest.mark.parametrize("wanted", [True, False])
def test_promisc_mode(endpoint: MakeEndpoint, config: Config, wanted: bool) -> None:
    """promiscMode is a flag of the bridge."""
    endpoint().add(config | {"promiscMode": wanted})
    assert ("PROMISC" in HOST.link(BRIDGE)["flags"]) is wanted


def test_port_isolation(endpoint: MakeEndpoint, config: Config) -> None:
    """portIsolation keeps containers apart, and lets them reach the gateway."""
    isolated = config | {"portIsolation": True}
    one, other = endpoint(), endpoint()
    assert _port(one.add(isolated))["isolated"] is True
    (address,) = cni.addresses(other.add(isolated))
    assert one.netns.reaches("10.1.0.1")
    assert not one.netns.reaches(address, seconds=1)


def test_no_port_isolation(endpoint: MakeEndpoint, config: Config) -> None:
    """Without it they reach each other."""
    one, other = endpoint(), endpoint()
    assert _port(one.add(config))["isolated"] is False
    assert one.netns.reaches(*cni.addresses(other.add(config)))


@pytest.mark.parametrize("version", ["0.3.1", "1.1.0"])
def test_disable_container_interface(endpoint: MakeEndpoint, layer2: Config, version: str) -> None:
    """disableContainerInterface leaves the container end down."""
    disabled = layer2 | {"disableContainerInterface": True, "cniVersion": version}
    eth0 = endpoint()
    result = eth0.add(disabled)
    assert "UP" not in eth0.netns.link("eth0")["flags"]
    assert result["interfaces"][2]["name"] == "eth0"
    assert HOST.ports(BRIDGE) == [_host_end(result)]


def test_check_of_a_disabled_interface(endpoint: MakeEndpoint, layer2: Config) -> None:
    """CHECK does not want up what was left down."""
    disabled = layer2 | {"disableContainerInterface": True}
    eth0 = endpoint()
    eth0.check(disabled, eth0.add(disabled)).silent()


def test_disable_container_interface_has_no_addresses(
    endpoint: MakeEndpoint, snapshot: TakeSnapshot, config: Config
) -> None:
    """disableContainerInterface with address management is an error."""
    before = snapshot()
    error = endpoint().call("ADD", config | {"disableContainerInterface": True}).error()
    assert error["code"] == INVALID_CONFIG
    assert "disableContainerInterface" in error["msg"]
    assert snapshot() == before


@pytest.mark.parametrize(
    ("members", "args"),
    [
        ({}, f"MAC={MACS[0]}"),
        ({"args": {"cni": {"mac": MACS[0]}}}, None),
        ({"runtimeConfig": {"mac": MACS[0]}}, None),
        ({"args": {"cni": {"mac": MACS[0]}}}, f"MAC={MACS[1]}"),
        ({"args": {"cni": {"mac": MACS[1]}}, "runtimeConfig": {"mac": MACS[0]}}, None),
        ({"runtimeConfig": {"mac": MACS[0]}}, f"IgnoreUnknown=1;FOO=bar;MAC={MACS[1]}"),
        ({"runtimeConfig": {"mac": MACS[0].upper()}}, None),
    ],
    ids=str,
)
def test_mac(endpoint: MakeEndpoint, config: Config, members: Config, args: str | None) -> None:
    """The container end has the MAC of runtimeConfig, or args.cni, or CNI_ARGS."""
    eth0 = endpoint()
    result = eth0.add(config | members, args=args)
    assert eth0.netns.link("eth0")["address"] == MACS[0]
    assert result["interfaces"][2]["mac"] == MACS[0]


def test_invalid_mac(endpoint: MakeEndpoint, snapshot: TakeSnapshot, config: Config) -> None:
    """A MAC that no interface can have is an error, wherever it comes from."""
    before = snapshot()
    multicast = "01:00:5e:00:00:01"
    eth0 = endpoint()
    eth0.call("ADD", config, args=f"MAC={multicast}").error(INVALID_ENVIRONMENT)
    eth0.call("ADD", config | {"args": {"cni": {"mac": multicast}}}).error(INVALID_CONFIG)
    eth0.call("ADD", config | {"runtimeConfig": {"mac": multicast}}).error(INVALID_CONFIG)
    assert snapshot() == before


def test_macs_differ(endpoint: MakeEndpoint, config: Config) -> None:
    """MACs that nobody chose are local, for one station, and all different."""
    results = [endpoint().add(config) for _ in range(3)]
    ends = [each["mac"] for result in results for each in result["interfaces"][1:]]
    assert len(set(ends)) == 6
    assert all(int(mac[:2], 16) & 3 == 2 for mac in ends)


# --- routes and resolver settings


def _metrics(route: dict[str, Any]) -> dict[str, int]:
    return {key: value for each in route.get("metrics", []) for key, value in each.items()}


@pytest.mark.parametrize(
    ("family", "dst", "gw"), [(4, "10.8.0.0/16", "10.1.0.9"), (6, "fd08::/48", "fd00:1::9")]
)
def test_attributes_of_routes(
    endpoint: MakeEndpoint, dual: Config, family: int, dst: str, gw: str
) -> None:
    """Each attribute of a route is applied."""
    attributes = {"mtu": 1400, "advmss": 1300, "priority": 7, "table": 100}
    dual["ipam"]["routes"] = [{"dst": dst, "gw": gw, **attributes}]
    eth0 = endpoint()
    result = eth0.add(dual)
    (route,) = eth0.netns.routes(family, "100")
    assert (route["dst"], route["gateway"], route["metric"]) == (dst, gw, 7)
    assert _metrics(route) == {"mtu": 1400, "advmss": 1300}
    assert not [each for each in eth0.netns.routes(family) if each["dst"] == dst]
    eth0.check(dual, result).silent()


def test_large_numbers_of_routes(endpoint: MakeEndpoint, dual: Config) -> None:
    """Tables and priorities are 32-bit numbers."""
    route = {"dst": "10.8.0.0/16", "priority": 4000000000, "table": 1000000}
    dual["ipam"]["routes"] = [route]
    eth0 = endpoint()
    result = eth0.add(dual)
    (made,) = eth0.netns.routes(4, "1000000")
    assert made["metric"] == 4000000000
    eth0.check(dual, result).silent()


def test_same_destination_in_several_tables(endpoint: MakeEndpoint, config: Config) -> None:
    """Routes of one destination differ by table and priority."""
    config["ipam"]["routes"] = [
        {"dst": "10.8.0.0/16", "priority": 1},
        {"dst": "10.8.0.0/16", "priority": 2, "gw": "10.1.0.9"},
        {"dst": "10.8.0.0/16", "table": 100},
    ]
    eth0 = endpoint()
    result = eth0.add(config)
    main = [each for each in eth0.netns.routes(4) if each["dst"] == "10.8.0.0/16"]
    assert {(each["gateway"], each["metric"]) for each in main} == {
        ("10.1.0.1", 1),
        ("10.1.0.9", 2),
    }
    assert len(eth0.netns.routes(4, "100")) == 1
    eth0.check(config, result).silent()


@pytest.mark.parametrize(
    ("scope", "gateway", "shown"),
    [(0, "10.1.0.1", "global"), (253, None, "link"), (200, None, "site")],
)
def test_scope_of_routes(
    endpoint: MakeEndpoint, config: Config, scope: int, gateway: str | None, shown: str
) -> None:
    """Routes of link scope need no gateway; of global scope they go through the pool's."""
    config["ipam"]["routes"] = [{"dst": "10.8.0.0/16", "scope": scope}]
    if scope == 200:
        config["ipam"]["routes"][0]["gw"] = "10.1.0.1"
        gateway = "10.1.0.1"
    eth0 = endpoint()
    result = eth0.add(config)
    (route,) = [each for each in eth0.netns.routes(4) if each["dst"] == "10.8.0.0/16"]
    assert (route["scope"], route.get("gateway")) == (shown, gateway)
    eth0.check(config, result).silent()


def test_gateway_of_routes(endpoint: MakeEndpoint, dual: Config) -> None:
    """A route without a gateway goes through the pool's of its family."""
    dual["ipam"]["routes"] = [{"dst": "10.8.0.0/16"}, {"dst": "fd08::/48"}]
    eth0 = endpoint()
    eth0.add(dual)
    found = {each["dst"]: each.get("gateway") for f in (4, 6) for each in eth0.netns.routes(f)}
    assert found["10.8.0.0/16"] == "10.1.0.1"
    assert found["fd08::/48"] == "fd00:1::1"


def test_a_route_that_the_kernel_refuses(
    endpoint: MakeEndpoint, snapshot: TakeSnapshot, config: Config
) -> None:
    """An error names the route, and nothing is left."""
    endpoint().add(config)
    eth0 = endpoint()
    before = snapshot(eth0.netns)
    config["ipam"]["routes"] = [{"dst": "10.8.0.0/16", "gw": "172.16.0.1"}]
    error = eth0.call("ADD", config).error(PLUGIN_SPECIFIC)
    assert "10.8.0.0/16" in error["msg"]
    assert "172.16.0.1" in error["msg"]
    assert snapshot(eth0.netns) == before


@pytest.fixture
def resolv_conf(tmp_path: Path) -> str:
    """A resolv.conf for the pool."""
    path = tmp_path / "resolv.conf"
    path.write_text(
        "# a comment\n"
        "nameserver 10.1.0.53\nnameserver fd00:1::53\n"
        "domain pool.test\nsearch a.test b.test\noptions ndots:5 edns0\n"
    )
    return str(path)


def test_dns_of_the_pool(endpoint: MakeEndpoint, config: Config, resolv_conf: str) -> None:
    """Resolver settings of the pool are passed on."""
    config["ipam"]["resolvConf"] = resolv_conf
    assert endpoint().add(config)["dns"] == {
        "nameservers": ["10.1.0.53", "fd00:1::53"],
        "domain": "pool.test",
        "search": ["a.test", "b.test"],
        "options": ["ndots:5", "edns0"],
    }


@pytest.mark.parametrize(
    "dns",
    [{"domain": "x.test"}, {"nameservers": ["10.9.0.53"]}, {"options": ["rotate"]}],
    ids=str,
)
def test_dns_of_the_network(
    endpoint: MakeEndpoint, config: Config, resolv_conf: str, dns: Config
) -> None:
    """Resolver settings of the network win over all of the pool's."""
    config["ipam"]["resolvConf"] = resolv_conf
    assert endpoint().add(config | {"dns": dns})["dns"] == dns


# --- traffic


def test_ping(endpoint: MakeEndpoint, dual: Config) -> None:
    """Containers and host reach each other by both families as soon as ADD is done."""
    one, other = endpoint(), endpoint()
    addresses = [*cni.addresses(one.add(dual)), *cni.addresses(other.add(dual))]
    for netns in (one.netns, other.netns):
        for address in ("10.1.0.1", "fd00:1::1", *addresses):
            assert netns.reaches(address)


@pytest.mark.parametrize("index", [0, 1], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("mtu", [1500, 9000])
def test_tcp(endpoint: MakeEndpoint, dual: Config, index: int, mtu: int) -> None:
    """Two containers exchange more than a packet of data by TCP."""
    jumbo = dual | {"mtu": mtu}
    client, server = endpoint(), endpoint()
    client.add(jumbo)
    address = cni.addresses(server.add(jumbo))[index]
    payload = bytes(range(256)) * 200
    assert exchange_by_tcp(client.netns, server.netns, address, payload) == payload


def test_through_the_gateway(endpoint: MakeEndpoint, dual: Config) -> None:
    """With a default gateway containers of two networks reach each other through the host."""
    blue = dual | {"isDefaultGateway": True}
    green = blue | {"name": "green", "bridge": "green0"}
    green["ipam"] = cni.host_local("10.2.0.0/24", "fd00:2::/64")
    one, other = endpoint(), endpoint()
    one.add(blue)
    for address in cni.addresses(other.add(green)):
        assert one.netns.reaches(address, seconds=cni.PATIENCE)


def test_layer_2(endpoint: MakeEndpoint, layer2: Config) -> None:
    """Without address management containers talk by addresses of their own."""
    one, other = endpoint(), endpoint()
    for number, each in enumerate((one, other), 1):
        each.add(layer2)
        assert each.netns.addresses("eth0") == []
        each.netns.ip("addr", "add", f"10.7.0.{number}/24", "dev", "eth0")
    assert one.netns.reaches("10.7.0.2")


# --- many at a time


def test_twenty_at_once(endpoint: MakeEndpoint, dual: Config) -> None:
    """The first ADDs of a network may come all at once."""
    endpoints = [endpoint() for _ in range(20)]
    with ThreadPoolExecutor(len(endpoints)) as pool:
        results = list(pool.map(lambda each: each.add(dual), endpoints))
    given = [address for result in results for address in cni.addresses(result)]
    assert len(set(given)) == 40
    assert sorted(cni.leases()) == sorted(given)
    assert len(HOST.ports(BRIDGE)) == 20
    assert HOST.addresses(BRIDGE) == ["10.1.0.1/24", "fd00:1::1/64"]
    for each, result in zip(endpoints, results, strict=True):
        each.check(dual, result).silent()
    with ThreadPoolExecutor(len(endpoints)) as pool:
        list(pool.map(lambda each: each.delete(dual), endpoints))
    assert not cni.leases()
    assert not HOST.ports(BRIDGE)


# --- CHECK and GC on the host's side


DRIFTS: dict[str, Callable[[str], object]] = {
    "host end down": lambda name: HOST.ip("link", "set", name, "down"),
    "host end without bridge": lambda name: HOST.ip("link", "set", name, "nomaster"),
    "bridge down": lambda name: HOST.ip("link", "set", BRIDGE, "down"),
    "bridge gone": lambda name: HOST.ip("link", "delete", BRIDGE),
    "gateway gone": lambda name: HOST.ip("addr", "flush", "dev", BRIDGE),
    "hairpin on": lambda name: run("bridge", "link", "set", "dev", name, "hairpin", "on"),
    "isolated": lambda name: run("bridge", "link", "set", "dev", name, "isolated", "on"),
}


@pytest.mark.parametrize("drift", DRIFTS)
def test_drift_on_the_host(endpoint: MakeEndpoint, dual: Config, drift: str) -> None:
    """CHECK sees what changed on the host."""
    eth0 = endpoint()
    result = eth0.add(dual)
    eth0.check(dual, result).silent()
    DRIFTS[drift](_host_end(result))
    message = eth0.check(dual, result).error(PLUGIN_SPECIFIC)["msg"]
    assert BRIDGE in message or _host_end(result) in message


def test_result_of_another(endpoint: MakeEndpoint, config: Config) -> None:
    """CHECK compares with the result that it gets, whosever that is."""
    one, other = endpoint(), endpoint()
    theirs = one.add(config)
    result = other.add(config)
    message = other.check(config, theirs).error(PLUGIN_SPECIFIC)["msg"]
    for what in ("MAC of container end eth0", "addresses of container end eth0"):
        assert what in message
    moved = cni.changed(result, "interfaces[2].sandbox", "/proc/1/task/1/ns/net")
    other.check(config, moved).silent()


@pytest.mark.parametrize("version", ["0.4.0", "1.1.0"])
def test_address_without_interface(endpoint: MakeEndpoint, config: Config, version: str) -> None:
    """An address of a result that does not say where it is, is the interface's."""
    eth0 = endpoint()
    config = config | {"cniVersion": version}
    result = eth0.add(config)
    del result["interfaces"], result["ips"][0]["interface"]
    eth0.check(config, result).silent()
    eth0.netns.ip("addr", "del", cni.addresses(result)[0] + "/24", "dev", "eth0")
    message = eth0.check(config, result).error(PLUGIN_SPECIFIC)["msg"]
    assert "addresses of container end eth0: expected 10.1.0.2/24, found " in message


def test_container_end_down(endpoint: MakeEndpoint, config: Config) -> None:
    """CHECK sees that nothing gets through, also where no route has gone with it."""
    eth0 = endpoint()
    result = eth0.add(config)
    eth0.netns.ip("link", "set", "eth0", "down")
    message = eth0.check(config, result).error(PLUGIN_SPECIFIC)["msg"]
    assert "container end eth0: expected up, found down" in message


@pytest.mark.parametrize(
    "members",
    [
        {"isDefaultGateway": True},
        {"mtu": 1400, "hairpinMode": True},
        {"promiscMode": True, "portIsolation": True},
        {"enabledad": True},
        {"runtimeConfig": {"mac": MACS[0]}},
        {"isGateway": False},
    ],
    ids=str,
)
def test_no_drift(endpoint: MakeEndpoint, dual: Config, members: Config) -> None:
    """CHECK has nothing to say after ADD, whatever the options."""
    eth0 = endpoint()
    result = eth0.add(dual | members)
    eth0.check(dual | members, result).silent()


def test_the_bridge_survives(endpoint: MakeEndpoint, dual: Config) -> None:
    """The bridge belongs to the network: neither DEL nor GC of the last endpoint removes it."""
    eth0 = endpoint()
    eth0.add(dual)
    mac = HOST.link(BRIDGE)["address"]
    eth0.delete(dual)
    assert HOST.link(BRIDGE)["address"] == mac
    eth0.add(dual)
    eth0.call("GC", cni.collected(dual)).silent()
    assert HOST.link(BRIDGE)["address"] == mac
    assert not HOST.ports(BRIDGE)
