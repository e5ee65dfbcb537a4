"""Masquerading, published ports and isolation of the bridge plugin, by what traffic gets through.

The host has a link to another host, `outside`, that knows the way to the containers' subnets:
whatever it does not reach is kept from it by rules, not by a missing route.
"""

import json
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import cni
from tests.cni import INVALID_CONFIG, NOT_AVAILABLE, UNSUPPORTED_FIELD, Config, Endpoint
from tests.iproute import HOST, Netns, Snapshot, run

MakeEndpoint = Callable[[], Endpoint]
TakeSnapshot = Callable[..., Snapshot]

ADDRESS_IN_USE = 103
DRIFTED = 105
TABLES = ("ip", "ip6")
HOST_ADDRESS = {4: "192.0.2.1", 6: "2001:db8::1"}
OUTSIDE_ADDRESS = {4: "192.0.2.2", 6: "2001:db8::2"}
GATEWAY = {4: "10.1.0.1", 6: "fd00:1::1"}
FORWARDING = {4: ("ipv4", "ip_forward"), 6: ("ipv6", "conf", "all", "forwarding")}
BRIDGE_NETFILTER = ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables")

NO_WAIT = 0.3  # seconds for what must not


@pytest.fixture
def plugin() -> str:
    """Always the bridge plugin."""
    return "bridge"


@pytest.fixture
def outside(netns: Callable[[], Netns]) -> Netns:
    """Another host."""
    return another_host(netns())


def another_host(other: Netns) -> Netns:
    """Put a namespace on a link with the host, and have it know the way to the containers."""
    peer = ["peer", "name", "eth0", "netns", other.name]
    HOST.ip("link", "add", "up0", "type", "veth", *peer)
    for place, link, addresses in (
        (HOST, "up0", HOST_ADDRESS),
        (other, "eth0", OUTSIDE_ADDRESS),
    ):
        place.ip("addr", "add", f"{addresses[4]}/24", "dev", link)
        place.ip("addr", "add", f"{addresses[6]}/64", "dev", link, "nodad")
        place.ip("link", "set", link, "up")
    for family in (4, 6):
        HOST.ip("route", "add", "default", "via", OUTSIDE_ADDRESS[family])
        other.ip("route", "add", "default", "via", HOST_ADDRESS[family])
    return other


@pytest.fixture
def routed(config: Config) -> Config:
    """A dual-stack network with a way out, and no masquerade."""
    subnets = cni.host_local("10.1.0.0/24", "fd00:1::/64")
    return config | {"isDefaultGateway": True, "ipam": subnets}


@pytest.fixture
def blue(routed: Config) -> Config:
    """The same with masquerade."""
    return routed | {"ipMasq": True}


@pytest.fixture
def green(blue: Config) -> Config:
    """Another network like blue."""
    return numbered(blue, "green", 2)


def numbered(config: Config, name: str, number: int) -> Config:
    """A network like another, with bridge and subnets of its own."""
    subnets = cni.host_local(f"10.{number}.0.0/24", f"fd00:{number}::/64")
    return config | {"name": name, "bridge": f"{name}0", "ipam": subnets}


def mapping(
    host_port: int, container_port: int, protocol: str | None = None, host_ip: str | None = None
) -> Config:
    """One member of runtimeConfig.portMappings."""
    found: Config = {"hostPort": host_port, "containerPort": container_port}
    if protocol is not None:
        found["protocol"] = protocol
    if host_ip is not None:
        found["hostIP"] = host_ip
    return found


def publishing(config: Config, *mappings: Config) -> Config:
    """The configuration with published ports."""
    return config | {"runtimeConfig": {"portMappings": list(mappings)}}


# --- traffic


TYPES = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


@contextmanager
def serving(netns: Netns, protocol: str, port: int) -> Iterator[socket.socket]:
    """A socket inside that answers both families at a port."""
    with netns.entered():
        service = socket.socket(socket.AF_INET6, TYPES[protocol])
    with service:
        service.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        service.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        service.bind(("::", port))
        if protocol == "tcp":
            service.listen()
        service.setblocking(False)
        yield service


@contextmanager
def calling(netns: Netns, protocol: str) -> Iterator[Callable[[str], socket.socket]]:
    """Makes a socket inside, for an address of either family."""
    made = []

    def make(address: str) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with netns.entered():
            made.append(socket.socket(family, TYPES[protocol]))
        return made[-1]

    try:
        yield make
    finally:
        for each in made:
            each.close()


def caller(
    client: Netns, service: socket.socket, address: str, port: int, *, seconds: float = cni.PATIENCE
) -> str | None:
    """The address that a service sees of a client that got an answer, or None."""
    protocol = "tcp" if service.type == socket.SOCK_STREAM else "udp"
    with calling(client, protocol) as make:
        near = make(address)
        near.settimeout(seconds)
        try:
            near.connect((address, port))
        except OSError:
            return None
        if protocol == "udp":
            found = answered(near, {"": service}, seconds=seconds)
            return found[1] if found else None
        if not select.select([service], [], [], seconds)[0]:
            return None
        far, peer = service.accept()
        with far:
            far.settimeout(seconds)
            near.sendall(b"?")
            far.sendall(far.recv(1) + b"!")
            assert near.recv(2, socket.MSG_WAITALL) == b"?!"
        return plain(peer[0])


def answered(
    near: socket.socket, services: dict[str, socket.socket], *, seconds: float = cni.PATIENCE
) -> tuple[str, str] | None:
    """Which service answers a connected UDP socket, and the address that it sees; or None."""
    token = os.urandom(8)
    names = {service: name for name, service in services.items()}
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            near.send(token)
        except OSError:
            time.sleep(0.01)  # an ICMP error of an earlier datagram, or no neighbour yet
            continue
        for ready in select.select(list(names), [], [], 0.1)[0]:
            data, peer = ready.recvfrom(64)
            if data != token:
                continue
            ready.sendto(token, peer)
            near.settimeout(max(0.05, deadline - time.monotonic()))
            try:
                while near.recv(64) != token:
                    pass  # the answer to an earlier one
            except TimeoutError:
                return None
            except OSError:
                break  # an ICMP error of an earlier datagram
            return names[ready], plain(peer[0])
    return None


def plain(address: str) -> str:
    """An address without IPv6's notation for IPv4."""
    return address.removeprefix("::ffff:")


def reached(client: Netns, server: Netns, address: str, port: int = 80) -> bool:
    """Whether a TCP service in one namespace is reached from another, when it is meant to be."""
    with serving(server, "tcp", port) as service:
        return caller(client, service, address, port) is not None


def kept_apart(client: Netns, server: Netns, *addresses: str, port: int = 80) -> bool:
    """Whether a client reaches none of the addresses, by TCP, UDP or ping."""
    with (
        ThreadPoolExecutor(len(addresses)) as pool,
        serving(server, "tcp", port) as tcp,
        serving(server, "udp", port) as udp,
    ):
        pings = pool.map(lambda address: client.reaches(address, seconds=1), addresses)
        calls = [
            caller(client, service, address, port, seconds=NO_WAIT)
            for service in (tcp, udp)
            for address in addresses
        ]
        return not any(calls) and not any(pings)


def bridge_netfilter(value: str) -> None:
    """Have bridged packets pass the rules of IP, or not; where the kernel has the module."""
    for name in BRIDGE_NETFILTER:
        path = Path("/proc/sys/net/bridge", name)
        if path.exists():
            path.write_text(value)
        elif value == "1":
            pytest.skip("br_netfilter is not loaded")


@pytest.fixture(params=["0", "1"], ids=["bridged", "br_netfilter"])
def netfilter(request: pytest.FixtureRequest, node: None) -> None:
    """Both ways for bridged packets: past the rules of IP, and through them."""
    bridge_netfilter(request.param)


# --- what nft says


def ruleset() -> list[Config]:
    """Every object of the tables, as nft has them in JSON."""
    document = json.loads(run("nft", "-j", "list", "ruleset"))
    return [each for each in document["nftables"] if "metainfo" not in each]


def rules() -> list[str]:
    """The rules, each with its place."""
    found = [each["rule"] for each in ruleset() if "rule" in each]
    return sorted(
        json.dumps({key: value for key, value in rule.items() if key != "handle"}, sort_keys=True)
        for rule in found
    )


def elements(family: str, name: str) -> dict[str, tuple[str, str]]:
    """A map of ours: key to value and comment, in words."""
    (found,) = [
        each["map"]
        for each in ruleset()
        if "map" in each
        and (each["map"]["family"], each["map"]["table"], each["map"]["name"])
        == (family, "cnm", name)
    ]
    return dict(_element(key, value) for key, value in found.get("elem", []))


def _element(key: Any, value: Any) -> tuple[str, tuple[str, str]]:
    inner = key["elem"] if isinstance(key, dict) and "elem" in key else {"val": key}
    return _words(inner["val"]), (_words(value), inner.get("comment", ""))


def _words(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    ((kind, inner),) = value.items()
    if kind == "concat":
        return " . ".join(map(str, inner))
    if kind == "prefix":
        return f"{inner['addr']}/{inner['len']}"
    return f"{kind} {inner['target']}"


def published() -> dict[str, str]:
    """Every published port, with its family, and where it leads."""
    return {
        f"{family} {key}": value
        for family in TABLES
        for name in ("ports", "address_ports")
        for key, (value, _) in elements(family, name).items()
    }


def tables() -> list[tuple[str, str]]:
    """Family and name of every table."""
    found = [each["table"] for each in ruleset() if "table" in each]
    return [(each["family"], each["name"]) for each in found]


# --- masquerade


@pytest.mark.parametrize("protocol", TYPES)
@pytest.mark.parametrize("family", [4, 6])
def test_masquerade(
    endpoint: MakeEndpoint, outside: Netns, blue: Config, protocol: str, family: int
) -> None:
    """Other hosts see the host's address, and their answers arrive."""
    eth0 = endpoint()
    eth0.add(blue)
    with serving(outside, protocol, 7000) as service:
        seen = caller(eth0.netns, service, OUTSIDE_ADDRESS[family], 7000)
    assert seen == HOST_ADDRESS[family]


def test_no_masquerade(endpoint: MakeEndpoint, outside: Netns, routed: Config) -> None:
    """Without ipMasq they see the container's, and nothing is made in nftables."""
    eth0 = endpoint()
    addresses = cni.addresses(eth0.add(routed))
    with serving(outside, "tcp", 7000) as service:
        seen = [caller(eth0.netns, service, OUTSIDE_ADDRESS[family], 7000) for family in (4, 6)]
    assert seen == addresses
    assert tables() == []


def test_ping_through_masquerade(endpoint: MakeEndpoint, outside: Netns, blue: Config) -> None:
    """It is for every protocol."""
    eth0 = endpoint()
    eth0.add(blue)
    for address in OUTSIDE_ADDRESS.values():
        assert eth0.netns.reaches(address, seconds=cni.PATIENCE)


@pytest.mark.usefixtures("netfilter")
def test_no_masquerade_inside(endpoint: MakeEndpoint, outside: Netns, blue: Config) -> None:
    """Containers of the network, and the host, see each other's own addresses."""
    one, other = endpoint(), endpoint()
    own = cni.addresses(one.add(blue))
    peers = cni.addresses(other.add(blue))
    with serving(other.netns, "tcp", 7000) as tcp, serving(other.netns, "udp", 7000) as udp:
        for service in (tcp, udp):
            assert [caller(one.netns, service, each, 7000) for each in peers] == own
    with serving(HOST, "tcp", 7000) as service:
        assert [caller(one.netns, service, each, 7000) for each in GATEWAY.values()] == own
    assert one.netns.reaches(peers[0])


@pytest.mark.parametrize(
    ("family", "source", "group"), [(4, "10.1.0.1", "239.1.2.3"), (6, "fd00:1::1", "ff1e::123")]
)
def test_no_masquerade_of_multicast(
    endpoint: MakeEndpoint, outside: Netns, blue: Config, family: int, source: str, group: str
) -> None:
    """Multicast from the network's subnet keeps its source; other datagrams do not."""
    endpoint().add(blue)
    index = HOST.link("up0")["ifindex"]
    with serving(outside, "udp", 7000) as service, calling(HOST, "udp") as make:
        _join(service, group, outside.link("eth0")["ifindex"])
        near = make(source)
        near.bind((source, 0))
        if family == 4:
            interface = socket.inet_aton(HOST_ADDRESS[4])
            near.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, interface)
        else:
            near.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        for to, expected in (
            (OUTSIDE_ADDRESS[family], HOST_ADDRESS[family]),
            (group, source),
        ):
            near.sendto(b"?", (to, 7000))
            assert select.select([service], [], [], cni.PATIENCE)[0]
            _, peer = service.recvfrom(64)
            assert plain(peer[0]) == expected


def _join(service: socket.socket, group: str, index: int) -> None:
    if ":" in group:
        membership = socket.inet_pton(socket.AF_INET6, group) + index.to_bytes(4, "little")
        service.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, membership)
    else:
        request = socket.inet_aton(group) + bytes(4) + index.to_bytes(4, "little")
        service.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)


def test_source_of_masqueraded_traffic(
    endpoint: MakeEndpoint, outside: Netns, blue: Config
) -> None:
    """hostIPv4 and hostIPv6 choose between the host's addresses."""
    chosen = {4: "192.0.2.7", 6: "2001:db8::7"}
    HOST.ip("addr", "add", "192.0.2.7/24", "dev", "up0")
    HOST.ip("addr", "add", "2001:db8::7/64", "dev", "up0", "nodad")
    eth0 = endpoint()
    eth0.add(blue | {"hostIPv4": chosen[4], "hostIPv6": chosen[6]})
    for protocol in TYPES:
        with serving(outside, protocol, 7000) as service:
            for family in (4, 6):
                seen = caller(eth0.netns, service, OUTSIDE_ADDRESS[family], 7000)
                assert seen == chosen[family]


def test_source_of_one_family(endpoint: MakeEndpoint, outside: Netns, blue: Config) -> None:
    """The family without a choice gets the address of the link."""
    HOST.ip("addr", "add", "192.0.2.7/24", "dev", "up0")
    eth0 = endpoint()
    eth0.add(blue | {"hostIPv4": "192.0.2.7"})
    with serving(outside, "tcp", 7000) as service:
        seen = [caller(eth0.netns, service, each, 7000) for each in OUTSIDE_ADDRESS.values()]
    assert seen == ["192.0.2.7", HOST_ADDRESS[6]]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hostIPv4", "192.0.2"),
        ("hostIPv4", "2001:db8::7"),
        ("hostIPv6", "10.0.0.1"),
        ("hostIPv4", "0.0.0.0"),
        ("hostIPv6", "::"),
    ],
)
def test_invalid_source(
    endpoint: MakeEndpoint, snapshot: TakeSnapshot, blue: Config, key: str, value: str
) -> None:
    """A source that is no address, or one of the other version, is an error."""
    eth0 = endpoint()
    before = snapshot(eth0.netns)
    message = eth0.call("ADD", blue | {key: value}).error(INVALID_CONFIG)["msg"]
    assert key in message
    assert value in message
    assert snapshot(eth0.netns) == before


def test_once_a_network(endpoint: MakeEndpoint, blue: Config) -> None:
    """What there is in nftables does not grow with the containers."""
    eth0 = endpoint()
    eth0.add(blue)
    before = ruleset()
    assert {key for family in TABLES for key in elements(family, "networks")} == {
        "10.1.0.0/24",
        "fd00:1::/64",
    }
    others = [endpoint() for _ in range(5)]
    for each in others:
        each.add(blue)
    assert ruleset() == before
    for each in others:
        each.delete(blue)
    assert ruleset() == before


def test_rules_of_many_networks(endpoint: MakeEndpoint, blue: Config) -> None:
    """A packet passes the same rules of base chains whatever the number of networks."""
    endpoint().add(blue)
    base = _base_rules()
    for number in range(2, 6):
        endpoint().add(numbered(blue, f"n{number}", number))
    assert _base_rules() == base
    assert len(set(rules())) == len(rules())


def _base_rules() -> list[str]:
    chains = [each["chain"] for each in ruleset() if "chain" in each]
    based = {(each["family"], each["name"]) for each in chains if "hook" in each}
    return [
        rule for rule in rules() if (json.loads(rule)["family"], json.loads(rule)["chain"]) in based
    ]


def test_masquerade_by_iptables(
    endpoint: MakeEndpoint, snapshot: TakeSnapshot, blue: Config
) -> None:
    """ipMasqBackend iptables is refused, by key and value."""
    eth0 = endpoint()
    before = snapshot(eth0.netns)
    refused = blue | {"ipMasqBackend": "iptables"}
    by_add = eth0.call("ADD", refused).error(UNSUPPORTED_FIELD)
    by_status = eth0.call("STATUS", refused).error()
    for error in (by_add, by_status):
        assert "ipMasqBackend" in error["msg"]
        assert '"iptables"' in error["msg"]
    assert snapshot(eth0.netns) == before


def test_masquerade_by_nftables(endpoint: MakeEndpoint, outside: Netns, blue: Config) -> None:
    """ipMasqBackend nftables is what happens anyway."""
    eth0 = endpoint()
    eth0.add(blue | {"ipMasqBackend": "nftables"})
    with serving(outside, "tcp", 7000) as service:
        assert caller(eth0.netns, service, OUTSIDE_ADDRESS[4], 7000) == HOST_ADDRESS[4]


def test_a_changed_network(endpoint: MakeEndpoint, outside: Netns, blue: Config) -> None:
    """The next ADD of a changed network changes it for all its containers."""
    eth0 = endpoint()
    own = cni.addresses(eth0.add(blue))
    endpoint().add(blue | {"ipMasq": False, "isolation": True})
    with serving(outside, "tcp", 7000) as service:
        seen = [caller(eth0.netns, service, each, 7000) for each in OUTSIDE_ADDRESS.values()]
    assert seen == own
    endpoint().add(blue)
    with serving(outside, "tcp", 7000) as service:
        seen = [caller(eth0.netns, service, each, 7000) for each in OUTSIDE_ADDRESS.values()]
    assert seen == list(HOST_ADDRESS.values())
    assert len(set(rules())) == len(rules())


def test_a_changed_network_of_a_long_name(endpoint: MakeEndpoint, blue: Config) -> None:
    """Whatever the length of its name."""
    long = blue | {"name": "n" * 120}
    first = endpoint()
    first.add(long)
    before = rules()
    changed = long | {"ipMasq": False, "isolation": True}
    endpoint().add(changed)
    assert rules() != before


# --- published ports


PORTS = (mapping(8080, 80), mapping(8080, 80, "udp"))
CLIENTS = ("outside", "host", "itself", "same network", "another network")


def _client(kind: str, make: MakeEndpoint, outside: Netns, server: Endpoint, blue: Config) -> Netns:
    """The namespace of a client that stands somewhere."""
    if kind == "outside":
        return outside
    if kind == "host":
        return HOST
    if kind == "itself":
        return server.netns
    neighbour = make()
    neighbour.add(blue if kind == "same network" else numbered(blue, "green", 2))
    return neighbour.netns


@pytest.mark.usefixtures("netfilter")
@pytest.mark.parametrize(
    ("kind", "to"),
    [
        ("host", "loopback"),
        *((kind, to) for kind in CLIENTS for to in ("host", "gateway")),
    ],
)
def test_published_ports(
    endpoint: MakeEndpoint, outside: Netns, blue: Config, kind: str, to: str
) -> None:
    """Published ports are reached from everywhere, by addresses of the host."""
    server = endpoint()
    server.add(publishing(blue, *PORTS))
    client = _client(kind, endpoint, outside, server, blue)
    addresses = {"host": HOST_ADDRESS, "gateway": GATEWAY, "loopback": {4: "127.0.0.1"}}[to]
    with serving(server.netns, "tcp", 80) as tcp, serving(server.netns, "udp", 80) as udp:
        failed = [
            (protocol, address)
            for protocol, service in (("tcp", tcp), ("udp", udp))
            for address in addresses.values()
            if caller(client, service, address, 8080) is None
        ]
    assert failed == []


@pytest.mark.usefixtures("netfilter")
@pytest.mark.parametrize("members", [{}, {"isolation": False}, {"isolation": True}], ids=str)
@pytest.mark.parametrize("kind", CLIENTS)
def test_published_ports_of_a_routed_network(
    endpoint: MakeEndpoint, outside: Netns, routed: Config, kind: str, members: Config
) -> None:
    """Publishing does not need masquerade."""
    network = routed | members
    server = endpoint()
    server.add(publishing(network, *PORTS))
    client = _client(kind, endpoint, outside, server, network)
    with serving(server.netns, "tcp", 80) as tcp, serving(server.netns, "udp", 80) as udp:
        failed = [
            (protocol, address)
            for protocol, service in (("tcp", tcp), ("udp", udp))
            for address in HOST_ADDRESS.values()
            if caller(client, service, address, 8080) is None
        ]
    assert failed == []


@pytest.mark.usefixtures("netfilter")
def test_promiscuous_bridge(endpoint: MakeEndpoint, outside: Netns, blue: Config) -> None:
    """A container reaches its own published port with promiscMode, too."""
    server = endpoint()
    config = publishing(blue | {"promiscMode": True}, *PORTS)
    result = server.add(config)
    with serving(server.netns, "tcp", 80) as tcp, serving(server.netns, "udp", 80) as udp:
        for service in (tcp, udp):
            for address in HOST_ADDRESS.values():
                assert caller(server.netns, service, address, 8080)
    server.check(config, result).silent()


def test_source_at_a_published_port(endpoint: MakeEndpoint, outside: Netns, blue: Config) -> None:
    """The container sees who calls from outside."""
    server = endpoint()
    server.add(publishing(blue, *PORTS))
    for protocol in TYPES:
        with serving(server.netns, protocol, 80) as service:
            for family in (4, 6):
                seen = caller(outside, service, HOST_ADDRESS[family], 8080)
                assert seen == OUTSIDE_ADDRESS[family]


def test_elements_of_published_ports(endpoint: MakeEndpoint, blue: Config) -> None:
    """Each port is an element that says whose it is; SCTP has them, too."""
    eth0 = endpoint()
    result = eth0.add(
        publishing(
            blue,
            mapping(8080, 80),
            mapping(5353, 53, "udp"),
            mapping(65535, 1, "sctp"),
            mapping(8443, 443, "tcp", "192.0.2.7"),
            mapping(8443, 443, "sctp", "2001:db8::7"),
            mapping(9000, 9000, "TCP", "0.0.0.0"),
            mapping(9001, 9001, "UDP", "::"),
        )
    )
    v4, v6 = cni.addresses(result)
    owner = f"blue {eth0.container_id}:eth0"
    assert elements("ip", "ports") == {
        "tcp . 8080": (f"{v4} . 80", owner),
        "udp . 5353": (f"{v4} . 53", owner),
        "sctp . 65535": (f"{v4} . 1", owner),
        "tcp . 9000": (f"{v4} . 9000", owner),
    }
    assert elements("ip6", "ports") == {
        "tcp . 8080": (f"{v6} . 80", owner),
        "udp . 5353": (f"{v6} . 53", owner),
        "sctp . 65535": (f"{v6} . 1", owner),
        "udp . 9001": (f"{v6} . 9001", owner),
    }
    assert elements("ip", "address_ports") == {"192.0.2.7 . tcp . 8443": (f"{v4} . 443", owner)}
    assert elements("ip6", "address_ports") == {"2001:db8::7 . sctp . 8443": (f"{v6} . 443", owner)}


def test_rules_do_not_grow_with_ports(endpoint: MakeEndpoint, blue: Config) -> None:
    """A port is an element and no rule."""
    endpoint().add(blue)
    before = rules()
    endpoint().add(publishing(blue, *(mapping(8000 + number, 80) for number in range(200))))
    assert rules() == before
    assert len(published()) == 400


@pytest.mark.parametrize("family", [4, 6])
def test_port_of_one_host_address(
    endpoint: MakeEndpoint, outside: Netns, blue: Config, family: int
) -> None:
    """A port of one address is not one of another."""
    second = {4: "192.0.2.7", 6: "2001:db8::7"}[family]
    HOST.ip("addr", "add", second, "dev", "up0", *(["nodad"] if family == 6 else []))
    server = endpoint()
    server.add(publishing(blue, mapping(8080, 80, "tcp", second)))
    with serving(server.netns, "tcp", 80) as service:
        for client in (outside, HOST):
            assert caller(client, service, second, 8080)
            first = HOST_ADDRESS[family]
            assert caller(client, service, first, 8080, seconds=NO_WAIT) is None
        if family == 4:
            assert caller(HOST, service, "127.0.0.1", 8080, seconds=NO_WAIT) is None


def test_port_of_127_0_0_1(endpoint: MakeEndpoint, outside: Netns, blue: Config) -> None:
    """A port of 127.0.0.1 is for the host alone."""
    server = endpoint()
    server.add(publishing(blue, mapping(8080, 80, None, "127.0.0.1")))
    with serving(server.netns, "tcp", 80) as service:
        assert caller(HOST, service, "127.0.0.1", 8080)
        for client in (outside, HOST):
            for address in HOST_ADDRESS.values():
                assert caller(client, service, address, 8080, seconds=NO_WAIT) is None


def test_localhost_of_ipv6(endpoint: MakeEndpoint, blue: Config) -> None:
    """::1 refuses at once, so that who calls localhost goes on to 127.0.0.1."""
    server = endpoint()
    server.add(publishing(blue, mapping(8080, 80)))
    with serving(server.netns, "tcp", 80) as service, calling(HOST, "tcp") as make:
        near = make("::1")
        near.settimeout(cni.PATIENCE)
        with pytest.raises(ConnectionRefusedError):
            near.connect(("::1", 8080))
        assert caller(HOST, service, "127.0.0.1", 8080)
        assert caller(HOST, service, GATEWAY[6], 8080)


def test_port_of_an_ipv4_address_in_ipv6(endpoint: MakeEndpoint, blue: Config) -> None:
    """An IPv4 address is one in any spelling."""
    config = publishing(blue, mapping(8080, 80, "tcp", "::ffff:192.0.2.1"))
    result = endpoint().add(config)
    v4 = cni.addresses(result)[0]
    assert published() == {"ip 192.0.2.1 . tcp . 8080": f"{v4} . 80"}


@pytest.mark.parametrize("host_ip", ["2001:db8::1", "::", None], ids=str)
def test_port_of_a_version_without_address(
    endpoint: MakeEndpoint, snapshot: TakeSnapshot, blue: Config, host_ip: str | None
) -> None:
    """A port of a host's address that leads nowhere is refused; one of all addresses is not."""
    only4 = blue | {"ipam": cni.host_local("10.1.0.0/24")}
    endpoint().add(only4)
    eth0 = endpoint()
    before = snapshot(eth0.netns)
    config = publishing(only4, mapping(8080, 80, "tcp", host_ip))
    if host_ip != "2001:db8::1":
        eth0.add(config)
        return
    error = eth0.call("ADD", config).error(INVALID_CONFIG)
    assert "port 8080 of 2001:db8::1" in error["msg"]
    assert "no IPv6 address" in error["msg"]
    assert snapshot(eth0.netns) == before


@pytest.mark.parametrize(("host_ip", "family"), [("0.0.0.0", 4), ("::", 6)])
def test_port_of_one_family(
    endpoint: MakeEndpoint, outside: Netns, blue: Config, host_ip: str, family: int
) -> None:
    """Zeros are all addresses of one family, and the other family's port may be somebody else's."""
    zeros = {4: "0.0.0.0", 6: "::"}
    one, other = endpoint(), endpoint()
    one.add(publishing(blue, mapping(8080, 80, "tcp", host_ip)))
    with serving(one.netns, "tcp", 80) as service:
        assert caller(outside, service, HOST_ADDRESS[family], 8080)
        closed = HOST_ADDRESS[10 - family]
        assert caller(outside, service, closed, 8080, seconds=NO_WAIT) is None
    other.add(publishing(blue, mapping(8080, 80, "tcp", zeros[10 - family])))
    with serving(other.netns, "tcp", 80) as service:
        assert caller(outside, service, HOST_ADDRESS[10 - family], 8080)


def test_one_address_beside_all(endpoint: MakeEndpoint, outside: Netns, blue: Config) -> None:
    """The port of one address goes before the same port of all the others."""
    HOST.ip("addr", "add", "192.0.2.7/24", "dev", "up0")
    every, one = endpoint(), endpoint()
    every.add(publishing(blue, mapping(8080, 80)))
    config = publishing(blue, mapping(8080, 80, "tcp", "192.0.2.7"))
    one.add(config)
    with serving(every.netns, "tcp", 80) as of_all, serving(one.netns, "tcp", 80) as of_one:
        for client in (outside, HOST):
            assert caller(client, of_one, "192.0.2.7", 8080)
            assert caller(client, of_all, HOST_ADDRESS[4], 8080)
            assert caller(client, of_all, HOST_ADDRESS[6], 8080)
        one.delete(config)
        assert caller(outside, of_all, "192.0.2.7", 8080)


def test_the_same_port_of_two_protocols(
    endpoint: MakeEndpoint, outside: Netns, blue: Config
) -> None:
    """TCP's ports are not UDP's."""
    one, other = endpoint(), endpoint()
    one.add(publishing(blue, mapping(8080, 80, "tcp")))
    other.add(publishing(blue, mapping(8080, 80, "udp")))
    with serving(one.netns, "tcp", 80) as tcp, serving(other.netns, "udp", 80) as udp:
        assert caller(outside, tcp, HOST_ADDRESS[4], 8080)
        assert caller(outside, udp, HOST_ADDRESS[4], 8080)


def test_the_loopback_of_the_host_stays_its_own(
    endpoint: MakeEndpoint, outside: Netns, blue: Config
) -> None:
    """What listens on 127.0.0.1 of the host is not reached by containers or other hosts."""
    eth0 = endpoint()
    eth0.add(publishing(blue, *PORTS))
    with HOST.entered():
        service = socket.create_server(("127.0.0.1", 7000))
    with service:
        assert caller(HOST, service, "127.0.0.1", 7000)
        for client, link, gateway in (
            (eth0.netns, "eth0", GATEWAY[4]),
            (outside, "eth0", HOST_ADDRESS[4]),
        ):
            client.run(["sysctl", "-qw", f"net.ipv4.conf.{link}.route_localnet=1"])
            client.ip("addr", "delete", "127.0.0.1/8", "dev", "lo")
            client.ip("route", "add", "127.0.0.1", "via", gateway)
            assert caller(client, service, "127.0.0.1", 7000, seconds=NO_WAIT) is None


TAKEN = {
    "all addresses": (mapping(8080, 80), mapping(8080, 81)),
    "one address": (mapping(8080, 80, "tcp", "192.0.2.1"), mapping(8080, 81, "tcp", "192.0.2.1")),
    "IPv6": (mapping(8080, 80, "tcp", "2001:db8::1"), mapping(8080, 80, "tcp", "2001:db8::1")),
    "half": (mapping(8080, 80, "tcp", "::"), mapping(8080, 80)),
    "UDP": (mapping(8080, 80, "udp"), mapping(8080, 80, "udp")),
    "SCTP": (mapping(8080, 80, "sctp"), mapping(8080, 80, "sctp")),
}


@pytest.mark.parametrize("network", ["blue", "green"])
@pytest.mark.parametrize("taken", TAKEN)
def test_a_port_that_is_taken(
    endpoint: MakeEndpoint, snapshot: TakeSnapshot, blue: Config, taken: str, network: str
) -> None:
    """A port is published once; the error names the holder, and nothing has changed."""
    first, second = TAKEN[taken]
    holder, late = endpoint(), endpoint()
    holder.add(publishing(blue, first))
    config = blue if network == "blue" else numbered(blue, "green", 2)
    endpoint().add(config)
    before = snapshot(late.netns)
    asked = publishing(config, mapping(7001, 1), second, mapping(7002, 2, "udp"))
    error = late.call("ADD", asked).error(ADDRESS_IN_USE)
    assert "8080" in error["msg"]
    assert holder.container_id in error["msg"]
    assert snapshot(late.netns) == before
    late.delete(asked)
    assert snapshot(late.netns) == before


def test_a_taken_port_of_a_new_network(
    endpoint: MakeEndpoint, outside: Netns, blue: Config, green: Config
) -> None:
    """After a refused ADD the holder goes on to serve, and the late one may come without."""
    holder, late = endpoint(), endpoint()
    holder.add(publishing(blue, *PORTS))
    late.call("ADD", publishing(green, *PORTS)).error(ADDRESS_IN_USE)
    assert late.netns.links().keys() == {"lo"}
    assert not cni.leases("green")
    late.delete(publishing(green, *PORTS))
    with serving(holder.netns, "tcp", 80) as service:
        assert caller(outside, service, HOST_ADDRESS[4], 8080)
    late.add(green)


def test_a_port_twice_in_one_call(
    endpoint: MakeEndpoint, snapshot: TakeSnapshot, blue: Config
) -> None:
    """A call that wants one port twice is told so."""
    endpoint().add(blue)
    eth0 = endpoint()
    before = snapshot(eth0.netns)
    error = eth0.call("ADD", publishing(blue, mapping(8080, 80), mapping(8080, 81))).error()
    assert error["code"] in (INVALID_CONFIG, ADDRESS_IN_USE)
    assert "8080" in error["msg"]
    assert snapshot(eth0.netns) == before


def test_add_again(endpoint: MakeEndpoint, outside: Netns, blue: Config) -> None:
    """A port does not stand in its own holder's way, nor does one of a container that is gone."""
    config = publishing(blue, *PORTS)
    eth0 = endpoint()
    eth0.add(config)
    eth0.netns.ip("link", "delete", "eth0")
    result = eth0.add(config)
    with serving(eth0.netns, "tcp", 80) as service:
        assert caller(outside, service, HOST_ADDRESS[4], 8080)
    eth0.check(config, result).silent()
    assert len(published()) == 4


FORGETFUL: dict[str, Callable[[Endpoint, Config, Config], object]] = {
    "with everything": lambda eth0, config, result: eth0.delete(config, result),
    "without prevResult": lambda eth0, config, _: eth0.delete(config),
    "without runtimeConfig": lambda eth0, config, result: eth0.delete(
        cni.without(config, "runtimeConfig"), result
    ),
    "without netns": lambda eth0, config, _: eth0.delete(config, env_drop=("CNI_NETNS",)),
    "without anything": lambda eth0, config, _: eth0.delete(
        cni.without(config, "runtimeConfig", "ipMasq", "bridge", "ipam"), env_drop=("CNI_NETNS",)
    ),
    "after the sandbox": lambda eth0, config, _: (
        run("ip", "netns", "delete", eth0.netns.name),
        eth0.delete(config),
    ),
    "invalid by now": lambda eth0, config, _: eth0.delete(
        publishing(config, mapping(0, 99999, "icmp"))
    ),
    "twice": lambda eth0, config, result: (
        eth0.delete(config, result),
        eth0.delete(config, result),
    ),
    "by GC": lambda eth0, config, _: eth0.call("GC", cni.collected(config)).silent(),
    "by GC without runtimeConfig": lambda eth0, config, _: eth0.call(
        "GC", cni.collected(cni.without(config, "runtimeConfig"))
    ).silent(),
}


@pytest.mark.parametrize("how", FORGETFUL)
def test_ports_are_free_again(
    endpoint: MakeEndpoint, outside: Netns, blue: Config, how: str
) -> None:
    """DEL and GC give the ports back, whatever they know."""
    config = publishing(blue, *PORTS, mapping(8443, 443, "tcp", "192.0.2.1"))
    eth0 = endpoint()
    result = eth0.add(config)
    assert len(published()) == 5
    FORGETFUL[how](eth0, config, result)
    assert published() == {}
    heir = endpoint()
    heir.add(config)
    with serving(heir.netns, "tcp", 80) as service:
        assert caller(outside, service, HOST_ADDRESS[4], 8080)


def test_gc_of_others(endpoint: MakeEndpoint, outside: Netns, blue: Config, green: Config) -> None:
    """GC takes back the ports of what is not valid, and only those."""
    valid, stale, foreign = endpoint(), endpoint(), endpoint()
    valid.add(publishing(blue, mapping(8001, 80)))
    stale.add(publishing(blue, mapping(8002, 80)))
    foreign.add(publishing(green, mapping(8003, 80)))
    valid.call("GC", cni.collected(blue, valid)).silent()
    assert elements("ip", "ports").keys() == {"tcp . 8001", "tcp . 8003"}
    for each, port in ((valid, 8001), (foreign, 8003)):
        with serving(each.netns, "tcp", 80) as service:
            assert caller(outside, service, HOST_ADDRESS[4], port)


def test_delete_of_one_interface(endpoint: MakeEndpoint, blue: Config, green: Config) -> None:
    """The other interface of a container keeps its ports."""
    eth0 = endpoint()
    eth1 = eth0.other("eth1")
    eth0.add(publishing(blue, mapping(8001, 80)))
    eth1.add(publishing(cni.without(green, "isDefaultGateway"), mapping(8002, 80)))
    eth0.delete(blue)
    assert published().keys() == {"ip tcp . 8002", "ip6 tcp . 8002"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hostPort", 0),
        ("hostPort", 65536),
        ("hostPort", -1),
        ("hostPort", "80"),
        ("containerPort", 0),
        ("containerPort", 65536),
        ("protocol", "icmp"),
        ("protocol", "tcp "),
        ("hostIP", "nonsense"),
        ("hostIP", "192.0.2.256"),
        ("hostIP", "192.0.2.0/24"),
        ("hostIP", "fe80::1%eth0"),
        ("hostIP", "::1"),
    ],
)
def test_bad_mappings(
    endpoint: MakeEndpoint,
    snapshot: TakeSnapshot,
    blue: Config,
    key: str,
    value: object,
) -> None:
    """What is no mapping is refused with place and value."""
    eth0 = endpoint()
    before = snapshot(eth0.netns)
    bad = publishing(blue, mapping(8079, 79), mapping(8080, 80) | {key: value})
    error = eth0.call("ADD", bad).error(INVALID_CONFIG)
    assert f"runtimeConfig.portMappings[1].{key}" in error["msg"]
    assert str(value) in error["msg"]
    assert snapshot(eth0.netns) == before


@pytest.mark.parametrize("key", ["hostPort", "containerPort"])
def test_mapping_without_a_port(endpoint: MakeEndpoint, blue: Config, key: str) -> None:
    """Both ports must be said."""
    bad = publishing(blue, cni.without(mapping(8080, 80), key))
    error = endpoint().call("ADD", bad).error(INVALID_CONFIG)
    assert f"runtimeConfig.portMappings[0].{key}" in error["msg"]


def test_ports_need_addresses(
    endpoint: MakeEndpoint, snapshot: TakeSnapshot, config: Config
) -> None:
    """Without addresses there is nothing that a port could lead to."""
    eth0 = endpoint()
    before = snapshot(eth0.netns)
    layer2 = publishing(cni.without(config, "ipam", "isGateway"), *PORTS)
    assert "portMappings" in eth0.call("ADD", layer2).error(INVALID_CONFIG)["msg"]
    assert snapshot(eth0.netns) == before


@pytest.mark.parametrize("mappings", [None, []], ids=str)
def test_no_mappings(endpoint: MakeEndpoint, routed: Config, mappings: object) -> None:
    """A network without ports and policy has nothing in nftables."""
    eth0 = endpoint()
    config = routed | {"runtimeConfig": {"portMappings": mappings}}
    result = eth0.add(config)
    eth0.check(config, result).silent()
    eth0.delete(config)
    assert tables() == []


# --- flows of UDP that go on


@pytest.mark.parametrize(
    ("address", "host_ip"), [("192.0.2.1", False), ("2001:db8::1", False), ("192.0.2.1", True)]
)
def test_udp_follows(
    endpoint: MakeEndpoint, outside: Netns, blue: Config, address: str, host_ip: bool
) -> None:
    """A client that goes on to send reaches whoever has the port at the time."""
    config = publishing(blue, mapping(5353, 53, "udp", address if host_ip else None))
    one, other = endpoint(), endpoint()
    with (
        calling(outside, "udp") as make,
        serving(HOST, "udp", 5353) as host,
        serving(one.netns, "udp", 53) as first,
        serving(other.netns, "udp", 53) as second,
    ):
        services = {"host": host, "first": first, "second": second}
        near = make(address)
        near.connect((address, 5353))
        assert _answers(near, services) == "host"
        one.add(config)
        assert _answers(near, services) == "first"
        one.delete(config)
        assert _answers(near, services) == "host"
        other.add(config)
        assert _answers(near, services) == "second"
        other.call("GC", cni.collected(config)).silent()
        assert _answers(near, services) == "host"


def test_udp_follows_on_the_host(endpoint: MakeEndpoint, blue: Config) -> None:
    """The same for a client on the host itself, by 127.0.0.1."""
    config = publishing(blue, mapping(5353, 53, "udp"))
    one, other = endpoint(), endpoint()
    with (
        calling(HOST, "udp") as make,
        serving(one.netns, "udp", 53) as first,
        serving(other.netns, "udp", 53) as second,
    ):
        services = {"first": first, "second": second}
        near = make("127.0.0.1")
        near.connect(("127.0.0.1", 5353))
        for each, expected in ((one, "first"), (other, "second")):
            assert answered(near, services, seconds=NO_WAIT) is None
            each.add(config)
            assert _answers(near, services) == expected
            each.delete(config)


def _answers(near: socket.socket, services: dict[str, socket.socket]) -> str | None:
    found = answered(near, services)
    return found[0] if found else None


@pytest.mark.parametrize("family", [4, 6])
def test_other_flows_stay(
    endpoint: MakeEndpoint, outside: Netns, blue: Config, family: int
) -> None:
    """Flows to the same port of another host go on: late answers arrive."""
    client, server = endpoint(), endpoint()
    client.add(blue)
    config = publishing(blue, mapping(5353, 53, "udp"))
    with serving(outside, "udp", 5353) as service, calling(client.netns, "udp") as make:
        near = make(OUTSIDE_ADDRESS[family])
        near.connect((OUTSIDE_ADDRESS[family], 5353))
        near.settimeout(cni.PATIENCE)
        near.send(b"?")
        assert select.select([service], [], [], cni.PATIENCE)[0]
        _, peer = service.recvfrom(64)
        for change in (lambda: server.add(config), lambda: server.delete(config)):
            change()
            service.sendto(b"!", peer)
            assert near.recv(64) == b"!"


# --- isolation


@pytest.mark.parametrize(
    ("members", "opened"),
    [
        ({"ipMasq": True}, False),
        ({"ipMasq": True, "isolation": True}, False),
        ({"ipMasq": True, "isolation": False}, True),
        ({"ipMasq": False, "isolation": True}, False),
        ({"ipMasq": False, "isolation": False}, True),
        ({"ipMasq": False}, True),
    ],
    ids=str,
)
@pytest.mark.parametrize("ports", [False, True], ids=["no ports", "ports"])
def test_from_outside(
    endpoint: MakeEndpoint,
    outside: Netns,
    routed: Config,
    members: Config,
    opened: bool,
    ports: bool,
) -> None:
    """Unpublished ports are closed to other hosts, unless the network is open."""
    config = routed | members
    eth0 = endpoint()
    addresses = cni.addresses(eth0.add(publishing(config, *PORTS) if ports else config))
    if opened:
        assert all(reached(outside, eth0.netns, address) for address in addresses)
        assert all(outside.reaches(address, seconds=cni.PATIENCE) for address in addresses)
    else:
        assert kept_apart(outside, eth0.netns, *addresses)
    # The way out is another thing.
    assert all(reached(eth0.netns, outside, address) for address in OUTSIDE_ADDRESS.values())
    assert reached(HOST, eth0.netns, addresses[0])


@pytest.mark.parametrize(
    ("of_blue", "of_green"),
    [
        ({"ipMasq": True}, {"ipMasq": True}),
        ({"ipMasq": True, "isolation": False}, {"ipMasq": True}),
        ({"ipMasq": False, "isolation": True}, {"ipMasq": False}),
        ({"ipMasq": False}, {"ipMasq": False}),
        ({"ipMasq": True, "isolation": False}, {"ipMasq": True, "isolation": False}),
    ],
    ids=str,
)
def test_networks_from_each_other(
    endpoint: MakeEndpoint, routed: Config, of_blue: Config, of_green: Config
) -> None:
    """A network is reached from another one if it is open."""
    one, other = endpoint(), endpoint()
    blue, green = routed | of_blue, numbered(routed, "green", 2) | of_green
    in_blue, in_green = cni.addresses(one.add(blue)), cni.addresses(other.add(green))
    for client, server, addresses, network in (
        (one, other, in_green, green),
        (other, one, in_blue, blue),
    ):
        if network.get("isolation", network["ipMasq"]):
            assert kept_apart(client.netns, server.netns, *addresses)
        else:
            assert all(reached(client.netns, server.netns, each) for each in addresses)


def test_only_the_published_port(
    endpoint: MakeEndpoint, outside: Netns, blue: Config, green: Config
) -> None:
    """A published port opens neither the container's address nor its other ports."""
    server, other = endpoint(), endpoint()
    addresses = cni.addresses(server.add(publishing(blue, *PORTS)))
    other.add(green)
    for client in (outside, other.netns):
        assert kept_apart(client, server.netns, *addresses, port=80)
        assert kept_apart(client, server.netns, *addresses, port=81)


@pytest.mark.usefixtures("netfilter")
def test_internal(endpoint: MakeEndpoint, outside: Netns, routed: Config, config: Config) -> None:
    """An internal network has no way in or out; its containers reach each other."""
    internal = config | {"internal": True, "ipam": routed["ipam"]}
    one, two, other, public = endpoint(), endpoint(), endpoint(), endpoint()
    result = one.add(internal)
    addresses = cni.addresses(result)
    neighbours = cni.addresses(two.add(internal))
    green = numbered(routed, "green", 2)
    others = cni.addresses(other.add(green))
    public.add(publishing(numbered(routed, "red", 3), mapping(8080, 80)))
    for family in (4, 6):
        one.netns.ip("route", "add", "default", "via", GATEWAY[family])
    assert all(reached(one.netns, two.netns, address) for address in neighbours)
    assert all(one.netns.reaches(address, seconds=cni.PATIENCE) for address in neighbours)
    one.check(internal, result).silent()
    assert kept_apart(outside, one.netns, *addresses)
    assert kept_apart(other.netns, one.netns, *addresses)
    assert kept_apart(one.netns, outside, *OUTSIDE_ADDRESS.values())
    assert kept_apart(one.netns, other.netns, *others)
    with serving(public.netns, "tcp", 80) as service:
        assert caller(outside, service, HOST_ADDRESS[4], 8080)
        assert caller(one.netns, service, HOST_ADDRESS[4], 8080, seconds=NO_WAIT) is None
    assert reached(other.netns, outside, OUTSIDE_ADDRESS[4])


@pytest.mark.parametrize(
    ("key", "members"),
    [
        ("ipMasq", {"ipMasq": True}),
        ("isDefaultGateway", {"isDefaultGateway": True}),
        ("portMappings", {"runtimeConfig": {"portMappings": [mapping(8080, 80)]}}),
    ],
)
def test_internal_with_a_way_out(
    endpoint: MakeEndpoint, snapshot: TakeSnapshot, config: Config, key: str, members: Config
) -> None:
    """An internal network cannot be asked for a way in or out."""
    eth0 = endpoint()
    before = snapshot(eth0.netns)
    error = eth0.call("ADD", config | {"internal": True} | members).error(INVALID_CONFIG)
    assert "internal" in error["msg"]
    assert key in error["msg"]
    assert snapshot(eth0.netns) == before


@pytest.mark.parametrize("members", [{"icc": False}, {"portIsolation": True}], ids=str)
@pytest.mark.parametrize("masquerade", [False, True], ids=["routed", "masqueraded"])
def test_no_communication_of_containers(
    endpoint: MakeEndpoint, outside: Netns, routed: Config, members: Config, masquerade: bool
) -> None:
    """icc: false keeps containers apart; each of them has the gateway and the way out."""
    config = routed | {"ipMasq": masquerade} | members
    one, other = endpoint(), endpoint()
    result = one.add(config)
    addresses = cni.addresses(other.add(config))
    assert kept_apart(one.netns, other.netns, *addresses)
    for each in (one, other):
        assert all(
            each.netns.reaches(address, seconds=cni.PATIENCE) for address in GATEWAY.values()
        )
        assert all(reached(each.netns, outside, address) for address in OUTSIDE_ADDRESS.values())
    one.check(config, result).silent()


@pytest.mark.usefixtures("netfilter")
def test_ports_without_communication_of_containers(
    endpoint: MakeEndpoint, outside: Netns, blue: Config
) -> None:
    """With icc: false published ports are reached from outside and from the host.

    Not by the container itself where bridged packets pass the rules of IP: they stay on the
    bridge then, and an isolated port takes nothing from an isolated port.
    """
    server = endpoint()
    server.add(publishing(blue | {"icc": False}, *PORTS))
    with serving(server.netns, "tcp", 80) as service:
        for client in (outside, HOST):
            for address in HOST_ADDRESS.values():
                assert caller(client, service, address, 8080)


def test_networks_of_one_bridge(
    endpoint: MakeEndpoint, outside: Netns, blue: Config, green: Config
) -> None:
    """An open network on the bridge of an isolated one is refused, or opens only itself."""
    isolated = endpoint()
    addresses = cni.addresses(isolated.add(blue))
    assert kept_apart(outside, isolated.netns, *addresses)
    shared = cni.without(green, "isDefaultGateway", "isGateway") | {"bridge": blue["bridge"]}
    endpoint().call("ADD", publishing(shared | {"ipMasq": False}, mapping(8080, 80)))
    assert kept_apart(outside, isolated.netns, *addresses)


def test_overlapping_subnets(endpoint: MakeEndpoint, snapshot: TakeSnapshot, blue: Config) -> None:
    """A network that overlaps with another one's subnet is refused, and named."""
    endpoint().add(blue)
    eth0 = endpoint()
    before = snapshot(eth0.netns).rules
    overlapping = numbered(blue, "green", 2) | {"ipam": cni.host_local("10.1.0.0/16")}
    error = eth0.call("ADD", overlapping).error(INVALID_CONFIG)
    bridge = blue["bridge"]
    assert error["msg"] == f"subnet 10.1.0.0/16 overlaps with that of network blue on {bridge}"
    assert snapshot(eth0.netns).rules == before
    assert eth0.netns.links().keys() == {"lo"}
    assert not cni.leases("green")


# --- rules of others


DOCKER = """
table ip nat {
    chain DOCKER {
        iifname "docker0" return
        iifname != "docker0" tcp dport 8081 dnat to 172.17.0.2:80
    }
    chain PREROUTING {
        type nat hook prerouting priority dstnat; policy accept;
        fib daddr type local jump DOCKER
    }
    chain OUTPUT {
        type nat hook output priority -100; policy accept;
        ip daddr != 127.0.0.0/8 fib daddr type local jump DOCKER
    }
    chain POSTROUTING {
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr 172.17.0.0/16 oifname != "docker0" masquerade
    }
}
table ip filter {
    chain DOCKER {
        ip daddr 172.17.0.2 iifname != "docker0" oifname "docker0" tcp dport 80 accept
    }
    chain DOCKER-USER {
        return
    }
    chain FORWARD {
        type filter hook forward priority filter; policy POLICY;
        jump DOCKER-USER
        oifname "docker0" ct state established,related accept
        oifname "docker0" jump DOCKER
        iifname "docker0" oifname != "docker0" accept
    }
}
table ip6 filter {
    chain FORWARD {
        type filter hook forward priority filter; policy POLICY;
    }
}
"""
FIREWALLD = """
table inet firewalld {
    chain mangle_PREROUTING {
        type filter hook prerouting priority mangle + 10; policy accept;
    }
    chain nat_POSTROUTING {
        type nat hook postrouting priority srcnat + 10; policy accept;
        oifname "wan0" masquerade
    }
    chain filter_FORWARD {
        type filter hook forward priority filter + 10; policy accept;
        ct state established,related accept
        ct status dnat accept
        iifname "lo" accept
    }
}
"""
KUBE_PROXY = """
table ip kube-proxy {
    set cluster-ips {
        type ipv4_addr
        elements = { 10.96.0.1 }
    }
    map service-ips {
        type ipv4_addr . inet_proto . inet_service : verdict
        elements = { 10.96.0.1 . tcp . 443 : goto service-kubernetes }
    }
    chain service-kubernetes {
        ip protocol tcp dnat to 192.0.2.99:6443
    }
    chain services {
        ip daddr . meta l4proto . th dport vmap @service-ips
    }
    chain nat-prerouting {
        type nat hook prerouting priority dstnat; policy accept;
        jump services
    }
    chain nat-output {
        type nat hook output priority -100; policy accept;
        jump services
    }
    chain masquerading {
        meta mark & 0x00004000 == 0x00000000 return
        meta mark set meta mark ^ 0x00004000
        masquerade fully-random
    }
    chain nat-postrouting {
        type nat hook postrouting priority srcnat; policy accept;
        jump masquerading
    }
}
table inet cnm {
    chain forward {
        type filter hook forward priority filter; policy accept;
        ct state invalid counter name "none"
    }
    counter none {
    }
}
"""
FOREIGN = [
    ("ip", "nat"),
    ("ip", "filter"),
    ("ip6", "filter"),
    ("inet", "firewalld"),
    ("ip", "kube-proxy"),
    ("inet", "cnm"),
]


def _load_foreign(tmp_path: Path, policy: str) -> None:
    path = tmp_path / "foreign.nft"
    path.write_text((DOCKER + FIREWALLD + KUBE_PROXY).replace("POLICY", policy))
    run("nft", "-f", str(path))


def _foreign() -> list[str]:
    return [run("nft", "-a", "list", "table", *each) for each in FOREIGN]


@pytest.mark.parametrize("policy", ["accept", "drop"])
def test_foreign_rules(
    endpoint: MakeEndpoint, outside: Netns, blue: Config, tmp_path: Path, policy: str
) -> None:
    """Tables of others are as they were, byte for byte, after every verb."""
    _load_foreign(tmp_path, policy)
    before = _foreign()
    config = publishing(blue, *PORTS)
    one, other = endpoint(), endpoint()
    result = one.add(config)
    assert _foreign() == before
    other.add(config | {"name": "blue", "runtimeConfig": {}})
    one.check(config, result).silent()
    assert set(tables()) == {*FOREIGN, ("ip", "cnm"), ("ip6", "cnm")}
    if policy == "accept":
        with serving(one.netns, "tcp", 80) as service:
            for client in (outside, HOST, one.netns, other.netns):
                assert caller(client, service, HOST_ADDRESS[4], 8080)
        assert kept_apart(outside, one.netns, *cni.addresses(result))
    late = endpoint()
    late.call("ADD", config).error(ADDRESS_IN_USE)
    one.delete(config)
    assert _foreign() == before
    other.call("GC", cni.collected(config)).silent()
    assert _foreign() == before


# --- CHECK, and repairing


def _host_end(result: Config) -> str:
    name: str = result["interfaces"][1]["name"]
    return name


def _elsewhere(result: Config) -> None:
    run("nft", "delete element ip cnm ports { tcp . 8080 }")
    run("nft", "add element ip cnm ports { tcp . 8080 : 10.1.0.99 . 80 }")


def _another_port(result: Config) -> None:
    v4 = cni.addresses(result)[0]
    run("nft", "delete element ip cnm ports { tcp . 8080 }")
    run("nft", f"add element ip cnm ports {{ tcp . 8080 : {v4} . 81 }}")


def _nft(command: str) -> Callable[[Config], object]:
    return lambda _: run("nft", command)


def _nft_rule_gone(family: str, chain: str) -> Callable[[Config], object]:
    def change(_: Config) -> None:
        listed = json.loads(run("nft", "-j", "list", "chain", family, "cnm", chain))["nftables"]
        handle = [each["rule"]["handle"] for each in listed if "rule" in each][-1]
        run("nft", "delete", "rule", family, "cnm", chain, "handle", str(handle))

    return change


# What was changed behind the plugin's back, and a word that the error must have.
DRIFTS: dict[str, tuple[Callable[[Config], object], str]] = {
    "port gone": (_nft("delete element ip cnm ports { tcp . 8080 }"), "8080"),
    "IPv6 port gone": (_nft("delete element ip6 cnm ports { tcp . 8080 }"), "8080"),
    "port of an address gone": (
        _nft("delete element ip cnm address_ports { 192.0.2.1 . udp . 53 }"),
        "53",
    ),
    "port to another container": (_elsewhere, "10.1.0.99"),
    "port to another port": (_another_port, "81"),
    "network gone": (_nft("delete element ip cnm networks { 10.1.0.0/24 }"), "10.1.0.0/24"),
    "IPv6 network gone": (_nft("delete element ip6 cnm networks { fd00:1::/64 }"), "fd00:1::/64"),
    "everything gone": (_nft("flush ruleset"), "10.1.0.0/24"),
    "IPv6 table gone": (_nft("delete table ip6 cnm"), "fd00:1::/64"),
    "rules of published ports gone": (_nft("flush chain ip cnm published"), "published"),
    "rules of prerouting gone": (_nft("flush chain ip cnm prerouting"), "prerouting"),
    "rules of postrouting gone": (_nft("flush chain ip6 cnm postrouting"), "postrouting"),
    "rules of forward gone": (_nft("flush chain ip cnm forward"), "forward"),
    "masquerade gone": (_nft("flush chain ip cnm nat-blue"), "nat-blue"),
    "isolation gone": (_nft("flush chain ip cnm to-blue"), "to-blue"),
    "rule of forward gone": (_nft_rule_gone("ip6", "forward"), "forward"),
    "way from the bridge gone": (
        _nft('delete element ip cnm forward_from { "blue0" }'),
        "forward_from",
    ),
    "bridge down": (lambda _: HOST.ip("link", "set", "blue0", "down"), "bridge blue0"),
    "bridge gone": (
        lambda _: HOST.ip("link", "delete", "blue0"),
        "bridge blue0: expected a bridge",
    ),
    "foreign IPv6 address": (
        lambda _: HOST.ip("addr", "add", "fd00:1::9/64", "dev", "blue0", "nodad"),
        "fd00:1::9",
    ),
    "isolation not asked for": (
        _nft("delete element ip cnm forward_to { 10.1.0.0/24 }"),
        "forward_to",
    ),
    "gateway gone": (lambda _: HOST.ip("addr", "del", "10.1.0.1/24", "dev", "blue0"), "10.1.0.1"),
    "IPv6 gateway gone": (
        lambda _: HOST.ip("addr", "del", "fd00:1::1/64", "dev", "blue0"),
        "fd00:1::1",
    ),
    "foreign address": (
        lambda _: HOST.ip("addr", "add", "10.9.0.1/24", "dev", "blue0"),
        "10.9.0.1",
    ),
    "no forwarding": (lambda _: _forward(4, "0"), "forwarding of IPv4"),
    "no IPv6 forwarding": (lambda _: _forward(6, "0"), "forwarding of IPv6"),
    "no loopback": (lambda _: _set("0", "ipv4", "conf", "blue0", "route_localnet"), "localnet"),
    "hairpin off": (
        lambda result: run("bridge", "link", "set", "dev", _host_end(result), "hairpin", "off"),
        "hairpin",
    ),
    "MTU of the host end": (
        lambda result: HOST.ip("link", "set", _host_end(result), "mtu", "1300"),
        "1300",
    ),
}


def _set(value: str, *path: str) -> None:
    Path("/proc/sys/net", *path).write_text(value)


def _forward(family: int, value: str) -> None:
    _set(value, *FORWARDING[family])


@pytest.mark.parametrize("drift", DRIFTS)
def test_drift(endpoint: MakeEndpoint, blue: Config, drift: str) -> None:
    """CHECK reports what does not hold any more, and changes nothing."""
    config = publishing(blue | {"mtu": 1400}, *PORTS, mapping(53, 53, "udp", "192.0.2.1"))
    eth0 = endpoint()
    result = eth0.add(config)
    eth0.check(config, result).silent()
    change, word = DRIFTS[drift]
    change(result)
    before = run("nft", "list", "ruleset")
    message = eth0.check(config, result).error(DRIFTED)["msg"]
    drifts = [each for each in message.partition(" has drifted: ")[2].split("; ") if word in each]
    assert drifts, message
    assert all(": expected " in each and ", found " in each for each in drifts), message
    assert run("nft", "list", "ruleset") == before


@pytest.mark.parametrize(
    "members",
    [
        {"ipMasq": False},
        {"isolation": False},
        {"ipMasq": False, "isolation": True},
        {"hostIPv4": "192.0.2.7"},
        {"icc": False},
        {"promiscMode": True},
        {"hairpinMode": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("ports", [False, True], ids=["no ports", "ports"])
def test_no_drift(endpoint: MakeEndpoint, blue: Config, members: Config, ports: bool) -> None:
    """CHECK has nothing to say after ADD, whatever the options, and whoever comes and goes."""
    config = blue | members
    own = publishing(config, *PORTS) if ports else config
    eth0, other = endpoint(), endpoint()
    result = eth0.add(own)
    eth0.check(own, result).silent()
    other.add(config)
    eth0.check(own, result).silent()
    other.delete(config)
    eth0.check(own, result).silent()


DAMAGES = {
    "everything": "flush ruleset",
    "one table": "delete table ip cnm",
    "a network's element": "delete element ip cnm networks { 10.1.0.0/24 }",
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("ports", [False, True], ids=["no ports", "ports"])
def test_repair(
    endpoint: MakeEndpoint, outside: Netns, blue: Config, damage: str, ports: bool
) -> None:
    """The next ADD repairs what all containers share, each thing once."""
    first, second = endpoint(), endpoint()
    addresses = cni.addresses(first.add(blue))
    expected = rules()
    run("nft", DAMAGES[damage])
    config = publishing(blue, *PORTS) if ports else blue
    result = second.add(config)
    assert rules() == expected
    second.check(config, result).silent()
    with serving(outside, "tcp", 7000) as service:
        for family in (4, 6):
            seen = caller(first.netns, service, OUTSIDE_ADDRESS[family], 7000)
            assert seen == HOST_ADDRESS[family]
    assert kept_apart(outside, first.netns, *addresses)
    if ports:
        with serving(second.netns, "tcp", 80) as service:
            assert caller(outside, service, HOST_ADDRESS[4], 8080)


@pytest.mark.parametrize("command", ["DEL", "GC"])
def test_delete_after_a_flush(endpoint: MakeEndpoint, blue: Config, command: str) -> None:
    """DEL and GC do not need what somebody removed."""
    config = publishing(blue, *PORTS)
    eth0 = endpoint()
    eth0.add(config)
    run("nft", "flush", "ruleset")
    eth0.call(command, cni.collected(config)).silent()
    assert not cni.leases()
    assert tables() == []


def test_delete_leaves_what_another_has(
    endpoint: MakeEndpoint, outside: Netns, blue: Config
) -> None:
    """A port that was taken away may be another container's: the first one's DEL leaves it."""
    config = publishing(blue, *PORTS)
    first, second = endpoint(), endpoint()
    first.add(config)
    for family in TABLES:
        run("nft", "flush", "map", family, "cnm", "ports")
    second.add(config)
    before = published()
    first.delete(config)
    assert published() == before
    with serving(second.netns, "tcp", 80) as service:
        assert caller(outside, service, HOST_ADDRESS[4], 8080)


@pytest.mark.parametrize(
    ("bridge", "ifname", "name"),
    [
        ("blue0", "eth0", "blue"),
        ("br.10_x-y", "e.th-0_1", "my.net-1_x"),
        ("0br", "0", "0net"),
        ("accept", "drop", "return"),
        ("blue0", "eth@0+1", "blue"),
        ("blue0", "eth*", "blue"),
        ("blue0", "eth#0", "blue"),
        ("blue0", 'e"th', "blue"),
        ("blue0", "e\\th", "blue"),
        ("blue0", "eth0", "n" * 120),
    ],
)
def test_reload(
    endpoint: MakeEndpoint,
    netns: Callable[[], Netns],
    outside: Netns,
    blue: Config,
    tmp_path: Path,
    bridge: str,
    ifname: str,
    name: str,
) -> None:
    """nft reads what it lists of our tables, and they are the same then, and work."""
    network = blue | {"bridge": bridge, "name": name, "hostIPv4": "192.0.2.1"}
    config = publishing(network, *PORTS, mapping(53, 53, "sctp", "2001:db8::1"))
    eth0 = endpoint().other(ifname)
    result = eth0.add(config)
    _reload(netns(), tmp_path / "ruleset.nft")
    eth0.check(config, result).silent()
    with serving(eth0.netns, "tcp", 80) as service:
        assert caller(outside, service, HOST_ADDRESS[4], 8080)
        assert caller(HOST, service, "127.0.0.1", 8080)
    with serving(outside, "tcp", 7000) as service:
        assert caller(eth0.netns, service, OUTSIDE_ADDRESS[4], 7000) == HOST_ADDRESS[4]
    assert kept_apart(outside, eth0.netns, *cni.addresses(result))
    eth0.delete(config)
    assert published() == {}


def _reload(fresh: Netns, dump: Path) -> None:
    """Load what nft lists into an empty namespace, and anew into the host's."""
    listed = run("nft", "list", "ruleset")
    dump.write_text(listed)
    fresh.run(["nft", "-f", str(dump)])
    assert fresh.run(["nft", "list", "ruleset"]) == listed
    dump.write_text("flush ruleset\n" + listed)
    run("nft", "-f", str(dump))


STRANGE_BRIDGES = ["br+0", "br@0", "br#0", "br$x", "br{", "br'x", "b`r", "brü", "br,x;(y)", "-br"]
STRANGE_BRIDGES += [
    "br.[1]",
    "a" * 15,
    "br?",
    "%",
    "b%sr",
    "br%d",
    "*",
    "br*",
    "b*r",
    'b"r',
    '"br"',
]
STRANGE_BRIDGES += ["br\\0", "br\\*", "br\x01", "br\x7f"]
REFUSED = frozenset('*"\\%\x01\x7f')


@pytest.mark.parametrize("bridge", STRANGE_BRIDGES)
def test_reload_of_strange_bridges(
    endpoint: MakeEndpoint,
    netns: Callable[[], Netns],
    snapshot: TakeSnapshot,
    blue: Config,
    tmp_path: Path,
    bridge: str,
) -> None:
    """A bridge that nft has no words for is refused; any other is listed so that nft reads it."""
    eth0 = endpoint()
    before = snapshot(eth0.netns)
    config = publishing(blue | {"bridge": bridge}, *PORTS)
    outcome = eth0.call("ADD", config)
    if not REFUSED.isdisjoint(bridge):
        assert "bridge" in outcome.error(INVALID_CONFIG)["msg"]
        assert snapshot(eth0.netns) == before
        return
    result = outcome.result()
    _reload(netns(), tmp_path / "ruleset.nft")
    eth0.check(config, result).silent()
    assert [each for each in HOST.links() if each not in ("lo", _host_end(result))] == [bridge]


def test_a_name_is_no_pattern(endpoint: MakeEndpoint, outside: Netns, blue: Config) -> None:
    """Rules about a bridge are not about one whose name begins likewise."""
    short, long = endpoint(), endpoint()
    short.add(blue | {"bridge": "br"})
    other = numbered(blue, "green", 2) | {"bridge": "br0"}
    addresses = cni.addresses(long.add(other))
    assert kept_apart(short.netns, long.netns, *addresses)
    with serving(outside, "tcp", 7000) as service:
        assert caller(long.netns, service, OUTSIDE_ADDRESS[4], 7000) == HOST_ADDRESS[4]


def test_reload_of_all_tables(
    endpoint: MakeEndpoint, netns: Callable[[], Netns], blue: Config, tmp_path: Path
) -> None:
    """The table of source checks beside the others."""
    config = publishing(blue | {"macspoofchk": True}, *PORTS, mapping(53, 53, "udp", "2001:db8::1"))
    eth0 = endpoint()
    result = eth0.add(config)
    assert {("ip", "cnm"), ("ip6", "cnm"), ("bridge", "cnm")} == set(tables())
    before = ruleset()
    _reload(netns(), tmp_path / "ruleset.nft")
    assert len(ruleset()) == len(before)
    eth0.check(config, result).silent()


def test_status_without_permission(endpoint: MakeEndpoint, blue: Config, tmp_path: Path) -> None:
    """STATUS and ADD say that it is nftables that we may not use, and what is needed."""
    eth0 = endpoint()
    eth0.call("STATUS", blue).silent()
    wrapper = tmp_path / "bridge"
    wrapper.write_text(f'#!/bin/sh\nexec setpriv --bounding-set=-net_admin "{eth0.binary}"\n')
    wrapper.chmod(0o755)
    weak = replace(eth0, binary=wrapper)
    error = weak.call("STATUS", blue).error(NOT_AVAILABLE)
    assert error["msg"] == "nftables: the kernel does not permit it"
    assert "CAP_NET_ADMIN" in error["details"]
    plain = cni.without(blue, "ipMasq")
    weak.call("STATUS", plain).silent()


# --- many at a time


def test_twenty_at_once(endpoint: MakeEndpoint, outside: Netns, blue: Config) -> None:
    """The first ADDs of a network with ports may come all at once."""
    endpoints = [endpoint() for _ in range(20)]
    configs = [
        publishing(blue, mapping(8000 + number, 80), mapping(8000 + number, 80, "udp"))
        for number in range(20)
    ]
    with ThreadPoolExecutor(len(endpoints)) as pool:
        results = list(pool.map(lambda each, config: each.add(config), endpoints, configs))
    assert len(set(rules())) == len(rules())
    assert len(elements("ip", "ports")) == len(elements("ip6", "ports")) == 40
    for number, (each, config, result) in enumerate(zip(endpoints, configs, results, strict=True)):
        each.check(config, result).silent()
        with serving(each.netns, "tcp", 80) as service:
            assert caller(outside, service, HOST_ADDRESS[4], 8000 + number)
    with ThreadPoolExecutor(len(endpoints)) as pool:
        list(pool.map(lambda each, config: each.delete(config), endpoints, configs))
    assert published() == {}
    assert not cni.leases()


def test_networks_at_once(endpoint: MakeEndpoint, blue: Config) -> None:
    """The first ADDs of several networks may come all at once: base rules exist once."""
    endpoints = [endpoint() for _ in range(4)]
    configs = [
        publishing(numbered(blue, f"n{number}", number), mapping(8000 + number, 80))
        for number in range(len(endpoints))
    ]
    for _ in range(10):
        with ThreadPoolExecutor(len(endpoints)) as pool:
            results = list(pool.map(lambda each, config: each.add(config), endpoints, configs))
        assert [each for each in rules() if rules().count(each) > 1] == []
        assert len(elements("ip", "networks")) == len(elements("ip6", "networks")) == 4
        for each, config, result in zip(endpoints, configs, results, strict=True):
            each.check(config, result).silent()
            each.delete(config)
        run("nft", "flush", "ruleset")


def test_one_port_at_once(endpoint: MakeEndpoint, outside: Netns, blue: Config) -> None:
    """Of many that want one port, exactly one gets it, and the others nothing."""
    endpoints = [endpoint() for _ in range(10)]
    config = publishing(blue, mapping(7000, 70), *PORTS)
    with ThreadPoolExecutor(len(endpoints)) as pool:
        outcomes = list(pool.map(lambda each: each.call("ADD", config), endpoints))
    (winner,) = [each for each, done in zip(endpoints, outcomes, strict=True) if done.code == 0]
    for each, outcome in zip(endpoints, outcomes, strict=True):
        if each is not winner:
            assert winner.container_id in outcome.error(ADDRESS_IN_USE)["msg"]
            each.delete(config)
    assert len(published()) == 6
    assert len(cni.leases()) == 2
    assert len(HOST.ports("blue0")) == 1
    with serving(winner.netns, "tcp", 80) as service:
        assert caller(outside, service, HOST_ADDRESS[4], 8080)


def test_adds_and_deletes_at_once(endpoint: MakeEndpoint, blue: Config) -> None:
    """A port goes from hand to hand while others come and go."""
    config = blue
    endpoints = [endpoint() for _ in range(8)]

    def rounds(number: int) -> None:
        own = publishing(config, mapping(8000 + number, 80, "udp"))
        for _ in range(5):
            endpoints[number].add(own)
            endpoints[number].delete(own)

    with ThreadPoolExecutor(len(endpoints)) as pool:
        list(pool.map(rounds, range(len(endpoints))))
    assert published() == {}
    assert len(set(rules())) == len(rules())
