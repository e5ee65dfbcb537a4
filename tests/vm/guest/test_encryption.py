"""Encrypted overlay networks over namespaces as hosts, with a real etcd."""

import json
import socket
import struct
import subprocess
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cnm_core.cli.conflists import parse
from cnm_core.cli.doctor import overlays
from cnm_core.cli.doctor.finding import OK
from cnm_core.config.overlay import overlay_config
from cnm_core.drivers.tunnel import Tunnel
from cnm_core.drivers.tunnel_esp import IF_ID, EspTunnel
from cnm_core.http import parse_url
from cnm_core.kernel.netlink import Socket
from cnm_core.kernel.wireguard import Peer, Wireguard
from cnm_core.kernel.xfrm import Association, Xfrm
from cnm_core.store import tunnels, tunnels_esp
from cnm_core.store.cluster import Cluster
from cnm_core.store.etcd import Access, EtcdStore
from cnm_core.store.membership import open_membership
from tests import cni
from tests.etcd import Etcd
from tests.hosts import Host, Sandboxes, cluster
from tests.iproute import HOST, Netns, exchange_by_tcp

MARKER = b"read me on the underlay "
VXLAN_PORT, WIREGUARD_PORT = 4789, 51830
_ETH_P_ALL, _SO_RCVBUFFORCE = 3, 33
_MODPROBE = Path("/proc/sys/kernel/modprobe")
ENCRYPTED = {"encrypted": True}
BY_ESP = {"name": "esp", "subnets": [{"subnet": "10.9.0.0/24"}], "encrypted": "esp"}


@pytest.fixture
def hosts(node: None, tmp_path: Path, cni_bin: Path) -> Iterator[list[Host]]:
    """Three hosts, without agents."""
    with cluster(3, tmp_path, cni_bin) as (found, _):
        yield found


def connected(hosts: list[Host], netns: Sandboxes, **members: Any) -> list[tuple[Netns, str]]:
    """A container on each host, with its address; every host knows of all."""
    found = []
    for host in hosts:
        sandbox = netns()
        result = host.add(sandbox, host.network(**members))
        found.append((sandbox, cni.addresses(result)[0]))
    for host in hosts[:-1]:
        catch_up(host, netns, **members)
    return found


def catch_up(host: Host, netns: Sandboxes, **members: Any) -> None:
    """Have a host without an agent mend what is its own, and read what the others have written."""
    sandbox = netns()
    host.add(sandbox, host.network(**members))
    host.delete(sandbox, host.network(**members))


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + cni.PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


class Capture:
    """All frames that go into a host and out of it, from now on."""

    def __init__(self, host: Host) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 256 << 20)
        self._socket.bind((f"port{host.number}", _ETH_P_ALL))
        self._socket.setblocking(False)

    def end(self) -> list[bytes]:
        """What has been seen."""
        frames = []
        with self._socket:
            while True:
                try:
                    frames.append(self._socket.recv(1 << 16))
                except BlockingIOError:
                    return frames


def udp_ports(frames: list[bytes]) -> set[int]:
    """The ports that UDP packets of IPv4 went to, but those of IPv6's own."""
    return {
        int.from_bytes(frame[36:38], "big")
        for frame in frames
        if frame[12:14] == b"\x08\x00" and frame[23] == socket.IPPROTO_UDP
    }


def is_esp(frame: bytes) -> bool:
    """Whether it has an IPv4 packet of ESP in it."""
    return frame[12:14] == b"\x08\x00" and frame[23] == socket.IPPROTO_ESP


def throughput(client: Netns, server: Netns, address: str) -> float:
    """What one TCP connection transports, in Mbit/s."""
    command = ["ip", "netns", "exec", server.name, "iperf3", "-s", "-1", "--forceflush"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as listening:
        assert listening.stdout is not None
        while "listening" not in listening.stdout.readline():
            assert listening.poll() is None
        answer = client.run(["iperf3", "-J", "-t3", "-c", address])
        listening.stdout.read()
    received: float = json.loads(answer)["end"]["sum_received"]["bits_per_second"]
    return received / 1e6


def private_key(host: Host) -> str:
    """The private key in a host's file."""
    return (host.directory / "lib/.cnm/.wireguard.key").read_text().strip()


def esp_key(host: Host) -> list[str]:
    """This host's private and public key for ESP, from its file."""
    return (host.directory / "lib/.cnm/.esp.key").read_text().splitlines()[2:4]


# --- a kernel without it


@contextmanager
def without(module: str) -> Iterator[None]:
    """A kernel that has no such module, and cannot get it."""
    helper = _MODPROBE.read_text()
    _MODPROBE.write_text("/bin/false\n")
    try:
        deadline = time.monotonic() + cni.PATIENCE
        while Path("/sys/module", module).exists():
            subprocess.run(["modprobe", "-r", module], capture_output=True, check=False)
            assert time.monotonic() < deadline
        yield
    finally:
        _MODPROBE.write_text(helper)


def test_kernel_without(hosts: list[Host], netns: Sandboxes) -> None:
    """A host that cannot encrypt says so, and nothing is made: no link, no address, no member."""
    (one, _), (_, address) = connected(hosts[:2], netns)
    known = stored(hosts[0].etcd)
    for module, what, encrypted in (
        ("wireguard", "WireGuard", True),
        ("esp4", "ESP with AES-GCM", "esp"),
        ("xfrm_interface", "XFRM interfaces", "esp"),
    ):
        subprocess.run(["modprobe", "--all", "xfrm_interface", "esp4"], check=True)
        config = hosts[2].network("secret", encrypted=encrypted)
        with without(module):
            error = hosts[2].call("ADD", config, netns()).error(50)
            hosts[2].call("STATUS", config, HOST).error(50)
        assert f"encrypted: this host's kernel has no {what}" in error["msg"]
        assert module in error["details"]
    assert set(hosts[2].netns.links()) == {"lo", "uplink"}
    assert stored(hosts[0].etcd) == known
    assert one.reaches(address, seconds=cni.PATIENCE)


def stored(etcd: Etcd) -> dict[str, str]:
    """All that etcd holds."""
    everything = b64encode(b"\0").decode()
    answer: Any = etcd.call("/v3/kv/range", key=everything, range_end=everything)
    return {
        b64decode(each["key"]).decode(): b64decode(each["value"]).decode()
        for each in answer.get("kvs", ())
    }


# --- what the underlay shows


def test_no_plain_text(
    hosts: list[Host], netns: Sandboxes, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is on the underlay cannot be read; of a plain network it can.

    A packet as large as the MTU gets through. Private keys are root's on their host only. What
    the throughput of both is, is printed.
    """
    payload = MARKER * 8192
    (one, _), (two, plain) = connected(hosts[:2], netns, name="plain")
    capture = Capture(hosts[0])
    assert exchange_by_tcp(one, two, plain, payload) == payload
    assert any(MARKER in frame for frame in capture.end())
    of_plain = throughput(one, two, plain)

    members = {"subnets": [{"subnet": "10.8.0.0/24"}, {"subnet": "fd00:8::/64"}], **ENCRYPTED}
    (one, _), (two, secret) = connected(hosts[:2], netns, name="secret", **members)
    capture = Capture(hosts[0])
    assert exchange_by_tcp(one, two, secret, payload) == payload
    assert one.link("eth0")["mtu"] == 1370
    one.run(["ping", "-n", "-q", "-c1", f"-w{cni.PATIENCE}", "-Mdo", "-s1342", secret])
    frames = capture.end()
    assert sum(map(len, frames)) > 2 * len(payload)
    assert not any(MARKER[:12] in frame for frame in frames)
    assert udp_ports(frames) == {WIREGUARD_PORT}

    of_encrypted = throughput(one, two, secret)
    (one, _), (two, secret) = connected(hosts[:2], netns, **BY_ESP)
    capture = Capture(hosts[0])
    assert exchange_by_tcp(one, two, secret, payload) == payload
    assert one.link("eth0")["mtu"] == 1376
    one.run(["ping", "-n", "-q", "-c1", f"-w{cni.PATIENCE}", "-Mdo", "-s1348", secret])
    frames = capture.end()
    assert max(map(len, frames)) == 14 + 1500
    assert sum(len(frame) for frame in frames if is_esp(frame)) > 2 * len(payload)
    assert not any(MARKER[:12] in frame for frame in frames)
    assert udp_ports(frames) <= {WIREGUARD_PORT}  # where hosts have just talked, WireGuard does

    by_esp = throughput(one, two, secret)
    with capsys.disabled():
        print(f"\nMbit/s: plain {of_plain:.0f}, WireGuard {of_encrypted:.0f}, ESP {by_esp:.0f}")
    assert min(of_encrypted, by_esp) > 0

    for name in (".wireguard.key", ".esp.key"):
        files = [Path(host.directory / "lib/.cnm" / name) for host in hosts[:2]]
        assert all(each.stat().st_mode & 0o777 == 0o600 for each in files)
    shared = stored(hosts[0].etcd)
    keys = {key.split("/", 3)[3] for key in shared}
    assert {f"{kind}/host-{n}" for kind in ("tunnels", "tunnels-esp") for n in (1, 2)} <= keys
    assert not any(private_key(host) in str(shared) for host in hosts[:2])
    assert not any(esp_key(host)[0] in str(shared) for host in hosts[:2])
    assert all(esp_key(host)[1] in str(shared) for host in hosts[:2])


BREAKS = (
    "link delete wg-cnm",
    "link set wg-cnm down",
    "-6 address flush dev wg-cnm",
    "-6 route flush dev wg-cnm",
)
ESP_BREAKS = (
    "link delete esp-cnm",
    "-6 address flush dev esp-cnm",
    "xfrm policy flush",
    "xfrm state flush",
)


def test_fails_closed(hosts: list[Host], netns: Sandboxes) -> None:
    """Without its tunnel a network is cut, and sends nothing by any other way; ADD mends it."""
    hosts[0].netns.ip(*["-6", "route", "add", "default", "dev", "uplink"])
    for network, breaks in ((ENCRYPTED, BREAKS), (BY_ESP, ESP_BREAKS)):
        (one, _), (_, address) = connected(hosts[:2], netns, **network)
        assert one.reaches(address, seconds=cni.PATIENCE)
        marked = ["ping", "-n", "-q", "-i0.2", "-w1", "-p", MARKER[:16].hex(), address]
        for words in breaks:
            hosts[0].netns.ip(*words.split())
            capture = Capture(hosts[0])
            done = subprocess.run(["ip", "netns", "exec", one.name, *marked], check=False)
            assert done.returncode != 0, words
            frames = capture.end()
            assert not any(MARKER[:12] in frame for frame in frames), words
            assert udp_ports(frames) <= {WIREGUARD_PORT}, words
            assert words != ESP_BREAKS[-1] or not any(map(is_esp, frames))
            catch_up(hosts[0], netns, **network)
            if words == ESP_BREAKS[-1]:  # it has another key, that the other host sees by itself
                catch_up(hosts[1], netns, **network)
            assert one.reaches(address, seconds=cni.PATIENCE), words
    # As by a DEL that was killed: the link is gone, and all else is there.
    hosts[0].netns.ip("link", "delete", "esp-cnm")
    hosts[0].delete(one, hosts[0].network(**BY_ESP))
    for kind in ("state", "policy"):
        assert hosts[0].netns.run(["ip", "xfrm", kind]) == ""


def test_two_networks(hosts: list[Host], netns: Sandboxes) -> None:
    """All networks share one tunnel, also on an underlay of IPv6; it goes with the last."""
    pair = hosts[:2]
    for host in pair:
        host.netns.ip("addr", "add", f"2001:db8:99::{host.number}/64", "dev", "uplink", "nodad")
        host.overrides["underlay"] = f"2001:db8:99::{host.number}"
    (one, _), (_, first) = connected(pair, netns, **ENCRYPTED)
    assert one.link("eth0")["mtu"] == 1350
    one.run(["ping", "-n", "-q", "-c1", f"-w{cni.PATIENCE}", "-Mdo", "-s1322", first])
    red = {"name": "red", "subnets": [{"subnet": "10.8.0.0/24"}], **ENCRYPTED}
    (two, _), (other, second) = connected(pair, netns, **red)
    pair[0].delete(one, pair[0].network(**ENCRYPTED))
    assert two.reaches(second, seconds=cni.PATIENCE)
    assert "wg-cnm" in pair[0].netns.links()
    routed = {"mode": "l3", **BY_ESP}
    (three, _), (_, third) = connected(pair, netns, **routed)
    assert three.link("eth0")["mtu"] == 1356
    three.run(["ping", "-n", "-q", "-c1", f"-w{cni.PATIENCE}", "-Mdo", "-s1328", third])
    own = ["xfrm", "state", "add", "src", "::1", "dst", "::1", "proto", "esp", "spi", "9"]
    pair[0].netns.ip(
        *own, "mode", "transport", "aead", "rfc4106(gcm(aes))", "0x" + "1f" * 20, "128"
    )
    pair[0].delete(two, pair[0].network(**red))
    assert "wg-cnm" not in pair[0].netns.links()
    assert three.reaches(third, seconds=cni.PATIENCE)
    pair[0].delete(three, pair[0].network(**routed))
    assert set(pair[0].netns.links()) == {"lo", "uplink"}
    assert pair[0].netns.run(["ip", "xfrm", "policy"]) == ""
    (somebody_elses,) = pair[0].netns.run(["ip", "-o", "xfrm", "state"]).splitlines()
    assert "spi 0x00000009" in somebody_elses
    assert not other.reaches("10.8.0.2", seconds=1)


def test_port_in_use(hosts: list[Host], netns: Sandboxes) -> None:
    """Somebody else's port is named, and nothing is made; hosts may have different ones.

    That new links get no IPv6 does not matter.
    """
    near = hosts[0].netns
    with near.entered():
        Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
        taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with taken:
        taken.bind(("", WIREGUARD_PORT))
        config = hosts[0].network(**ENCRYPTED)
        error = hosts[0].call("ADD", config, netns()).error(cni.INVALID_CONFIG)
        assert f"wireguardPort: {WIREGUARD_PORT} is another one's" in error["msg"]
        assert set(near.links()) == {"lo", "uplink"}
        kinds = {key.split("/")[3] for key in stored(hosts[0].etcd)}
        assert not kinds & {"endpoints", "ips", "tunnels"}
        hosts[0].overrides["wireguardPort"] = WIREGUARD_PORT + 1
        (one, _), (_, address) = connected(hosts[:2], netns, **ENCRYPTED)
        assert one.reaches(address, seconds=cni.PATIENCE)


# --- who is shut out


def vxlan_packet(vni: int, to: str, mac: str, payload: bytes) -> bytes:
    """A VXLAN header with a frame in it: UDP to port 9999 of an address."""
    udp = struct.pack("!HHHH", 9999, 9999, 8 + len(payload), 0) + payload
    source, destination = map(socket.inet_aton, ("10.7.0.250", to))
    head = struct.pack("!BBHIBBH", 0x45, 0, 20 + len(udp), 0, 64, socket.IPPROTO_UDP, 0)
    head += source + destination
    total = sum(struct.unpack("!10H", head))
    checksum = ~(total + (total >> 16)) & 0xFFFF
    packet = head[:10] + struct.pack("!H", checksum) + head[12:] + udp
    frame = bytes.fromhex(mac.replace(":", "")) + b"\x02\0\0\0\0\x77" + b"\x08\0" + packet
    return struct.pack("!II", 0x08000000, vni << 8) + frame


def gets(
    sandbox: Netns, sender: Netns, to: tuple[Any, ...], packet: bytes, seconds: int = 2
) -> bool:
    """Whether a container gets what a namespace sends as VXLAN to an address of its host."""
    family = socket.AF_INET6 if ":" in to[0] else socket.AF_INET
    with sandbox.entered():
        listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender.entered():
        out = socket.socket(family, socket.SOCK_DGRAM)
    with listener, out:
        listener.bind(("", 9999))
        listener.settimeout(seconds)
        for _ in range(3):
            out.sendto(packet, to)
        try:
            return bool(listener.recv(2048))
        except TimeoutError:
            return False


def test_plain_packets(hosts: list[Host], netns: Sandboxes) -> None:
    """What a member sends past the tunnel is not taken; of a plain network it is."""
    network = {"subnets": [{"subnet": "10.8.0.0/24"}]}
    ((one, plain), _) = connected(hosts[:2], netns, name="plain", **network)
    ((two, secret), _) = connected(hosts[:2], netns, **ENCRYPTED)
    near, far = hosts[0].netns, hosts[1].netns
    packet = vxlan_packet(4097, plain, one.link("eth0")["address"], MARKER)
    assert gets(one, far, (hosts[0].address, VXLAN_PORT), packet, cni.PATIENCE)
    # Nobody else's rules are to keep it out.
    near.run(["nft", "flush", "ruleset"])
    packet = vxlan_packet(4098, secret, two.link("eth0")["address"], MARKER)
    assert not gets(two, far, (hosts[0].address, VXLAN_PORT), packet)
    (link_local,) = (
        each["local"]
        for listed in near.query("addr", "show", "dev", "uplink")
        for each in listed["addr_info"]
        if each["family"] == "inet6"
    )
    index = far.link("uplink")["ifindex"]
    assert not gets(two, far, (link_local, VXLAN_PORT, 0, index), packet)
    tunnelled = far.link("wg-cnm")["ifindex"]
    assert gets(two, far, ("fe80::a63:1", VXLAN_PORT, 0, tunnelled), packet, cni.PATIENCE)

    ((three, secret), _) = connected(hosts[:2], netns, **BY_ESP)
    near.run(["nft", "flush", "ruleset"])
    packet = vxlan_packet(4099, secret, three.link("eth0")["address"], MARKER)
    assert not gets(three, far, (hosts[0].address, VXLAN_PORT), packet)
    assert not gets(three, far, (link_local, VXLAN_PORT, 0, index), packet)
    tunnelled = far.link("esp-cnm")["ifindex"]
    assert gets(three, far, ("fe80::a63:1", VXLAN_PORT, 0, tunnelled), packet, cni.PATIENCE)


def test_wrong_key(hosts: list[Host], netns: Sandboxes) -> None:
    """Who has not the key that the others know is shut out, and so is who was fenced."""
    (one, _), (_, address) = connected(hosts[:2], netns, **ENCRYPTED)
    assert one.reaches(address, seconds=cni.PATIENCE)
    further = netns()
    result = hosts[1].add(further, hosts[1].network(**ENCRYPTED))
    hosts[1].check(further, result, **ENCRYPTED).silent()
    with hosts[1].netns.entered():
        Wireguard().set_key("wg-cnm", bytes(range(32)), WIREGUARD_PORT)
    assert not one.reaches(address, seconds=2)
    error = hosts[1].check(further, result, **ENCRYPTED).error(105)
    assert "WireGuard device wg-cnm: expected the key in " in error["msg"]
    assert private_key(hosts[1]) not in str(error)
    catch_up(hosts[1], netns, **ENCRYPTED)
    assert one.reaches(address, seconds=cni.PATIENCE)

    fence(hosts[1])
    catch_up(hosts[0], netns, **ENCRYPTED)
    assert peers(hosts[0]) == ()
    packet = vxlan_packet(4097, "10.7.0.2", one.link("eth0")["address"], MARKER)
    index = hosts[1].netns.link("wg-cnm")["ifindex"]
    assert not gets(one, hosts[1].netns, ("fe80::a63:1", VXLAN_PORT, 0, index), packet)


def test_wrong_esp_key(hosts: list[Host], netns: Sandboxes) -> None:
    """Who has not the key that follows from the hosts' is shut out, and so is who was fenced."""
    near, far = hosts[:2]
    (one, _), (_, address) = connected([near, far], netns, **BY_ESP)
    assert one.reaches(address, seconds=cni.PATIENCE)
    listed = near.netns.run(["ip", "xfrm", "state"])
    assert listed.count("rfc4106(gcm(aes))") == listed.count("flag esn") == 2
    further = netns()
    result = far.add(further, far.network(**BY_ESP))
    far.check(further, result, **BY_ESP).silent()

    def forge() -> None:
        """Have the far host send with keys of its own making."""
        kernel = Xfrm(IF_ID)
        found = {each.source: each for each in kernel.associations()}[socket.inet_aton(far.address)]
        kernel.delete([found])
        ends = [socket.inet_pton(socket.AF_INET6, f"fe80::a63:{n}") for n in (2, 1)]
        kernel.add([Association(found.source, found.destination, found.spi, bytes(20), *ends)])

    with far.netns.entered():
        forge()
    assert not one.reaches(address, seconds=2)
    assert "XfrmInStateProtoError" in nonzero(near)
    far.netns.ip("xfrm", "state", "flush")
    error = far.check(further, result, **BY_ESP).error(105)
    assert "security association to host-1: expected SPI 0x" in error["msg"]
    mend(far, "security association from host-1")
    catch_up(near, netns, **BY_ESP)
    assert one.reaches(address, seconds=cni.PATIENCE)

    fence(far)
    catch_up(near, netns, **BY_ESP)
    assert near.netns.run(["ip", "xfrm", "state"]) == ""
    packet = vxlan_packet(4097, "10.9.0.2", one.link("eth0")["address"], MARKER)
    index = far.netns.link("esp-cnm")["ifindex"]
    assert not gets(one, far.netns, ("fe80::a63:1", VXLAN_PORT, 0, index), packet)


def mend(host: Host, problem: str) -> None:
    """Have `cnm doctor --fix` mend what a host's network by ESP has."""
    document = {"name": "esp", "plugins": [host.network(**BY_ESP)]}
    network = parse(host.directory / "esp.conflist", document)
    with host.netns.entered():
        (found,) = (each for each in overlays.findings([network]) if problem in each.message)
        assert found.mend is not None
        found.mend()
        assert all(each.status == OK for each in overlays.findings([network]))


def nonzero(host: Host) -> set[str]:
    """What the kernel has counted of IPsec on a host."""
    lines = host.netns.run(["cat", "/proc/net/xfrm_stat"]).splitlines()
    return {name for name, count in map(str.split, lines) if count != "0"}


# --- rotation

KEY = "cnm/v1/default/tunnels/host-1"


class Conversation(threading.Thread):
    """A TCP connection between two containers that goes on until it is ended."""

    def __init__(self, client: Netns, server: Netns, address: str) -> None:
        super().__init__()
        with server.entered():
            listener = socket.create_server((address, 0))
        with client.entered(), listener:
            self._near = socket.create_connection(listener.getsockname(), timeout=60)
            self._far, _ = listener.accept()
        self._ending = threading.Event()
        self.count, self.pause, self.error = 0, 0.0, ""

    def run(self) -> None:
        try:
            with self._near, self._far:
                while not self._ending.wait(0.02):
                    self._exchange()
        except OSError as error:
            self.error = str(error)

    def _exchange(self) -> None:
        begin = time.monotonic()
        piece = struct.pack("!Q", self.count)
        for near, far in ((self._near, self._far), (self._far, self._near)):
            near.sendall(piece)
            if far.recv(len(piece), socket.MSG_WAITALL) != piece:
                raise OSError("something else arrived")
        self.pause = max(self.pause, time.monotonic() - begin)
        self.count += 1

    def longest_pause(self, step: Callable[[], None]) -> float:
        """How long an exchange took at most, in seconds, while a step was taken and after it."""
        time.sleep(1)
        self.pause = 0.0
        step()
        time.sleep(2)
        return self.pause

    def end(self) -> None:
        """Have it end."""
        self._ending.set()
        self.join()


def test_rotation(hosts: list[Host], netns: Sandboxes, capsys: pytest.CaptureFixture[str]) -> None:
    """With another key on one host, traffic goes on, and the former key is worth nothing."""
    (one, _), (two, address) = connected(hosts[:2], netns, **ENCRYPTED)
    makes_known_what_is(hosts[0])
    catch_up(hosts[0], netns, **ENCRYPTED)
    leaves_who_has_moved(hosts, netns)
    hosts[1].start_agent(seconds=2 * cni.PATIENCE)
    assert one.reaches(address, seconds=cni.PATIENCE)
    keys = [peer_key(hosts[1])]
    conversation = Conversation(one, two, address)
    conversation.start()
    try:
        for _ in range(3):
            pause = conversation.longest_pause(lambda: rotate(hosts[0]))
            until(lambda: peer_key(hosts[1]) not in ("", *keys))
            keys.append(peer_key(hosts[1]))
            with capsys.disabled():
                print(f"\nrotation: traffic paused for {pause * 1000:.0f} ms")
        command = [hosts[0].bin / "cnm", "node", "rotate-key", "--agent-config"]
        key = hosts[0].netns.run([*map(str, command), str(hosts[0].write_config())]).strip()
        until(lambda: peer_key(hosts[1]) == key)
        count = conversation.count
        until(lambda: conversation.count > count or not conversation.is_alive())
    finally:
        conversation.end()
    assert not conversation.error
    assert conversation.count > count
    assert len({*keys, key}) == 5
    # What else an agent does for its tunnel: here it is.
    hosts[1].netns.ip("link", "delete", "wg-cnm")
    assert one.reaches(address, seconds=cni.PATIENCE)
    assert "made-tunnel" in hosts[1].events()
    rotate_esp(hosts, netns, capsys)
    forgets_the_fenced(hosts, netns, one, address)


def makes_known_what_is(host: Host) -> None:
    """Another key, or another address, is told by whoever looks; and no key where there is none."""

    def rotated_before(cluster: Cluster) -> list[tunnels.End]:
        rotate(host)
        return ends(cluster)

    ends = tunnels.ends
    with host.netns.entered(), pytest.MonkeyPatch.context() as patched:
        tunnel = tunnel_of(host)
        before = stored(host.etcd)[KEY]
        patched.setattr(tunnels, "ends", rotated_before)
        tunnel.reconcile()
        patched.undo()
        device = Wireguard().device_of("wg-cnm")
        assert device is not None
        assert b64encode(device.public_key).decode() in stored(host.etcd)[KEY] != before

        cluster = open_membership(overlay_config(host.network()), print).cluster
        (member,) = (each for each in cluster.members() if each.node == host.name)
        moved = cluster.join(member.replace(vtep=bytes((10, 99, 0, 99))))
        tunnel.reconcile()
        assert '"endpoint":"10.99.0.99"' in stored(host.etcd)[KEY].replace(" ", "")
        cluster.join(member.replace(revision=moved.revision))

        after = stored(host.etcd)[KEY]
        host.netns.ip("link", "delete", "wg-cnm")
        host.netns.ip("link", "add", "wg-cnm", "type", "wireguard")
        assert tunnel.reconcile() == (0, 0)
        assert stored(host.etcd)[KEY] == after


def leaves_who_has_moved(hosts: list[Host], netns: Sandboxes) -> None:
    """A peer that sends from another address, as behind a translation, is left there."""
    with hosts[1].netns.entered():
        tunnel = tunnel_of(hosts[1])
        tunnel.reconcile()
        hosts[0].netns.ip("addr", "add", "10.99.0.77/24", "dev", "uplink")
        route = ["route", "replace", "10.99.0.0/24", "dev", "uplink", "src"]
        hosts[0].netns.ip(*route, "10.99.0.77")
        hosts[0].netns.ip("link", "delete", "wg-cnm")
        catch_up(hosts[0], netns, **ENCRYPTED)
        deadline = time.monotonic() + cni.PATIENCE
        while peers(hosts[1])[0].endpoint != bytes((10, 99, 0, 77)):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert tunnel.reconcile() == (0, 0)
        assert peers(hosts[1])[0].endpoint == bytes((10, 99, 0, 77))
        assert tunnel_of(hosts[1]).reconcile() == (1, 0)
        hosts[0].netns.ip(*route, hosts[0].address)


def rotate_esp(hosts: list[Host], netns: Sandboxes, capsys: pytest.CaptureFixture[str]) -> None:
    """By ESP not a packet is lost; and the keys of no two moments are the same."""
    (one, _), (two, address) = connected(hosts[:2], netns, **BY_ESP)
    assert one.reaches(address, seconds=cni.PATIENCE)
    before = [nonzero(host) for host in hosts[:2]]
    keys = {associated(hosts[0])}
    conversation = Conversation(one, two, address)
    conversation.start()
    try:
        for _ in range(2):
            pause = conversation.longest_pause(lambda: rotate(hosts[0], EspTunnel))
            until(lambda: associated(hosts[0]) not in {"", *keys})
            keys.add(associated(hosts[0]))
            with capsys.disabled():
                print(f"\nrotation by ESP: traffic paused for {pause * 1000:.0f} ms")
    finally:
        conversation.end()
    assert not conversation.error
    assert [nonzero(host) for host in hosts[:2]] == before
    assert len(keys) == 3
    # What was there before goes, on its own.
    until(lambda: all(associations(host) == 2 for host in hosts[:2]))
    turns_without_store(hosts)
    assert one.reaches(address, seconds=cni.PATIENCE)
    hosts[0].etcd.start()


def turns_without_store(hosts: list[Host]) -> None:
    """Where the store goes right after it was told of a key, all turn to that key all the same."""

    def told(*arguments: Any) -> None:
        publish(*arguments)
        until(lambda: associations(hosts[1]) > 2)
        hosts[0].etcd.kill()

    publish = tunnels_esp.publish
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tunnels_esp, "publish", told)
        rotate(hosts[0], EspTunnel)
    until(lambda: all(associations(host) == 2 for host in hosts[:2]))


def associations(host: Host) -> int:
    """How many a host has."""
    return host.netns.run(["ip", "xfrm", "state"]).count("proto esp")


def associated(host: Host) -> str:
    """The keys of what a host has in its kernel of ESP that is not to end; "" while it changes."""
    with host.netns.entered():
        found = [each for each in Xfrm(IF_ID).associations() if not each.ends]
    if len(found) != 2:
        return ""
    listed = host.netns.run(["ip", "-o", "xfrm", "state"]).splitlines()
    return "".join(
        line.partition("rfc4106(gcm(aes)) ")[2].split()[0]
        for line in sorted(listed)
        if any(f"spi 0x{each.spi:08x}" in line for each in found)
    )


def rotate(host: Host, kind: type[Tunnel | EspTunnel] = Tunnel) -> None:
    """Give a host another key."""
    with host.netns.entered():
        tunnel_of(host, kind).rotate()


def tunnel_of(host: Host, kind: type[Tunnel | EspTunnel] = Tunnel) -> Tunnel | EspTunnel:
    """A host's end, for whoever is in its namespace."""
    options = overlay_config(host.network(**ENCRYPTED))
    return kind(Socket(), options, open_membership(options, lambda error: None))


def peer_key(host: Host) -> str:
    """The public key of a host's only peer; "" while it changes."""
    found = peers(host)
    return b64encode(found[0].key).decode() if len(found) == 1 else ""


def peers(host: Host) -> tuple[Peer, ...]:
    """The peers of a host."""
    with host.netns.entered():
        device = Wireguard().device_of("wg-cnm")
    assert device is not None
    return device.peers


def forgets_the_fenced(hosts: list[Host], netns: Sandboxes, client: Netns, address: str) -> None:
    """The agent of the second host has the first one's key until that is fenced, and once it has
    joined again.
    """
    key = peer_key(hosts[1])
    fence(hosts[0])
    await_peers(hosts[1], 0)
    assert not client.reaches(address, seconds=1)
    catch_up(hosts[0], netns, **ENCRYPTED)
    await_peers(hosts[1], 1)
    assert peer_key(hosts[1]) == key
    assert client.reaches(address, seconds=cni.PATIENCE)


def fence(host: Host) -> None:
    """Have a host be no member any more."""
    with host.netns.entered():
        server = EtcdStore(Access((parse_url(host.etcd.url),)), "cnm/v1/default/")
        Cluster(server, lambda error: None).fence(host.name)


def await_peers(host: Host, count: int) -> None:
    """Wait until a host has so many peers."""
    until(lambda: len(peers(host)) == count)


# --- with other options


def test_other_options(hosts: list[Host], netns: Sandboxes) -> None:
    """Routed networks are encrypted too, and so are copies of what goes to everybody."""
    routed = {"mode": "l3", **ENCRYPTED}
    (one, _), (two, address) = connected(hosts[:2], netns, **routed)
    assert "via 10.7.0.33" in hosts[0].netns.run(["ip", "route", "show", "dev", "vx-001001"])
    red = {"name": "red", "subnets": [{"subnet": "10.8.0.0/24"}], "bum": "ingress-replication"}
    (three, _), (four, copied) = connected(hosts[:2], netns, **red, **ENCRYPTED)
    capture = Capture(hosts[0])
    payload = MARKER * 512
    assert exchange_by_tcp(one, two, address, payload) == payload
    assert exchange_by_tcp(three, four, copied, payload) == payload
    with four.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("", 9999))
        listener.settimeout(cni.PATIENCE)
        broadcast(three, "10.8.0.255", 9999)
        assert listener.recv(100) == MARKER
    frames = capture.end()
    assert sum(map(len, frames)) > 4 * len(payload)
    assert not any(MARKER[:12] in frame for frame in frames)
    assert udp_ports(frames) == {WIREGUARD_PORT}


def broadcast(sender: Netns, address: str, port: int) -> None:
    """Have a container send to everybody."""
    with sender.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        out.sendto(MARKER, (address, port))
