"""VXLAN packets are taken from members only: forged ones, and who keeps the rules in place."""

import json
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import cni
from tests.hosts import Host, Sandboxes, cluster
from tests.iproute import HOST, Netns

_PORT = 7777
_TABLE = "cnm-overlay"


@pytest.fixture
def hosts(node: None, tmp_path: Path, cni_bin: Path) -> Iterator[list[Host]]:
    """Three hosts."""
    with cluster(3, tmp_path, cni_bin) as (found, _):
        yield found


@pytest.fixture
def stranger(hosts: list[Host], netns: Sandboxes) -> Netns:
    """Somebody on the underlay, 10.99.0.200, who is no member."""
    found = netns()
    HOST.ip("link", "add", "port9", "type", "veth", "peer", "name", "up0", "netns", found.name)
    HOST.ip("link", "set", "port9", "master", "under0", "up")
    found.ip("addr", "add", "10.99.0.200/24", "dev", "up0")
    found.ip("link", "set", "up0", "up")
    return found


class Target:
    """A container that somebody wants to get packets to."""

    def __init__(self, sandbox: Netns, result: cni.Config) -> None:
        self.ip = cni.addresses(result)[0]
        (self.mac,) = (each["mac"] for each in result["interfaces"] if each.get("sandbox"))
        with sandbox.entered():
            self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.socket.bind(("", _PORT))
        self.sandbox = sandbox

    def awaits(self, text: bytes) -> None:
        """Wait until a datagram comes."""
        self.socket.settimeout(cni.PATIENCE)
        while self.socket.recv(100) != text:
            pass

    def gets(self, text: bytes) -> bool:
        """Whether a datagram came, before another one that its own network sends it."""
        with self.sandbox.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.sendto(b"end", (self.ip, _PORT))
        self.socket.settimeout(cni.PATIENCE)
        found = False
        while (got := self.socket.recv(100)) != b"end":
            found = found or got == text
        return found


def packet(vni: int, target: Target, text: bytes) -> bytes:
    """What VXLAN's port is sent for a datagram to a container, from a made-up neighbour."""
    datagram = struct.pack("!HHHH", 9, _PORT, 8 + len(text), 0) + text
    source, to = socket.inet_aton("10.7.0.99"), socket.inet_aton(target.ip)
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(datagram), 0, 0, 64, 17, 0, source, to)
    total = sum(struct.unpack("!10H", head))
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    head = head[:10] + struct.pack("!H", checksum) + head[12:]
    mac = bytes.fromhex(target.mac.replace(":", ""))
    frame = mac + bytes.fromhex("020000000009") + b"\x08\x00" + head + datagram
    return struct.pack("!II", 0x08000000, vni << 8) + frame


def send(sender: Netns, to: str, data: bytes, source: str = "", port: int = 4789) -> None:
    """Send a UDP packet; from an address that need not be the sender's."""
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    with sender.entered(), socket.socket(family, socket.SOCK_DGRAM) as udp:
        if source:
            udp.setsockopt(socket.SOL_IP, socket.IP_TRANSPARENT, 1)
            udp.bind((source, 0))
        udp.sendto(data, (to, port))


def rules(host: Host, family: str = "ip") -> dict[str, Any]:
    """What nft has of the table: the elements of sets, and packets dropped by chains."""
    listed = json.loads(host.netns.run(["nft", "-j", "list", "ruleset", family]))["nftables"]
    found: dict[str, Any] = {}
    for each in listed:
        ((kind, fields),) = each.items()
        if fields.get("table") != _TABLE:
            continue
        if kind == "set":
            elements = [item["elem"]["val"]["concat"] for item in fields.get("elem", [])]
            found[fields["name"]] = sorted(elements)
        elif kind == "rule":
            counters = [item["counter"]["packets"] for item in fields["expr"] if "counter" in item]
            found[fields["chain"]] = found.get(fields["chain"], 0) + sum(counters)
    return found


def await_rules(host: Host, holds: Callable[[dict[str, Any]], bool], family: str = "ip") -> None:
    """Wait until the table is as it should be."""
    deadline = time.monotonic() + cni.PATIENCE
    while not holds(found := rules(host, family)):
        said = host.log.read_text() if host.log.exists() else ""
        assert time.monotonic() < deadline, (found, said)
        time.sleep(0.05)


def await_drops(host: Host, family: str = "ip", **wanted: int) -> None:
    """Wait until chains have dropped so many packets, which have arrived then."""
    await_rules(host, lambda found: {name: found[name] for name in wanted} == wanted, family)


def catch_up(host: Host, netns: Sandboxes) -> None:
    """Have a host without an agent read who the members are: by an ADD and a DEL."""
    sandbox = netns()
    host.add(sandbox)
    host.delete(sandbox)


def test_only_members(hosts: list[Host], netns: Sandboxes, stranger: Netns) -> None:
    """The same packet is taken from a member and not from a stranger; nor with an unknown VNI."""
    sandbox = netns()
    target = Target(sandbox, hosts[0].add(sandbox))
    hosts[1].add(netns())
    catch_up(hosts[0], netns)
    send(hosts[1].netns, hosts[0].address, packet(4097, target, b"member"))
    target.awaits(b"member")
    send(stranger, hosts[0].address, packet(4097, target, b"stranger"))
    await_drops(hosts[0], guarded=1)
    assert not target.gets(b"stranger")
    send(hosts[2].netns, hosts[0].address, packet(4097, target, b"no member yet"))
    await_drops(hosts[0], guarded=2)
    assert not target.gets(b"no member yet")
    send(hosts[1].netns, hosts[0].address, packet(4098, target, b"other VNI"))
    assert not target.gets(b"other VNI")


def test_network_of_another_member(hosts: list[Host], netns: Sandboxes) -> None:
    """A packet with another network's VNI stays in that network."""
    one, other = netns(), netns()
    red = {"subnets": [{"subnet": "10.8.0.0/24"}]}
    target = Target(one, hosts[0].add(one))
    hosts[0].add(other, hosts[0].network("red", **red))
    hosts[1].add(netns())
    catch_up(hosts[0], netns)
    send(hosts[1].netns, hosts[0].address, packet(4098, target, b"red"))
    assert not target.gets(b"red")
    members = [[4789, 4097, "10.99.0.2", "10.99.0.1"], [4789, 4098, "10.99.0.2", "10.99.0.1"]]
    catch = hosts[0].network("red", **red)
    hosts[0].add(netns(), catch)
    assert rules(hosts[0])["members"] == members


def test_containers_forge_nothing(hosts: list[Host], netns: Sandboxes) -> None:
    """A container gets no packet into networks, at any address and with any source."""
    inside, attacker = netns(), netns()
    target = Target(inside, hosts[0].add(inside))
    elsewhere, remote = netns(), netns()
    hosts[1].add(elsewhere)
    hosts[2].add(netns())
    red = {"subnets": [{"subnet": "10.8.0.0/24"}]}
    hosts[0].add(attacker, hosts[0].network("red", **red))
    far = Target(remote, hosts[1].add(remote))
    catch_up(hosts[0], netns)
    for name in ("all", "uplink", "ov-001002"):
        hosts[0].netns.run(["sysctl", "-qw", f"net.ipv4.conf.{name}.rp_filter=0"])
    for source in ("", hosts[1].address):
        for to in ("10.8.0.1", "10.7.0.1", hosts[0].address):
            send(attacker, to, packet(4097, target, b"local"), source)
    await_drops(hosts[0], prerouting=2, guarded=4)
    assert not target.gets(b"local")
    for source in ("", hosts[2].address):
        send(attacker, hosts[1].address, packet(4097, far, b"remote"), source)
    await_drops(hosts[0], prerouting=3, passing=1)
    assert not far.gets(b"remote")
    send(attacker, hosts[1].address, b"something else", port=4790)
    assert rules(hosts[0])["passing"] == 1


def test_others_on_the_port(hosts: list[Host], netns: Sandboxes, stranger: Netns) -> None:
    """A VXLAN device of somebody else on the same port takes packets from whom it likes."""
    hosts[0].add(netns())
    ip = hosts[0].netns.ip
    address = ("address", "02:00:00:00:00:77")
    ip("link", "add", "theirs", *address, "type", "vxlan", "id", "77", "dstport", "4789", "local",
       "10.99.0.1")  # fmt: skip
    ip("addr", "add", "10.7.1.7/24", "dev", "theirs")
    ip("link", "set", "theirs", "up")
    with hosts[0].netns.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("10.7.1.7", _PORT))
        udp.settimeout(cni.PATIENCE)
        theirs = Target.__new__(Target)
        theirs.ip, theirs.mac = "10.7.1.7", "02:00:00:00:00:77"
        send(stranger, hosts[0].address, packet(77, theirs, b"theirs"))
        assert udp.recv(100) == b"theirs"


def test_ends_with_the_last_network(hosts: list[Host], netns: Sandboxes) -> None:
    """The last endpoint of a network on a host takes its elements along, of all the table."""
    one, two = netns(), netns()
    red = {"subnets": [{"subnet": "10.8.0.0/24"}], "port": 8472}
    hosts[1].add(netns())
    hosts[0].add(one)
    hosts[0].add(two, hosts[0].network("red", **red))
    assert rules(hosts[0])["networks"] == [[4789, 4097], [8472, 4098]]
    assert rules(hosts[0])["vteps"] == [[4789, "10.99.0.2"], [8472, "10.99.0.2"]]
    hosts[0].delete(one)
    assert rules(hosts[0])["networks"] == [[8472, 4098]]
    assert rules(hosts[0])["vteps"] == [[8472, "10.99.0.2"]]
    hosts[0].delete(two, hosts[0].network("red", **red))
    assert rules(hosts[0]) == {}


def test_flushed_without_agent(hosts: list[Host], netns: Sandboxes) -> None:
    """CHECK reports what is missing; an ADD of one network guards all of them again."""
    one, two = netns(), netns()
    red = {"subnets": [{"subnet": "10.8.0.0/24"}]}
    hosts[1].add(netns())
    result = hosts[0].add(one)
    hosts[0].add(two, hosts[0].network("red", **red))
    whole = rules(hosts[0])
    hosts[0].netns.run(["nft", "delete", "table", "ip", _TABLE])
    error = hosts[0].check(one, result).error(105)
    assert f"table ip {_TABLE}" in error["msg"] and "10.99.0.2" in error["msg"]
    hosts[0].add(netns())
    assert rules(hosts[0]) == whole
    hosts[0].check(one, result).silent()
    element = "{ 4789 . 0x1001 . 10.99.0.77 . 10.99.0.1 }"
    hosts[0].netns.run(["nft", "add", "element", "ip", _TABLE, "members", element])
    assert "10.99.0.77" in hosts[0].check(one, result).error(105)["msg"]


def test_doctor(hosts: list[Host], netns: Sandboxes) -> None:
    """The doctor finds rules and members that are missing, and mends them."""
    hosts[1].add(netns())
    cnm = hosts[0].cnm()
    cnm.run("network", "create", "--driver", "overlay", "--subnet", "10.7.0.0/24", "blue")
    hosts[0].add(netns(), {**cnm.plugin("blue"), "name": "blue", "cniVersion": cni.NEWEST})

    def doctor(*options: str) -> dict[str, Any]:
        answer = cnm.call("doctor", "--format", "json", *options)
        found = map(json.loads, answer.out.splitlines())
        return next(each for each in found if each.get("area") == "overlays")

    assert doctor()["message"] == "takes packets from members only, 1 beside this host"
    whole = rules(hosts[0])
    hosts[0].netns.run(["nft", "flush", "ruleset"])
    found = doctor()
    assert found["status"] == "error" and "10.99.0.2" in found["message"] and found["fixable"]
    assert doctor("--fix")["status"] == "ok"
    assert rules(hosts[0]) == whole


def test_agent(hosts: list[Host], netns: Sandboxes) -> None:
    """Agents follow who joins and who is fenced, and make again what somebody flushed."""
    for host in hosts[:2]:
        host.start_agent()
        host.add(netns())
    both = [[4789, 4097, "10.99.0.2", "10.99.0.1"]]
    await_rules(hosts[0], lambda found: found["members"] == both)
    hosts[2].add(netns())
    three = [*both, [4789, 4097, "10.99.0.3", "10.99.0.1"]]
    await_rules(hosts[0], lambda found: found["members"] == three)
    hosts[0].netns.run(["nft", "flush", "ruleset"])
    await_rules(hosts[0], lambda found: found.get("members") == three)
    hosts[0].await_event("guarded")
    hosts[1].cnm().run("node", "fence", "-f", "host-3")
    await_rules(hosts[0], lambda found: found["members"] == both)


def test_agent_without_store(hosts: list[Host], netns: Sandboxes) -> None:
    """While etcd is dead, rules that were flushed come back with the members last known."""
    hosts[1].add(netns())
    hosts[0].start_agent()
    hosts[0].add(netns())
    hosts[0].etcd.kill()
    hosts[0].await_event("store-down")
    hosts[0].netns.run(["nft", "flush", "ruleset"])
    await_rules(
        hosts[0], lambda found: found.get("members") == [[4789, 4097, "10.99.0.2", "10.99.0.1"]]
    )


def test_ipv6_underlay(hosts: list[Host], netns: Sandboxes, stranger: Netns) -> None:
    """Over IPv6 the same holds, in the other table."""
    for host in hosts:
        host.netns.ip("addr", "add", f"fd99::{host.number}/64", "dev", "uplink", "nodad")
        host.overrides["underlay"] = f"fd99::{host.number}"
    stranger.ip("addr", "add", "fd99::200/64", "dev", "up0", "nodad")
    sandbox, other = netns(), netns()
    target = Target(sandbox, hosts[0].add(sandbox))
    address = cni.addresses(hosts[1].add(other))[0]
    catch_up(hosts[0], netns)
    assert sandbox.reaches(address, seconds=cni.PATIENCE)
    assert sandbox.link("eth0")["mtu"] == 1430
    send(hosts[1].netns, "fd99::1", packet(4097, target, b"member"))
    target.awaits(b"member")
    send(stranger, "fd99::1", packet(4097, target, b"stranger"))
    await_drops(hosts[0], "ip6", guarded=1)
    assert not target.gets(b"stranger")
    assert rules(hosts[0], "ip6")["members"] == [[4789, 4097, "fd99::2", "fd99::1"]]
    assert rules(hosts[0]) == {}
