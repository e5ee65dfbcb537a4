"""A container of an overlay network that sends from MAC addresses that are not its own."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import cni
from tests.hosts import Host, Sandboxes, cluster
from tests.iproute import Netns

_EXPERIMENTAL = b"\x88\xb5"  # an EtherType for such things (IEEE 802)


@pytest.fixture
def hosts(node: None, tmp_path: Path, cni_bin: Path) -> Iterator[list[Host]]:
    """Two hosts."""
    with cluster(2, tmp_path, cni_bin) as (found, _):
        yield found


@pytest.fixture
def placed(hosts: list[Host], netns: Sandboxes) -> list[tuple[Netns, str, str]]:
    """Two containers on the first host and one on the second: each with its IP and MAC address."""
    found = []
    for host in (hosts[0], hosts[0], hosts[1]):
        sandbox = netns()
        result = host.add(sandbox)
        found.append((sandbox, cni.addresses(result)[0], sandbox.link("eth0")["address"]))
    late = netns()
    hosts[0].add(late)  # and so the first host reads what the second has written
    hosts[0].delete(late)
    return found


def send_from(sandbox: Netns, mac: str) -> None:
    """Have a container send a frame to everybody from some MAC address."""
    with sandbox.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as link:
        link.bind(("eth0", 0))
        header = bytes.fromhex(f"ffffffffffff{mac.replace(':', '')}") + _EXPERIMENTAL
        link.send(header + bytes(46))


def sees(spy: Netns, client: Netns, address: str) -> bool:
    """Whether a packet to an address, whose owner gets it, reaches another container too."""
    with spy.entered():
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
    with tap:
        tap.bind(("eth0", 0x0003))
        tap.setblocking(False)
        client.run(["ping", "-n", "-q", "-c1", f"-W{cni.PATIENCE}", "-p", "5ec2e7", address])
        try:
            while b"\x5e\xc2\xe7" * 4 not in tap.recv(2048):
                pass
        except BlockingIOError:
            return False
    return True


def test_foreign_source(hosts: list[Host], placed: list[tuple[Netns, str, str]]) -> None:
    """Frames for others stay theirs, whoever says to be them: on this host and elsewhere."""
    (victim, near, near_mac), (spoofer, _, _), (remote, far, far_mac) = placed
    assert victim.reaches(far)
    for mac in (near_mac, far_mac, hosts[0].netns.link("ov-001001")["address"]):
        send_from(spoofer, mac)
    assert not sees(spoofer, remote, near)
    assert not sees(spoofer, victim, far)
    assert victim.reaches(hosts[1].address)


def test_known_before_it_sends(hosts: list[Host], netns: Sandboxes) -> None:
    """The bridge knows where a container is that has sent nothing, and CHECK misses that."""
    sandbox = netns()
    result = hosts[0].add(sandbox)
    mac = sandbox.link("eth0")["address"]
    near = hosts[0].netns
    listed = near.run(["bridge", "fdb", "show", "br", "ov-001001"]).splitlines()
    (row,) = [each.split() for each in listed if each.startswith(mac)]
    assert {"static", "sticky"} <= set(row)
    hosts[0].check(sandbox, result).silent()
    port = row[row.index("dev") + 1]
    near.run(["bridge", "fdb", "del", mac, "dev", port, "master"])
    error = hosts[0].check(sandbox, result).error(105)
    assert f"host end {port}: expected frames for {mac} out of the port" in error["msg"]
