"""The guest's kernel has what the machine's may lack, and what the guest is there for."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import cni
from tests.iproute import HOST, Netns, run

MakeNetns = Callable[[], Netns]

pytestmark = pytest.mark.usefixtures("node")

AEAD = f"rfc4106(gcm(aes)) 0x{'5a' * 20} 128"  # a key of 128 bits with a salt, a full ICV


def _ip(netns: Netns, words: str) -> None:
    netns.ip(*words.split())


def _up(netns: Netns, link: str, address: str) -> None:
    _ip(netns, f"addr add {address} dev {link}")
    _ip(netns, f"link set {link} up")


def _connected(one: Netns, other: Netns) -> None:
    """Join two namespaces by a veth pair, with addresses 10.9.0.1 and 10.9.0.2."""
    _ip(one, f"link add eth0 type veth peer eth0 netns {other.name}")
    _up(one, "eth0", "10.9.0.1/24")
    _up(other, "eth0", "10.9.0.2/24")


def test_vlan_filtering(netns: MakeNetns) -> None:
    """A bridge keeps ports of different VLANs apart."""
    _ip(HOST, "link add blue0 up type bridge vlan_filtering 1")
    one, other = netns(), netns()
    for number, sandbox in enumerate((one, other), 1):
        _ip(HOST, f"link add port{number} type veth peer eth0 netns {sandbox.name}")
        _ip(HOST, f"link set port{number} master blue0 up")
        _vlan(f"port{number}", 77)
        _up(sandbox, "eth0", f"10.9.0.{number}/24")
    assert one.reaches("10.9.0.2", seconds=cni.PATIENCE)
    _vlan("port2", 78)
    assert not one.reaches("10.9.0.2", seconds=1)


def _vlan(port: str, number: int) -> None:
    """Have what a bridge's port gets belong to a VLAN."""
    run(*f"bridge vlan add dev {port} vid {number} pvid untagged".split())


def test_vlan_link(netns: MakeNetns) -> None:
    """VLAN links exchange frames that carry their tag."""
    one, other = netns(), netns()
    _connected(one, other)
    for number, sandbox in enumerate((one, other), 1):
        _ip(sandbox, "link add link eth0 name blue type vlan id 77")
        _up(sandbox, "blue", f"10.8.0.{number}/24")
    assert one.reaches("10.8.0.2", seconds=cni.PATIENCE)
    _ip(other, "link delete blue")
    assert not one.reaches("10.8.0.2", seconds=1)


@pytest.mark.parametrize("mode", ["l2", "l3", "l3s"])
def test_ipvlan(netns: MakeNetns, mode: str) -> None:
    """Two ipvlan links on one link reach each other."""
    _ip(HOST, "link add uplink up type dummy")
    one, other = netns(), netns()
    for number, sandbox in enumerate((one, other), 1):
        _ip(HOST, f"link add link uplink eth0 netns {sandbox.name} type ipvlan mode {mode}")
        _up(sandbox, "eth0", f"10.9.0.{number}/24")
    assert one.reaches("10.9.0.2", seconds=cni.PATIENCE)


def test_wireguard() -> None:
    """There are WireGuard links."""
    _ip(HOST, "link add wg0 up type wireguard")
    assert HOST.link("wg0")["linkinfo"]["info_kind"] == "wireguard"


def test_esp(netns: MakeNetns) -> None:
    """Two namespaces exchange pings that are encrypted by AES-GCM."""
    one, other = netns(), netns()
    _connected(one, other)
    for sandbox, request, answer in ((one, "out", "in"), (other, "in", "out")):
        _encrypted(sandbox, "src 10.9.0.1 dst 10.9.0.2", request)
        _encrypted(sandbox, "src 10.9.0.2 dst 10.9.0.1", answer)
    assert one.reaches("10.9.0.2", seconds=cni.PATIENCE)
    assert " 0(packets)" not in one.run(["ip", "-s", "xfrm", "state"])


def _encrypted(netns: Netns, pair: str, direction: str) -> None:
    """Have what goes from one address to another encrypted."""
    _ip(netns, f"xfrm state add {pair} proto esp spi 77 reqid 1 mode transport aead {AEAD}")
    _ip(netns, f"xfrm policy add {pair} dir {direction} tmpl {pair} proto esp reqid 1")


def test_masquerade(netns: MakeNetns) -> None:
    """nftables changes the source of what is forwarded."""
    router, inside, outside = netns(), netns(), netns()
    _connected(router, outside)
    _ip(router, f"link add eth1 type veth peer eth0 netns {inside.name}")
    _up(router, "eth1", "10.8.0.1/24")
    _up(inside, "eth0", "10.8.0.2/24")
    _ip(inside, "route add default via 10.8.0.1")
    with router.entered():
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    assert not inside.reaches("10.9.0.2", seconds=1)
    chain = "type nat hook postrouting priority srcnat; oif eth0 masquerade;"
    router.run(["nft", f"table ip test {{ chain test {{ {chain} }}; }}"])
    assert inside.reaches("10.9.0.2", seconds=cni.PATIENCE)
