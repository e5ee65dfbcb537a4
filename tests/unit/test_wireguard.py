"""WireGuard messages against pyroute2's, addresses in the tunnel, and keys in files."""

from base64 import b64encode
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.generic.wireguard import wgmsg

from cnm_core.errors import Error
from cnm_core.inet import format_ip, parse_ip
from cnm_core.kernel import netlink, wireguard
from cnm_core.kernel.wireguard import Device, Peer
from cnm_core.store import tunnels
from cnm_core.store.cluster import Cluster
from cnm_core.store.entries import Member
from cnm_core.store.shared import Put
from cnm_core.store.shared_files import FileStore
from cnm_core.store.tunnels import End, PrivateKey, tunnel_ip

keys = st.binary(min_size=32, max_size=32)
ips = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)
ports = st.integers(1, 65535)
peers = st.builds(Peer, keys, ips, ports, ips)
FAMILY = 29


def decoded(request: netlink.Request) -> wgmsg:
    """A request as pyroute2 reads it."""
    message = wgmsg(netlink.encode(request, 1))
    message.decode()
    assert (message["cmd"], message["version"]) == (wireguard.WG_CMD_SET_DEVICE, 1)
    assert message["header"]["type"] == FAMILY
    assert message.get_attr("WGDEVICE_A_IFNAME") == "wg-cnm"
    return message


@given(keys, ports)
def test_key(key: bytes, port: int) -> None:
    """pyroute2 reads the key and the port that were meant; the words beside do not have it."""
    request = wireguard.key_request(FAMILY, "wg-cnm", key, port)
    message = decoded(request)
    assert message.get_attr("WGDEVICE_A_PRIVATE_KEY") == b64encode(key)
    assert message.get_attr("WGDEVICE_A_LISTEN_PORT") == port
    assert b64encode(key).decode() not in request.what


@given(peers, keys)
def test_peers(peer: Peer, gone: bytes) -> None:
    """pyroute2 reads the peers that were meant, and so do we."""
    (request,) = wireguard.peer_requests(FAMILY, "wg-cnm", [peer], [gone])
    removed, added, left_alone = decoded(request).get_attr("WGDEVICE_A_PEERS")
    assert removed.get_attr("WGPEER_A_PUBLIC_KEY") == b64encode(gone)
    assert removed.get_attr("WGPEER_A_FLAGS") == wireguard.WGPEER_F_REMOVE_ME
    assert added.get_attr("WGPEER_A_PUBLIC_KEY") == b64encode(peer.key)
    endpoint = added.get_attr("WGPEER_A_ENDPOINT")
    assert (endpoint["addr"], endpoint["port"]) == (format_ip(peer.endpoint), peer.port)
    (allowed,) = added.get_attr("WGPEER_A_ALLOWEDIPS")
    assert allowed["addr"] == f"{format_ip(peer.ip)}/{len(peer.ip) * 8}"
    assert added.get_attr("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL") == 1
    assert left_alone.get_attr("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL") == 0
    assert wireguard._peer(wireguard._added(peer)[4:]) == peer


def test_many_peers() -> None:
    """No attribute is longer than its length can say."""
    many = [Peer(n.to_bytes(32, "big"), bytes(16), 1, bytes(16)) for n in range(1000)]
    requests = wireguard.peer_requests(FAMILY, "wg-cnm", many, [each.key for each in many])
    assert all(len(each.body) < 1 << 16 for each in requests)
    count = sum(len(decoded(each).get_attr("WGDEVICE_A_PEERS")) for each in requests)
    assert count == 3000


def test_private_key_is_not_shown() -> None:
    """What a device is printed as does not have its key."""
    device = Device(b"secret" * 6, b"", 1, ())
    assert "secret" not in f"{device!r} {device}"


@pytest.mark.parametrize(
    ("vtep", "ip"),
    [
        ("10.99.0.1", "fe80::a63:1"),
        ("2001:db8:0:1::2", "fe80::100:0:b80d:122"),
    ],
)
def test_tunnel_ip(vtep: str, ip: str) -> None:
    """A link-local address follows from that on the underlay."""
    assert format_ip(tunnel_ip(parse_ip(vtep))) == ip


def test_tunnel_ips_differ() -> None:
    """Hosts that are numbered in each subnet anew, or over it, have different ones."""
    vteps = {f"2001:db8:0:{subnet:x}::{host:x}" for subnet in range(64) for host in range(64)}
    assert len({tunnel_ip(parse_ip(each)) for each in vteps}) == len(vteps)


# --- keys


def test_private_key(tmp_path: Path) -> None:
    """It is made once, for root's eyes only."""
    directory = str(tmp_path / "lib")
    key = PrivateKey(directory).read()
    assert PrivateKey(directory).read() == key
    path = Path(PrivateKey(directory).path)
    assert path.read_text() == b64encode(key).decode() + "\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert {each.stat().st_mode & 0o777 for each in path.parent.iterdir()} == {0o600}


@pytest.mark.parametrize("content", ["", "short", "é" * 44, b64encode(bytes(31)).decode()])
def test_damaged_private_key(tmp_path: Path, content: str) -> None:
    """Half a key is none."""
    key = PrivateKey(str(tmp_path))
    key.read()
    Path(key.path).write_text(content)
    assert key.present() == b""
    assert len(key.read()) == 32


def test_published(tmp_path: Path) -> None:
    """What is written down is read again, and goes with the host's membership."""
    ignored: list[Error] = []
    cluster = Cluster(FileStore(str(tmp_path)), ignored.append)
    member = cluster.join(Member("one", parse_ip("10.0.0.1"), 1450))
    end = End("one", bytes(range(32)), member.vtep, 51830)
    tunnels.publish(cluster, end, member)
    assert tunnels.ends(cluster) == [end]
    cluster.fence("one")
    assert tunnels.ends(cluster) == [] == ignored


@pytest.mark.parametrize(
    "value",
    [
        "{}",
        "[]",
        '{"key": "x", "endpoint": "10.0.0.1", "port": 1}',
        f'{{"key": "{b64encode(bytes(32)).decode()}", "endpoint": "10.0.0.1", "port": 0}}',
        f'{{"key": "{b64encode(bytes(32)).decode()}", "endpoint": "here", "port": 1}}',
    ],
)
def test_malformed(tmp_path: Path, value: str) -> None:
    """An entry that makes no sense is passed over, and reported."""
    ignored: list[Error] = []
    cluster = Cluster(FileStore(str(tmp_path)), ignored.append)
    cluster.store.commit((), (Put("tunnels/one", value),))
    assert tunnels.ends(cluster) == []
    (error,) = ignored
    assert '"tunnels/one" of the cluster makes no sense' in error.msg
