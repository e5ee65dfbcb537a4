"""After ADD, neighbours know where the container's addresses are now."""

import socket
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import cni
from tests.cni import Config, Endpoint
from tests.iproute import HOST

MakeEndpoint = Callable[[], Endpoint]
ARP, IPV6 = 0x0806, 0x86DD
IPV4_ADDRESS, IPV6_ADDRESS = "10.1.0.2", "fd00:1::2"


@pytest.fixture
def plugin() -> str:
    """Always the bridge plugin."""
    return "bridge"


@pytest.fixture
def dual(config: Config) -> Config:
    """A dual-stack network whose bridge is the gateway."""
    return config | {"ipam": cni.host_local("10.1.0.0/24", "fd00:1::/64")}


def _announced(frame: bytes) -> tuple[str, bytes] | None:
    """The address and the MAC that a gratuitous ARP or an unsolicited advertisement tells."""
    (kind,) = struct.unpack_from("!H", frame, 12)
    if kind == ARP and frame[28:32] == frame[38:42]:
        return socket.inet_ntop(socket.AF_INET, frame[28:32]), frame[22:28]
    if kind == IPV6 and frame[20] == socket.IPPROTO_ICMPV6 and frame[54] == 136:
        return socket.inet_ntop(socket.AF_INET6, frame[62:78]), frame[80:86]
    return None


def heard(listener: socket.socket, wanted: set[str]) -> dict[str, str]:
    """The announcements on the link until all wanted addresses were told, each with its MAC."""
    found: dict[str, str] = {}
    listener.settimeout(cni.PATIENCE)
    while not wanted <= found.keys():
        announced = _announced(listener.recv(2048))
        if announced is not None:
            found[announced[0]] = announced[1].hex(":")
    return {address: found[address] for address in wanted}


@pytest.mark.parametrize("others", [0, 260])
def test_neighbours_hear_of_it(
    endpoint: MakeEndpoint, dual: Config, others: int, tmp_path: Path
) -> None:
    """A gratuitous ARP for IPv4, an unsolicited neighbour advertisement for IPv6.

    On a bridge of many ports they come from a child process.
    """
    HOST.ip("link", "add", "blue0", "up", "type", "bridge")
    pairs = [
        f"link add port{number} master blue0 type veth peer name other{number}"
        for number in range(others)
    ]
    batch = tmp_path / "batch"
    batch.write_text("\n".join(pairs))
    HOST.ip("-batch", str(batch))
    with HOST.entered():
        listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    with listener:
        listener.bind(("blue0", 3))
        mac = endpoint().add(dual)["interfaces"][2]["mac"]
        announced = heard(listener, {IPV4_ADDRESS, IPV6_ADDRESS})
    assert announced == {IPV4_ADDRESS: mac, IPV6_ADDRESS: mac}


def test_an_address_with_a_new_mac(endpoint: MakeEndpoint, dual: Config) -> None:
    """A neighbour that knew the address by another MAC reaches the new container at once."""
    one, old, new = endpoint(), endpoint(), endpoint()
    only = {"ipam": cni.host_local("10.1.0.0/24")}
    one.add(dual | only)
    narrow = cni.host_local("10.1.0.0/24")
    only_one = {"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9", "rangeEnd": "10.1.0.9"}
    narrow["ranges"] = [[only_one]]
    config = dual | {"ipam": narrow}
    old.add(config)
    assert one.netns.reaches("10.1.0.9")
    old.delete(config)
    mac = new.add(config)["interfaces"][2]["mac"]
    assert one.netns.reaches("10.1.0.9")
    neighbours = one.netns.query("neigh", "show", "10.1.0.9")
    assert [each.get("lladdr") for each in neighbours] == [mac]
