"""The portmap plugin, chained after our bridge plugin and after Debian's."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests import cni
from tests.cni import INVALID_CONFIG, NOT_AVAILABLE, UNSUPPORTED_FIELD, Config, Endpoint
from tests.iproute import HOST, Netns, Snapshot, run
from tests.kernel.test_firewall import (
    ADDRESS_IN_USE,
    CLIENTS,
    DRIFTED,
    HOST_ADDRESS,
    NO_WAIT,
    OUTSIDE_ADDRESS,
    PORTS,
    TYPES,
    another_host,
    answered,
    bridge_netfilter,
    caller,
    calling,
    elements,
    kept_apart,
    mapping,
    published,
    publishing,
    rules,
    serving,
    tables,
)

MakeNetns = Callable[[], Netns]
TakeSnapshot = Callable[..., Snapshot]

DEBIAN = Path("/usr/lib/cni")
SUBNETS = {
    "blue": ("10.1.0.0/24", "fd00:1::/64"),
    "green": ("10.2.0.0/24", "fd00:2::/64"),
}


@dataclass(frozen=True)
class Chain:
    """An interface by one plugin, and its published ports by portmap after it."""

    bridge: Endpoint
    portmap: Endpoint
    network: Config

    @property
    def netns(self) -> Netns:
        """The sandbox."""
        return self.portmap.netns

    def config(self, *mappings: Config, **keys: object) -> Config:
        """What portmap gets, without prevResult."""
        own = {key: self.network[key] for key in ("cniVersion", "name")}
        return publishing(own | {"type": "portmap"} | keys, *mappings)

    def attach(self) -> Config:
        """ADD of the interface alone; its result, without the empty `dns` of Go plugins."""
        result = self.bridge.add(self.network)
        return result if result.get("dns") else cni.without(result, "dns")

    def add(self, *mappings: Config, **keys: object) -> Config:
        """ADD of the interface and of its ports; the last result."""
        config = self.config(*mappings, **keys) | {"prevResult": self.attach()}
        result = self.portmap.add(config)
        assert result == config["prevResult"]
        return result


MakeChain = Callable[..., Chain]


@pytest.fixture(params=["ours", "Debian's"])
def binaries(request: pytest.FixtureRequest, cni_bin: Path) -> Path:
    """The directory of the plugin that makes the interfaces."""
    if request.param == "ours":
        return cni_bin
    if not (DEBIAN / "bridge").exists():
        pytest.skip("containernetworking-plugins is not installed")
    return DEBIAN


def _maker(binaries: Path, portmap: Path, netns: MakeNetns) -> MakeChain:
    """Makes containers-to-be on networks of the plugin in a directory."""

    def make(name: str = "blue", **keys: object) -> Chain:
        sandbox = netns()
        network: Config = {
            "cniVersion": "1.0.0",
            "name": name,
            "type": "bridge",
            "bridge": f"{name}0",
            "isDefaultGateway": True,
            # For containers that call their own ports: neither plugin knows of these here.
            "hairpinMode": True,
            "ipam": cni.host_local(*SUBNETS[name]),
        }
        container_id = f"id-{sandbox.name}"
        return Chain(
            Endpoint(binaries / "bridge", str(binaries), container_id, sandbox),
            Endpoint(portmap, str(portmap.parent), container_id, sandbox),
            network | keys,
        )

    return make


@pytest.fixture
def chain(binaries: Path, executable: Callable[[str], Path], netns: MakeNetns) -> MakeChain:
    """Makes containers-to-be, of our bridge plugin and of Debian's."""
    return _maker(binaries, executable("portmap"), netns)


@pytest.fixture
def ours(cni_bin: Path, executable: Callable[[str], Path], netns: MakeNetns) -> MakeChain:
    """The same for what does not depend on the first plugin."""
    return _maker(cni_bin, executable("portmap"), netns)


@pytest.fixture
def outside(netns: MakeNetns) -> Netns:
    """Another host."""
    return another_host(netns())


@pytest.fixture(params=["0", "1"], ids=["bridged", "br_netfilter"])
def netfilter(request: pytest.FixtureRequest, node: None) -> None:
    """Both ways for bridged packets: past the rules of IP, and through them."""
    bridge_netfilter(request.param)


# --- traffic


@pytest.mark.usefixtures("netfilter")
@pytest.mark.parametrize("kind", CLIENTS)
def test_published_ports(chain: MakeChain, outside: Netns, kind: str) -> None:
    """Published ports are reached from everywhere, by addresses of the host."""
    server = chain()
    server.add(*PORTS)
    if kind in ("same network", "another network"):
        neighbour = chain("blue" if kind == "same network" else "green")
        neighbour.attach()
        client = neighbour.netns
    else:
        client = {"outside": outside, "host": HOST, "itself": server.netns}[kind]
    addresses = [*HOST_ADDRESS.values(), "10.1.0.1", "fd00:1::1"]
    if kind == "host":
        addresses.append("127.0.0.1")
    with serving(server.netns, "tcp", 80) as tcp, serving(server.netns, "udp", 80) as udp:
        failed = [
            (protocol, address)
            for protocol, service in (("tcp", tcp), ("udp", udp))
            for address in addresses
            if caller(client, service, address, 8080) is None
        ]
    assert failed == []


def test_source_at_a_published_port(chain: MakeChain, outside: Netns) -> None:
    """The container sees who calls from outside."""
    server = chain()
    server.add(*PORTS)
    for protocol in TYPES:
        with serving(server.netns, protocol, 80) as service:
            for family in (4, 6):
                seen = caller(outside, service, HOST_ADDRESS[family], 8080)
                assert seen == OUTSIDE_ADDRESS[family]


def test_host_ip(chain: MakeChain, outside: Netns) -> None:
    """hostIP chooses the addresses of the host."""
    HOST.ip("addr", "add", "192.0.2.7/24", "dev", "up0")
    every, one = chain(), chain()
    every.add(mapping(8080, 80))
    one.add(mapping(8080, 80, "tcp", "192.0.2.7"), mapping(8081, 80, "tcp", "127.0.0.1"))
    with serving(every.netns, "tcp", 80) as of_all, serving(one.netns, "tcp", 80) as of_one:
        for client in (outside, HOST):
            assert caller(client, of_one, "192.0.2.7", 8080)
            for address in HOST_ADDRESS.values():
                assert caller(client, of_all, address, 8080)
        assert caller(HOST, of_one, "127.0.0.1", 8081)
        assert caller(outside, of_one, "192.0.2.7", 8081, seconds=NO_WAIT) is None


def test_isolated_network(ours: MakeChain, outside: Netns) -> None:
    """Ports of a network that our bridge plugin isolates are open, and nothing else."""
    server = ours(ipMasq=True)
    addresses = cni.addresses(server.add(*PORTS))
    with serving(server.netns, "tcp", 80) as service:
        for client in (outside, HOST, server.netns):
            for address in HOST_ADDRESS.values():
                assert caller(client, service, address, 8080)
    assert kept_apart(outside, server.netns, *addresses)
    with serving(outside, "tcp", 7000) as service:
        for family in (4, 6):
            seen = caller(server.netns, service, OUTSIDE_ADDRESS[family], 7000)
            assert seen == HOST_ADDRESS[family]


def test_policy_after_ports(ours: MakeChain, outside: Netns) -> None:
    """A network that begins to masquerade after its ports were published does so."""
    first, second = ours(), ours(ipMasq=True)
    first.add(*PORTS)
    second.attach()
    with serving(outside, "tcp", 7000) as service:
        for family in (4, 6):
            seen = caller(second.netns, service, OUTSIDE_ADDRESS[family], 7000)
            assert seen == HOST_ADDRESS[family]
    with serving(first.netns, "tcp", 80) as service:
        for client in (outside, HOST, first.netns, second.netns):
            assert caller(client, service, HOST_ADDRESS[4], 8080)


def test_udp_follows(chain: MakeChain, outside: Netns) -> None:
    """A client that goes on to send reaches whoever has the port at the time."""
    one, other = chain(), chain()
    with (
        calling(outside, "udp") as make,
        serving(HOST, "udp", 5353) as host,
        serving(one.netns, "udp", 53) as first,
        serving(other.netns, "udp", 53) as second,
    ):
        services = {"host": host, "first": first, "second": second}
        near = make(HOST_ADDRESS[4])
        near.connect((HOST_ADDRESS[4], 5353))

        def answers() -> str:
            found = answered(near, services)
            return found[0] if found else ""

        assert answers() == "host"
        for each, name in ((one, "first"), (other, "second")):
            each.add(mapping(5353, 53, "udp"))
            assert answers() == name
            each.portmap.delete(each.config())
            assert answers() == "host"


def test_ports_of_the_bridge_and_of_portmap(ours: MakeChain) -> None:
    """Both plugins share the ports: one that the other published is taken."""
    holder, late = ours(), ours()
    holder.bridge.add(publishing(holder.network, *PORTS))
    config = late.config(*PORTS) | {"prevResult": late.attach()}
    error = late.portmap.call("ADD", config).error(ADDRESS_IN_USE)
    assert "8080" in error["msg"]
    assert holder.bridge.container_id in error["msg"]
    late.portmap.delete(config)
    late.bridge.delete(late.network)
    holder.bridge.check(publishing(holder.network, *PORTS), holder_result(holder)).silent()
    holder.bridge.delete(holder.network)
    late.add(*PORTS)
    again = publishing(holder.network, *PORTS)
    error = holder.bridge.call("ADD", again).error(ADDRESS_IN_USE)
    assert late.portmap.container_id in error["msg"]


def holder_result(holder: Chain) -> Config:
    """The least that CHECK needs to see of an interface: that of the sandbox, as it is."""
    mac = holder.netns.link("eth0")["address"]
    addresses = holder.netns.addresses("eth0")
    return {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "eth0", "mac": mac, "sandbox": holder.netns.path}],
        "ips": [{"address": each, "interface": 0} for each in addresses],
    }


# --- the result


def _previous(version: str) -> Config:
    if version in ("0.1.0", "0.2.0"):
        return {
            "cniVersion": version,
            "ip4": {
                "ip": "10.1.0.2/24",
                "gateway": "10.1.0.1",
                "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}],
            },
            "ip6": {"ip": "fd00:1::2/64"},
            "dns": {"nameservers": ["10.1.0.53"]},
        }
    of_version = {"version": "4"} if version < "1" else {}
    of_version6 = {"version": "6"} if version < "1" else {}
    result: Config = {
        "cniVersion": version,
        "interfaces": [
            {"name": "blue0", "mac": "02:00:00:00:00:01"},
            {"name": "veth0", "mac": "02:00:00:00:00:02"},
            {"name": "eth0", "mac": "02:00:00:00:00:03", "sandbox": "/run/netns/some"},
            {"name": "eth1", "mac": "02:00:00:00:00:04", "sandbox": "/run/netns/some"},
        ],
        "ips": [
            of_version | {"interface": 3, "address": "10.9.0.2/24"},
            of_version | {"interface": 2, "address": "10.1.0.2/24", "gateway": "10.1.0.1"},
            of_version6 | {"interface": 2, "address": "fd00:1::2/64"},
        ],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}, {"dst": "10.8.0.0/16"}],
        "dns": {"nameservers": ["10.1.0.53"], "domain": "a.test", "search": ["b.test"]},
    }
    if version == "1.1.0":
        result["interfaces"][2] |= {"mtu": 1400, "socketPath": "/run/some", "pciID": "0000:00:1f.6"}
        result["routes"][1] |= {
            "mtu": 1300,
            "advmss": 1200,
            "priority": 7,
            "table": 100,
            "scope": 253,
        }
    return result


@pytest.mark.parametrize("version", cni.VERSIONS)
@pytest.mark.parametrize("mappings", [(), PORTS], ids=["no ports", "ports"])
def test_result(ours: MakeChain, version: str, mappings: tuple[Config, ...]) -> None:
    """The previous result is passed on as it was, in every version."""
    alone = ours(cniVersion=version)
    previous = _previous(version)
    config = alone.config(*mappings) | {"prevResult": previous}
    result = alone.portmap.add(config)
    assert result.pop("dns", {}) == previous.pop("dns")
    assert result == previous
    if mappings:
        assert published()["ip tcp . 8080"] == "10.1.0.2 . 80"
        assert published()["ip6 udp . 8080"] == "fd00:1::2 . 80"
    else:
        assert tables() == []


@pytest.mark.parametrize("ifname", ["eth0", "eth1"])
def test_addresses_of_the_interface(ours: MakeChain, ifname: str) -> None:
    """Ports lead to the interface of the call."""
    alone = ours()
    config = alone.config(*PORTS) | {"prevResult": _previous("1.0.0")}
    alone.portmap.other(ifname).add(config)
    expected = {"eth0": "10.1.0.2 . 80", "eth1": "10.9.0.2 . 80"}[ifname]
    assert published()["ip tcp . 8080"] == expected
    assert ("ip6 tcp . 8080" in published()) is (ifname == "eth0")


@pytest.mark.parametrize("command", ["ADD", "CHECK"])
def test_without_previous_result(ours: MakeChain, snapshot: TakeSnapshot, command: str) -> None:
    """portmap makes no interfaces: without a previous result it says so."""
    alone = ours()
    before = snapshot(alone.netns)
    error = alone.portmap.call(command, alone.config(*PORTS)).error(INVALID_CONFIG)
    assert "prevResult" in error["msg"]
    assert snapshot(alone.netns) == before


def test_without_addresses(ours: MakeChain, snapshot: TakeSnapshot) -> None:
    """Ports without an address to lead to are an error that names the interface."""
    alone = ours()
    before = snapshot(alone.netns)
    previous = cni.without(_previous("1.0.0"), "ips")
    config = alone.config(*PORTS) | {"prevResult": previous}
    error = alone.portmap.call("ADD", config).error(INVALID_CONFIG)
    assert "eth0" in error["msg"]
    assert snapshot(alone.netns) == before
    without_ports = alone.config() | {"prevResult": previous}
    alone.portmap.add(without_ports)


@pytest.mark.parametrize("runtime", [None, {}, {"portMappings": None}, {"portMappings": []}])
def test_no_mappings(chain: MakeChain, snapshot: TakeSnapshot, runtime: Config | None) -> None:
    """Without mappings nothing is touched by any verb."""
    alone = chain()
    previous = alone.attach()
    before = snapshot(alone.netns)
    config = cni.without(alone.config(), "runtimeConfig") | {"prevResult": previous}
    if runtime is not None:
        config["runtimeConfig"] = runtime
    assert alone.portmap.add(config) == previous
    alone.portmap.check(config, previous).silent()
    alone.portmap.delete(config, previous)
    assert snapshot(alone.netns) == before
    assert tables() == []


# --- keys


REFUSED: list[tuple[str, object, str]] = [
    ("masqAll", True, "true"),
    ("backend", "iptables", '"iptables"'),
    ("externalSetMarkChain", "KUBE-MARK-MASQ", '"KUBE-MARK-MASQ"'),
    ("conditionsV4", ["!", "-d", "192.0.2.0/24"], "192.0.2.0/24"),
    ("conditionsV6", ["!", "-d", "2001:db8::/32"], "2001:db8::/32"),
]


@pytest.mark.parametrize(("key", "value", "shown"), REFUSED, ids=[each[0] for each in REFUSED])
@pytest.mark.parametrize("mappings", [(), PORTS], ids=["no ports", "ports"])
def test_refused_keys(
    ours: MakeChain,
    snapshot: TakeSnapshot,
    key: str,
    value: object,
    shown: str,
    mappings: tuple[Config, ...],
) -> None:
    """What would be silently without effect is refused by key and value."""
    alone = ours()
    previous = alone.attach()
    before = snapshot(alone.netns)
    config = alone.config(*mappings, **{key: value}) | {"prevResult": previous}
    error = alone.portmap.call("ADD", config).error(UNSUPPORTED_FIELD)
    assert key in error["msg"]
    assert shown in error["msg"]
    assert key in alone.portmap.call("STATUS", config | {"cniVersion": "1.1.0"}).error()["msg"]
    alone.portmap.delete(config)
    assert snapshot(alone.netns) == before


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("snat", "true"),
        ("snat", 1),
        ("markMasqBit", "13"),
        ("markMasqBit", 32),
        ("masqAll", "no"),
        ("backend", 1),
        ("conditionsV4", "-d"),
    ],
)
def test_bad_keys(ours: MakeChain, key: str, value: object) -> None:
    """Values of another kind are refused by key."""
    alone = ours()
    config = alone.config(*PORTS, **{key: value}) | {"prevResult": _previous("1.0.0")}
    assert key in alone.portmap.call("ADD", config).error(INVALID_CONFIG)["msg"]
    assert tables() == []


@pytest.mark.parametrize(
    "keys",
    [
        {"snat": True},
        {"markMasqBit": 13},
        {"markMasqBit": 0},
        {"masqAll": False},
        {"backend": "nftables"},
        {"externalSetMarkChain": ""},
        {"conditionsV4": [], "conditionsV6": []},
        {"conditionsV4": None, "markMasqBit": None, "snat": None},
    ],
    ids=str,
)
def test_accepted_keys(ours: MakeChain, outside: Netns, keys: Config) -> None:
    """What changes nothing is accepted."""
    alone = ours()
    alone.add(*PORTS, **keys)
    with serving(alone.netns, "tcp", 80) as service:
        assert caller(outside, service, HOST_ADDRESS[4], 8080)
        assert caller(HOST, service, "127.0.0.1", 8080)


def test_no_snat(chain: MakeChain, outside: Netns) -> None:
    """snat: false publishes to other hosts, and changes no source at all."""
    server = chain()
    server.add(*PORTS, snat=False)
    assert elements("ip", "networks") == elements("ip6", "networks") == {}
    assert HOST.sysctl("ipv4", "conf", "blue0", "route_localnet") == "0"
    with serving(server.netns, "tcp", 80) as service:
        for family in (4, 6):
            seen = caller(outside, service, HOST_ADDRESS[family], 8080)
            assert seen == OUTSIDE_ADDRESS[family]
        assert caller(HOST, service, "127.0.0.1", 8080, seconds=NO_WAIT) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hostPort", 0),
        ("hostPort", 65536),
        ("containerPort", 0),
        ("containerPort", 65536),
        ("protocol", "icmp"),
        ("hostIP", "nonsense"),
    ],
)
def test_bad_mappings(ours: MakeChain, snapshot: TakeSnapshot, key: str, value: object) -> None:
    """What is no mapping is refused with place and value."""
    alone = ours()
    previous = alone.attach()
    before = snapshot(alone.netns)
    config = alone.config(mapping(8079, 79), mapping(8080, 80) | {key: value})
    error = alone.portmap.call("ADD", config | {"prevResult": previous}).error(INVALID_CONFIG)
    assert f"runtimeConfig.portMappings[1].{key}" in error["msg"]
    assert str(value) in error["msg"]
    assert snapshot(alone.netns) == before


# --- DEL and GC


def test_a_port_that_is_taken(chain: MakeChain, snapshot: TakeSnapshot) -> None:
    """The error names the holder; nothing has changed."""
    holder, late = chain(), chain()
    holder.add(mapping(8080, 80))
    previous = late.attach()
    before = snapshot(late.netns)
    asked = late.config(mapping(7001, 1), mapping(8080, 81), mapping(7002, 2, "udp"))
    config = asked | {"prevResult": previous}
    error = late.portmap.call("ADD", config).error(ADDRESS_IN_USE)
    assert "8080" in error["msg"]
    assert holder.portmap.container_id in error["msg"]
    assert snapshot(late.netns) == before
    late.portmap.delete(config)
    assert snapshot(late.netns) == before


FORGETFUL: dict[str, Callable[[Chain, Config, Config], object]] = {
    "with everything": lambda each, config, result: each.portmap.delete(config, result),
    "without prevResult": lambda each, config, _: each.portmap.delete(config),
    "without runtimeConfig": lambda each, config, result: each.portmap.delete(
        cni.without(config, "runtimeConfig"), result
    ),
    "without netns": lambda each, config, _: each.portmap.delete(
        cni.without(config, "runtimeConfig"), env_drop=("CNI_NETNS",)
    ),
    "after the interface": lambda each, config, _: (
        each.bridge.delete(each.network),
        each.portmap.delete(config),
    ),
    "invalid by now": lambda each, config, _: each.portmap.delete(
        publishing(config | {"backend": "iptables", "masqAll": 7}, mapping(0, 99999, "icmp"))
    ),
    "twice": lambda each, config, result: (
        each.portmap.delete(config, result),
        each.portmap.delete(config, result),
    ),
    "by GC": lambda each, config, _: each.portmap.call(
        "GC", cni.collected(cni.without(config, "runtimeConfig") | {"cniVersion": "1.1.0"})
    ).silent(),
}


@pytest.mark.parametrize("how", FORGETFUL)
def test_ports_are_free_again(chain: MakeChain, outside: Netns, how: str) -> None:
    """DEL and GC give the ports back, whatever they know."""
    mappings = (*PORTS, mapping(8443, 443, "tcp", "192.0.2.1"), mapping(9, 9, "sctp"))
    one, heir = chain(), chain()
    result = one.add(*mappings)
    assert len(published()) == 7
    FORGETFUL[how](one, one.config(*mappings), result)
    assert published() == {}
    heir.add(*mappings)
    with serving(heir.netns, "tcp", 80) as service:
        assert caller(outside, service, HOST_ADDRESS[4], 8080)


def test_delete_of_what_never_was(ours: MakeChain, snapshot: TakeSnapshot) -> None:
    """DEL of an unknown container succeeds and makes nothing."""
    alone = ours()
    before = snapshot(alone.netns)
    alone.portmap.delete(alone.config(*PORTS))
    assert snapshot(alone.netns) == before


def test_delete_of_the_late_one(chain: MakeChain) -> None:
    """DEL after a refused ADD leaves the holder's ports."""
    holder, late = chain(), chain()
    result = holder.add(*PORTS)
    config = late.config(*PORTS) | {"prevResult": late.attach()}
    late.portmap.call("ADD", config).error(ADDRESS_IN_USE)
    late.portmap.delete(config)
    holder.portmap.check(holder.config(*PORTS), result).silent()


def test_gc_of_others(ours: MakeChain) -> None:
    """GC takes back the ports of the network's invalid attachments, and no others."""
    valid, stale, foreign = ours(), ours(), ours("green")
    by_bridge = ours(cniVersion="1.1.0")
    valid.add(mapping(8001, 80))
    stale.add(mapping(8002, 80))
    foreign.add(mapping(8003, 80))
    by_bridge.bridge.add(publishing(by_bridge.network, mapping(8004, 80)))
    config = valid.config() | {"cniVersion": "1.1.0"}
    valid.portmap.call("GC", cni.collected(config, valid.portmap)).silent()
    assert elements("ip", "ports").keys() == {"tcp . 8001", "tcp . 8003", "tcp . 8004"}
    valid.bridge.call(
        "GC", cni.collected(valid.network | {"cniVersion": "1.1.0"}, valid.bridge)
    ).silent()
    assert elements("ip", "ports").keys() == {"tcp . 8001", "tcp . 8003"}


def test_two_interfaces(chain: MakeChain) -> None:
    """Each interface of a container has ports of its own."""
    eth0 = chain()
    green = chain("green", isDefaultGateway=False, isGateway=True)
    eth0.add(mapping(8001, 80))
    same = Chain(
        Endpoint(green.bridge.binary, green.bridge.path, eth0.bridge.container_id, eth0.netns, "x"),
        eth0.portmap.other("x"),
        green.network,
    )
    same.add(mapping(8002, 80))
    assert published()["ip tcp . 8001"] == "10.1.0.2 . 80"
    assert published()["ip tcp . 8002"] == "10.2.0.2 . 80"
    eth0.portmap.delete(eth0.config())
    assert published().keys() == {"ip tcp . 8002", "ip6 tcp . 8002"}


def test_add_again(chain: MakeChain) -> None:
    """ADD of a container that has ports replaces them."""
    one = chain()
    result = one.add(*PORTS)
    again = one.config(mapping(8081, 80)) | {"prevResult": result}
    one.portmap.add(again)
    assert published().keys() == {"ip tcp . 8081", "ip6 tcp . 8081"}


# --- CHECK and STATUS


DRIFTS = {
    "port gone": "delete element ip cnm ports { tcp . 8080 }",
    "IPv6 port gone": "delete element ip6 cnm ports { tcp . 8080 }",
    "port of an address gone": "delete element ip cnm address_ports { 192.0.2.1 . udp . 53 }",
    "port elsewhere": "add element ip cnm ports { tcp . 8080 : 10.1.0.99 . 80 }",
    "everything gone": "flush ruleset",
}


@pytest.mark.parametrize("drift", DRIFTS)
def test_drift(chain: MakeChain, drift: str) -> None:
    """CHECK reports each port that does not lead to the container, and changes nothing."""
    one = chain()
    mappings = (*PORTS, mapping(53, 53, "udp", "192.0.2.1"))
    result = one.add(*mappings)
    config = one.config(*mappings)
    one.portmap.check(config, result).silent()
    if drift == "port elsewhere":
        run("nft", DRIFTS["port gone"])
    run("nft", DRIFTS[drift])
    before = run("nft", "list", "ruleset")
    message = one.portmap.check(config, result).error(DRIFTED)["msg"]
    assert ("53" if drift == "port of an address gone" else "8080") in message
    assert run("nft", "list", "ruleset") == before


def test_repair(chain: MakeChain, outside: Netns) -> None:
    """After a flush the next ADD brings the ports of others back too, which stay theirs."""
    first, second, third = chain(), chain(), chain()
    result = first.add(*PORTS)
    expected = rules()
    run("nft", "flush", "ruleset")
    second.add(mapping(8081, 80))
    assert rules() == expected
    first.portmap.check(first.config(*PORTS), result).silent()
    for each, port in ((first, 8080), (second, 8081)):
        with serving(each.netns, "tcp", 80) as service:
            for client in (outside, HOST, each.netns):
                assert caller(client, service, HOST_ADDRESS[4], port)
    late = third.config(*PORTS) | {"prevResult": third.attach()}
    assert first.portmap.container_id in third.portmap.call("ADD", late).error()["msg"]


def test_way_back_gone(ours: MakeChain, netfilter: None) -> None:
    """CHECK reports that the network does not reach its own ports; the next ADD mends it."""
    first, second = ours(), ours()
    result = first.add(*PORTS)
    run("nft", "delete element ip cnm networks { 10.1.0.0/24 }")
    message = first.portmap.check(first.config(*PORTS), result).error(DRIFTED)["msg"]
    assert "networks, 10.1.0.0/24: expected an element, found no such element" in message
    second.add(mapping(8081, 80))
    first.portmap.check(first.config(*PORTS), result).silent()
    with serving(first.netns, "tcp", 80) as service:
        assert caller(second.netns, service, "10.1.0.1", 8080)


def test_rules_gone(ours: MakeChain) -> None:
    """CHECK reports missing rules, which the next ADD makes again."""
    first, second = ours(), ours()
    result = first.add(*PORTS)
    expected = rules()
    run("nft", "flush", "chain", "ip6", "cnm", "published")
    message = first.portmap.check(first.config(*PORTS), result).error(DRIFTED)["msg"]
    assert "chain published of table ip6 cnm: expected 2 rules, found 0 rules" in message
    second.add(mapping(8081, 80))
    assert rules() == expected
    first.portmap.check(first.config(*PORTS), result).silent()


def test_damaged_record(ours: MakeChain) -> None:
    """DEL takes back the ports of an endpoint whose record cannot be read."""
    one, other = ours(), ours()
    one.add(mapping(8001, 80))
    other.add(mapping(8002, 80))
    record = Path("/run/cnm/.portmap/blue", f"{one.portmap.container_id}:eth0")
    record.write_text("{")
    one.portmap.delete(one.config(mapping(8001, 80)))
    assert published().keys() == {"ip tcp . 8002", "ip6 tcp . 8002"}
    assert not record.exists()


def test_status(ours: MakeChain) -> None:
    """STATUS is content with a plain configuration."""
    alone = ours(cniVersion="1.1.0")
    alone.portmap.call("STATUS", cni.without(alone.config(), "runtimeConfig")).silent()
    assert tables() == []


def test_status_without_permission(ours: MakeChain, tmp_path: Path) -> None:
    """STATUS says that it is nftables that we may not use, as ADD would."""
    alone = ours(cniVersion="1.1.0")
    wrapper = tmp_path / "portmap"
    binary = alone.portmap.binary
    wrapper.write_text(f'#!/bin/sh\nexec setpriv --bounding-set=-net_admin "{binary}"\n')
    wrapper.chmod(0o755)
    weak = replace(alone.portmap, binary=wrapper)
    config = cni.without(alone.config(), "runtimeConfig")
    assert "nftables" in weak.call("STATUS", config).error(NOT_AVAILABLE)["msg"]


# --- many at a time


def test_twenty_at_once(ours: MakeChain) -> None:
    """The first ADDs may come all at once: rules exist once, and every port is there."""
    chains = [ours() for _ in range(20)]
    configs = [
        each.config(mapping(8000 + number, 80), mapping(8000 + number, 80, "udp"))
        | {"prevResult": each.attach()}
        for number, each in enumerate(chains)
    ]
    with ThreadPoolExecutor(len(chains)) as pool:
        list(pool.map(lambda each, config: each.portmap.add(config), chains, configs))
    assert [each for each in rules() if rules().count(each) > 1] == []
    assert len(published()) == 80
    with ThreadPoolExecutor(len(chains)) as pool:
        list(pool.map(lambda each, config: each.portmap.delete(config), chains, configs))
    assert published() == {}


def test_one_port_at_once(ours: MakeChain) -> None:
    """Of many that want one port, exactly one gets it."""
    chains = [ours() for _ in range(8)]
    configs = [each.config(*PORTS) | {"prevResult": each.attach()} for each in chains]
    with ThreadPoolExecutor(len(chains)) as pool:
        outcomes = list(
            pool.map(lambda each, config: each.portmap.call("ADD", config), chains, configs)
        )
    (winner,) = [each for each, done in zip(chains, outcomes, strict=True) if done.code == 0]
    for each, config, done in zip(chains, configs, outcomes, strict=True):
        if each is not winner:
            assert winner.portmap.container_id in done.error(ADDRESS_IN_USE)["msg"]
            each.portmap.delete(config)
    assert len(published()) == 4
