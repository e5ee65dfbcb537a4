"""Options of overlay networks that concern what passes between hosts."""

import ctypes
import fcntl
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import cni
from tests.commands import IN_THE_WAY, INVALID
from tests.hosts import Host, Sandboxes, cluster
from tests.iproute import HOST, Netns

_PORT = 7777
_BUM = {"bum": "ingress-replication"}
_GROUP = "239.7.7.7"
_SIOCETHTOOL, _ETHTOOL_GTXCSUM = 0x8946, 0x16


@pytest.fixture
def hosts(node: None, tmp_path: Path, cni_bin: Path) -> Iterator[list[Host]]:
    """Three hosts."""
    with cluster(3, tmp_path, cni_bin) as (found, _):
        yield found


def ip_of(result: cni.Config) -> str:
    """The first address of a result."""
    return cni.addresses(result)[0]


def catch_up(host: Host, netns: Sandboxes) -> None:
    """Have a host without an agent read what the others have written: by an ADD and a DEL."""
    sandbox = netns()
    host.add(sandbox)
    host.delete(sandbox)


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + cni.PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def listening(*containers: Netns) -> Iterator[list[socket.socket]]:
    """Sockets in containers that take broadcasts and a group's datagrams."""
    found = []
    try:
        for each in containers:
            with each.entered():
                udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                found.append(udp)
                udp.settimeout(cni.PATIENCE)
                udp.bind(("", _PORT))
                group = socket.inet_aton(_GROUP) + bytes(4)
                udp.setsockopt(socket.SOL_IP, socket.IP_ADD_MEMBERSHIP, group)
        yield found
    finally:
        for udp in found:
            udp.close()


def send(sender: Netns, to: str, text: bytes) -> None:
    """Send a datagram out of a container."""
    with sender.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        udp.sendto(text, (to, _PORT))


def copies(host: Host) -> list[str]:
    """The hosts that get what goes to everybody."""
    listed = host.netns.run(["bridge", "fdb", "show", "dev", "vx-001001"]).splitlines()
    rows = [line.split() for line in listed if line.startswith("00:00:00:00:00:00")]
    return sorted(row[row.index("dst") + 1] for row in rows)


def test_broadcasts_are_copied(hosts: list[Host], netns: Sandboxes) -> None:
    """With ingress-replication a broadcast and a multicast reach containers of all hosts."""
    for host in hosts:
        host.overrides |= _BUM
    sandboxes = [netns() for _ in hosts]
    results = [host.add(sandbox) for host, sandbox in zip(hosts, sandboxes, strict=True)]
    for host in hosts:
        catch_up(host, netns)
    assert copies(hosts[0]) == [hosts[1].address, hosts[2].address]
    sandboxes[0].ip("route", "add", _GROUP, "dev", "eth0")
    with listening(*sandboxes[1:]) as sockets:
        for to in ("10.7.0.255", _GROUP):
            send(sandboxes[0], to, to.encode())
            assert [udp.recv(100) for udp in sockets] == [to.encode()] * 2
    for host, sandbox, result in zip(hosts, sandboxes, results, strict=True):
        host.check(sandbox, result).silent()


def test_broadcasts_stay_by_default(hosts: list[Host], netns: Sandboxes) -> None:
    """Without it they reach those of the same host and nobody else."""
    one, near, far = netns(), netns(), netns()
    hosts[0].add(one)
    hosts[0].add(near)
    address = ip_of(hosts[1].add(far))
    catch_up(hosts[0], netns)
    assert copies(hosts[0]) == []
    with listening(near, far) as (here, there):
        send(one, "10.7.0.255", b"broadcast")
        send(one, address, b"to one")
        assert (here.recv(100), there.recv(100)) == (b"broadcast", b"to one")


def test_gateway_of_flooding_network(hosts: list[Host], netns: Sandboxes) -> None:
    """The gateway stays each host's own bridge, though all hosts hear each other."""
    for host in hosts:
        host.overrides |= _BUM
    sandboxes = [netns() for _ in hosts]
    for host, sandbox in zip(hosts, sandboxes, strict=True):
        host.add(sandbox)
    catch_up(hosts[0], netns)
    for host, sandbox in zip(hosts, sandboxes, strict=True):
        assert sandbox.reaches("10.7.0.1")
        (entry,) = sandbox.query("neigh", "show", "10.7.0.1")
        assert entry["lladdr"] == host.netns.link("ov-001001")["address"]


def test_copies_follow_endpoints(hosts: list[Host], netns: Sandboxes) -> None:
    """A host gets copies from its first endpoint to its last; agents and CHECK see to it."""
    for host in hosts:
        host.overrides |= _BUM
        host.start_agent()
    first, second, third, own = netns(), netns(), netns(), netns()
    result = hosts[0].add(own)
    hosts[1].add(first)
    hosts[1].add(second)
    hosts[2].add(third)
    until(lambda: copies(hosts[0]) == [hosts[1].address, hosts[2].address])
    hosts[1].delete(first)
    hosts[2].delete(third)
    until(lambda: copies(hosts[0]) == [hosts[1].address])
    words = f"bridge fdb del 00:00:00:00:00:00 dev vx-001001 dst {hosts[1].address} self"
    hosts[0].netns.run(words.split())
    assert "frames for everybody to 10.99.0.2" in hosts[0].check(own, result).error(105)["msg"]
    hosts[1].delete(second)
    hosts[1].add(second)
    until(lambda: copies(hosts[0]) == [hosts[1].address])
    hosts[0].netns.run(["bridge", "link", "set", "dev", "vx-001001", "bcast_flood", "off"])
    assert "flags of its port" in hosts[0].check(own, result).error(105)["msg"]
    hosts[0].delete(own)
    hosts[0].add(own)
    until(lambda: copies(hosts[0]) == [hosts[1].address])


def leaves_checksums(host: Host, link: str) -> bool:
    """Whether a link has tx checksum offload, by ethtool's old ioctl."""
    value = ctypes.create_string_buffer(struct.pack("II", _ETHTOOL_GTXCSUM, 0))
    request = struct.pack("16sP16x", link.encode(), ctypes.addressof(value))
    with host.netns.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        fcntl.ioctl(udp, _SIOCETHTOOL, request)
    return bool(struct.unpack_from("II", value.raw)[1])


def test_checksums(hosts: list[Host], netns: Sandboxes) -> None:
    """txChecksum: false has the VXLAN device leave no checksum to the underlay's link."""
    red = {"subnets": [{"subnet": "10.8.0.0/24"}], "txChecksum": False}
    one, two, other = netns(), netns(), netns()
    hosts[0].add(other)
    result = hosts[0].add(one, hosts[0].network("red", **red))
    address = ip_of(hosts[1].add(two, hosts[1].network("red", **red)))
    hosts[0].add(netns(), hosts[0].network("red", **red))
    assert leaves_checksums(hosts[0], "vx-001001")
    assert not leaves_checksums(hosts[0], "vx-001002")
    assert one.reaches(address)
    config = hosts[0].network("red", prevResult=result, **red)
    hosts[0].call("CHECK", config, one).silent()
    hosts[0].netns.ip("link", "del", "vx-001002")
    hosts[0].add(netns(), hosts[0].network("red", **red))
    assert not leaves_checksums(hosts[0], "vx-001002")


@pytest.mark.parametrize(
    ("members", "words"),
    [
        (_BUM, 'bum: is "ingress-replication" here, and "none" for network "blue"'),
        ({"txChecksum": False}, 'txChecksum: is false here, and true for network "blue"'),
    ],
)
def test_options_are_the_networks(
    hosts: list[Host], netns: Sandboxes, members: cni.Config, words: str
) -> None:
    """They are the same on all hosts."""
    hosts[0].add(netns())
    error = hosts[1].call("ADD", hosts[1].network(**members), netns()).error(cni.INVALID_CONFIG)
    assert words in error["msg"]


def test_unknown_values(hosts: list[Host], netns: Sandboxes) -> None:
    """What is no value of an option is named."""
    error = hosts[0].call("ADD", hosts[0].network(bum="multicast"), netns()).error()
    assert 'bum: must be none or ingress-replication, got "multicast"' in error["msg"]


def test_command_line(hosts: list[Host]) -> None:
    """`create` takes the options, and the next host takes them over."""
    create = ("network", "create", "--driver", "overlay")
    one, two = (host.cnm() for host in hosts[:2])
    one.run(*create, "-o", "bum=ingress-replication", "-o", "txChecksum=false", "blue")
    two.run(*create, "blue")
    for cnm in (one, two):
        plugin = cnm.plugin("blue")
        assert (plugin["bum"], plugin["txChecksum"]) == ("ingress-replication", False)
    one.call(*create, "-o", "bum=yes", "red").fails(INVALID, "bum: must be none or")
    two.run("network", "rm", "blue")
    one.run(*create, "red")
    two.call(*create, "-o", "bum=ingress-replication", "red").fails(
        IN_THE_WAY, 'bum: is "ingress-replication" here'
    )


@pytest.fixture
def routed(hosts: list[Host]) -> list[Host]:
    """The same hosts, with networks of mode l3."""
    for host in hosts:
        host.overrides["mode"] = "l3"
    return hosts


def device_routes(host: Host, family: int = 4) -> dict[str, str]:
    """Where a host's VXLAN device leads: destination → gateway."""
    found = host.netns.routes(family)
    return {each["dst"]: each.get("gateway", "") for each in found if each["dev"] == "vx-001001"}


def heard_from(server: Netns, client: Netns, address: str) -> str:
    """The address that a client has to a server in another container."""
    with server.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("", _PORT))
        udp.settimeout(cni.PATIENCE)
        send(client, address, b"hello")
        return str(udp.recvfrom(9)[1][0])


def test_routed(routed: list[Host], netns: Sandboxes) -> None:
    """Each host has a subnet of its own; containers of all reach each other as themselves."""
    sandboxes = [netns() for _ in routed]
    results = [host.add(sandbox) for host, sandbox in zip(routed, sandboxes, strict=True)]
    assert [each["ips"][0]["address"] for each in results] == [
        "10.7.0.2/27",
        "10.7.0.34/27",
        "10.7.0.66/27",
    ]
    assert results[1]["ips"][0]["gateway"] == "10.7.0.33"
    for host in routed:
        catch_up(host, netns)
    addresses = [ip_of(result) for result in results]
    assert all(sandbox.reaches(address) for sandbox in sandboxes for address in addresses)
    assert heard_from(sandboxes[2], sandboxes[0], addresses[2]) == addresses[0]
    assert routed[0].netns.reaches(addresses[1])
    assert "master" not in routed[0].netns.link("vx-001001")
    for host, sandbox, result in zip(routed, sandboxes, results, strict=True):
        host.check(sandbox, result).silent()
    for host, sandbox in zip(routed, sandboxes, strict=True):
        host.delete(sandbox)
    for host in routed:
        assert set(host.netns.links()) == {"lo", "uplink"}


def test_routes_grow_with_hosts(routed: list[Host], netns: Sandboxes) -> None:
    """However many endpoints other hosts have, there is one route a block; CHECK misses it."""
    sandbox = netns()
    result = routed[0].add(sandbox)
    for _ in range(3):
        routed[1].add(netns())
    catch_up(routed[0], netns)
    routes = {"10.7.0.0/24": "", "10.7.0.32/27": "10.7.0.33"}
    assert device_routes(routed[0]) == routes
    (neighbour,) = routed[0].netns.query("neigh", "show", "dev", "vx-001001", "nud", "permanent")
    assert neighbour["dst"] == "10.7.0.33"
    assert neighbour["lladdr"] == routed[1].netns.link("vx-001001")["address"]
    routed[0].netns.ip("route", "del", "10.7.0.32/27")
    error = routed[0].check(sandbox, result).error(105)
    assert "10.7.0.32/27 via 10.7.0.33" in error["msg"]
    catch_up(routed[0], netns)
    routed[0].netns.ip("route", "add", "10.7.0.96/27", "dev", "vx-001001")
    # Without an agent it may be one that this host was not told of yet: it goes, and is no drift.
    routed[0].check(sandbox, result).silent()
    catch_up(routed[0], netns)
    assert device_routes(routed[0]) == routes


def test_routed_ways_out(routed: list[Host], netns: Sandboxes) -> None:
    """The outside is reached through the host, and nothing of the network gets there."""
    sandbox = netns()
    routed[0].add(sandbox)
    assert sandbox.reaches(routed[1].address)
    (found,) = routed[0].netns.query("route", "get", "10.7.0.200", "from", ip_of_netns(sandbox),
                                     "iif", "ov-001001")  # fmt: skip
    assert found["dev"] == "vx-001001"
    internal = {"internal": True, "subnets": [{"subnet": "10.8.0.0/24"}]}
    one, two = netns(), netns()
    result = routed[0].add(one, routed[0].network("red", **internal))
    address = ip_of(routed[1].add(two, routed[1].network("red", **internal)))
    routed[0].add(netns(), routed[0].network("red", **internal))
    assert one.reaches(address)
    assert not one.reaches(routed[1].address, seconds=1)
    assert not sandbox.reaches(ip_of(result), seconds=1)
    config = routed[0].network("red", prevResult=result, **internal)
    routed[0].call("CHECK", config, one).silent()


def first_heard(server: Netns, address: str, *clients: Netns) -> str:
    """Whose datagram comes first to a container, of clients that send one after another."""
    with server.entered():
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with udp:
        udp.bind(("", _PORT))
        udp.settimeout(cni.PATIENCE)
        for number, client in enumerate(clients):
            send(client, address, b"%d" % number)
        return clients[int(udp.recvfrom(9)[0])].name


@pytest.mark.parametrize("internal", [False, True])
def test_routed_is_closed(routed: list[Host], netns: Sandboxes, internal: bool) -> None:
    """Nothing but published ports is let in: not by another host, which routes the block."""
    closed = {"internal": internal}
    here, there, stranger = netns(), netns(), netns()
    routed[0].add(here, routed[0].network(**closed))
    address = ip_of(routed[1].add(there, routed[1].network(**closed)))
    routed[0].add(netns(), routed[0].network(**closed))  # which is told of the other host by it
    other = routed[0].network("green", mode="l2", subnets=[{"subnet": "10.8.0.0/24"}])
    routed[0].add(stranger, other)
    assert first_heard(there, address, stranger, here) == here.name
    HOST.ip("route", "add", address, "via", routed[0].address)
    assert first_heard(there, address, HOST, here) == here.name
    assert here.reaches(address)


def test_routed_by_an_earlier_version(routed: list[Host], netns: Sandboxes) -> None:
    """What that had in nftables, for blocks in place of the subnet, goes with the next ADD."""
    sandbox = netns()
    result = routed[0].add(sandbox)

    def nft(command: str) -> None:
        routed[0].netns.run(["nft", command])

    for name, chain in (("networks", "nat-blue"), ("forward_to", "to-blue")):
        nft(f"delete element ip cnm {name} {{ 10.7.0.0/24 }}")
        for block in ("10.7.0.0/27", "10.7.0.64/27"):
            comment = "masquerade, isolated: blue on ov-001001"
            element = f'{block} comment "{comment}" : goto {chain}'
            nft(f"add element ip cnm {name} {{ {element} }}")
    error = routed[0].check(sandbox, result).error(105)
    assert "10.7.0.0/24" in error["msg"]
    routed[0].add(netns())
    routed[0].check(sandbox, result).silent()
    ruleset = routed[0].netns.run(["nft", "list", "map", "ip", "cnm", "forward_to"])
    assert "10.7.0.0/24" in ruleset and "/27" not in ruleset


def ip_of_netns(sandbox: Netns) -> str:
    """The address of a container."""
    return sandbox.addresses("eth0")[0].partition("/")[0]


@pytest.mark.parametrize("underlay", ["10.99.0.{}", "fd99::{}"])
def test_routed_both_versions(routed: list[Host], netns: Sandboxes, underlay: str) -> None:
    """Both IP versions inside, over either."""
    for host in routed:
        host.netns.ip("addr", "add", f"fd99::{host.number}/64", "dev", "uplink", "nodad")
        host.overrides["underlay"] = underlay.format(host.number)
        host.overrides["subnets"] = [{"subnet": "10.7.0.0/24"}, {"subnet": "fd00:7::/64"}]
    one, two = netns(), netns()
    routed[0].add(one)
    result = routed[1].add(two)
    catch_up(routed[0], netns)
    for address in cni.addresses(result):
        assert one.reaches(address, seconds=cni.PATIENCE)
    assert device_routes(routed[0], 6) == {"fd00:7::/64": "", "fd00:7::100/120": "fd00:7::101"}
    routed[1].check(two, result).silent()


def test_routed_blocks_of_one_host(routed: list[Host], netns: Sandboxes) -> None:
    """A host with several blocks has a gateway in each; its containers reach each other."""
    for host in routed:
        host.overrides["subnets"] = [{"subnet": "10.7.0.0/28"}]
    one, two, other = netns(), netns(), netns()
    first = routed[0].add(one)
    second = ip_of(routed[0].add(two))
    third = ip_of(routed[1].add(other))
    catch_up(routed[0], netns)
    assert (ip_of(first), second, third) == ("10.7.0.2", "10.7.0.6", "10.7.0.10")
    assert set(routed[0].netns.addresses("ov-001001")) >= {"10.7.0.1/30", "10.7.0.5/30"}
    assert all(one.reaches(address) for address in (second, third))
    assert two.reaches(third)
    routed[0].check(one, first).silent()


def test_routed_static_address(routed: list[Host], netns: Sandboxes) -> None:
    """An address may be asked for out of the host's own blocks, and of no others."""
    routed[0].add(netns())
    routed[1].add(netns())
    own = {"args": {"cni": {"ips": ["10.7.0.20"]}}}
    assert ip_of(routed[0].add(netns(), routed[0].network(**own))) == "10.7.0.20"
    theirs = {"args": {"cni": {"ips": ["10.7.0.40"]}}}
    error = routed[0].call("ADD", routed[0].network(**theirs), netns()).error()
    assert "10.7.0.40" in error["msg"]


def test_routed_published_port(routed: list[Host], netns: Sandboxes) -> None:
    """A published port leads to the container, from other hosts and from their containers."""
    sandbox, other = netns(), netns()
    ports = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]
    asked = {"capabilities": {"portMappings": True}, "runtimeConfig": {"portMappings": ports}}
    routed[0].add(sandbox, routed[0].network(**asked))
    routed[1].add(other)
    with sandbox.entered():
        listener = socket.create_server(("", 80))
    with listener:
        for client in (routed[1].netns, other):
            with client.entered():
                to = (routed[0].address, 8080)
                socket.create_connection(to, timeout=cni.PATIENCE).close()


def test_routed_with_agents(routed: list[Host], netns: Sandboxes) -> None:
    """Agents have routes come and go with the hosts' endpoints, and mend what is lost."""
    for host in routed:
        host.start_agent()
    one, two, three = netns(), netns(), netns()
    routed[0].add(one)
    address = ip_of(routed[1].add(two))
    routed[2].add(three)
    both = {"10.7.0.0/24": "", "10.7.0.32/27": "10.7.0.33", "10.7.0.64/27": "10.7.0.65"}
    until(lambda: device_routes(routed[0]) == both)
    assert one.reaches(address, seconds=cni.PATIENCE)
    routed[2].delete(three)
    del both["10.7.0.64/27"]
    until(lambda: device_routes(routed[0]) == both)
    routed[0].netns.ip("link", "del", "vx-001001")
    until(lambda: "vx-001001" in routed[0].netns.links() and device_routes(routed[0]) == both)
    assert one.reaches(address, seconds=cni.PATIENCE)


def test_mode_and_bum(hosts: list[Host], netns: Sandboxes) -> None:
    """What goes to everybody is not routed; and a network has one mode."""
    config = hosts[0].network(mode="l3", **_BUM)
    error = hosts[0].call("ADD", config, netns()).error(cni.INVALID_CONFIG)
    assert error["msg"] == 'bum: cannot be "ingress-replication" with mode "l3"'
    hosts[0].add(netns())
    error = hosts[1].call("ADD", hosts[1].network(mode="l3"), netns()).error(cni.INVALID_CONFIG)
    assert 'mode: is "l3" here, and "l2" for network "blue"' in error["msg"]
