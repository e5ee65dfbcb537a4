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
from tests.iproute import Netns

_PATIENCE = 20  # seconds
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
    deadline = time.monotonic() + _PATIENCE
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
                udp.settimeout(_PATIENCE)
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
