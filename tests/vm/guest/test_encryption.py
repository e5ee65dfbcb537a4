"""Encrypted overlay networks over namespaces as hosts, with a real etcd."""

import socket
import subprocess
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import cni
from tests.etcd import Etcd
from tests.hosts import Host, Sandboxes, cluster
from tests.iproute import HOST, Netns, exchange_by_tcp

PATIENCE = 10  # seconds, for emulation is slow
MARKER = b"read me on the underlay "
VXLAN_PORT, WIREGUARD_PORT = 4789, 51830
_ETH_P_ALL, _SO_RCVBUFFORCE = 3, 33
_MODPROBE = Path("/proc/sys/kernel/modprobe")
ENCRYPTED = {"encrypted": True}


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


# --- a kernel without it


@contextmanager
def without_wireguard() -> Iterator[None]:
    """A kernel that has no WireGuard, and cannot get it."""
    helper = _MODPROBE.read_text()
    _MODPROBE.write_text("/bin/false\n")
    try:
        deadline = time.monotonic() + PATIENCE
        while Path("/sys/module/wireguard").exists():
            subprocess.run(["modprobe", "-r", "wireguard"], capture_output=True, check=False)
            assert time.monotonic() < deadline
        yield
    finally:
        _MODPROBE.write_text(helper)


def test_without_wireguard(hosts: list[Host], netns: Sandboxes) -> None:
    """A host that cannot encrypt says so, and nothing is made: no link, no address, no member."""
    (one, _), (_, address) = connected(hosts[:2], netns)
    known = stored(hosts[0].etcd)
    config = hosts[2].network("secret", **ENCRYPTED)
    with without_wireguard():
        error = hosts[2].call("ADD", config, netns()).error(50)
        hosts[2].call("STATUS", config, HOST).error(50)
    assert "encrypted: this host's kernel has no WireGuard" in error["msg"]
    assert "load the module wireguard" in error["details"]
    assert set(hosts[2].netns.links()) == {"lo", "uplink"}
    assert stored(hosts[0].etcd) == known
    assert one.reaches(address, seconds=PATIENCE)


def stored(etcd: Etcd) -> dict[str, str]:
    """All that etcd holds."""
    everything = b64encode(b"\0").decode()
    answer: Any = etcd.call("/v3/kv/range", key=everything, range_end=everything)
    return {
        b64decode(each["key"]).decode(): b64decode(each["value"]).decode()
        for each in answer.get("kvs", ())
    }


# --- what the underlay shows


def test_no_plain_text(hosts: list[Host], netns: Sandboxes) -> None:
    """What is on the underlay cannot be read; of a plain network it can.

    A packet as large as the MTU gets through. Private keys are root's on their host only.
    """
    payload = MARKER * 8192
    (_, _), (two, plain) = pair = connected(hosts[:2], netns, name="plain")
    capture = Capture(hosts[0])
    assert exchange_by_tcp(pair[0][0], two, plain, payload) == payload
    assert any(MARKER in frame for frame in capture.end())

    members = {"subnets": [{"subnet": "10.8.0.0/24"}, {"subnet": "fd00:8::/64"}], **ENCRYPTED}
    (one, _), (two, secret) = connected(hosts[:2], netns, name="secret", **members)
    capture = Capture(hosts[0])
    assert exchange_by_tcp(one, two, secret, payload) == payload
    assert one.link("eth0")["mtu"] == 1370
    one.run(["ping", "-n", "-q", "-c1", f"-w{PATIENCE}", "-Mdo", "-s1342", secret])
    frames = capture.end()
    assert sum(map(len, frames)) > 2 * len(payload)
    assert not any(MARKER[:12] in frame for frame in frames)
    assert udp_ports(frames) == {WIREGUARD_PORT}

    keys = [Path(host.directory / "lib/.cnm/.wireguard.key") for host in hosts[:2]]
    assert all(key.stat().st_mode & 0o777 == 0o600 for key in keys)
    shared = stored(hosts[0].etcd)
    assert {"tunnels/host-1", "tunnels/host-2"} <= {key.split("/", 3)[3] for key in shared}
    assert not any(key.read_text().strip() in str(shared) for key in keys)


BREAKS = (
    "link delete wg-cnm",
    "link set wg-cnm down",
    "-6 address flush dev wg-cnm",
    "-6 route flush dev wg-cnm",
)


def test_fails_closed(hosts: list[Host], netns: Sandboxes) -> None:
    """Without its tunnel a network is cut, and sends nothing by any other way; ADD mends it."""
    (one, _), (_, address) = connected(hosts[:2], netns, **ENCRYPTED)
    assert one.reaches(address, seconds=PATIENCE)
    hosts[0].netns.ip(*["-6", "route", "add", "default", "dev", "uplink"])
    marked = ["ping", "-n", "-q", "-i0.2", "-w1", "-p", MARKER[:16].hex(), address]
    for words in BREAKS:
        hosts[0].netns.ip(*words.split())
        capture = Capture(hosts[0])
        done = subprocess.run(["ip", "netns", "exec", one.name, *marked], check=False)
        assert done.returncode != 0, words
        frames = capture.end()
        assert not any(MARKER[:12] in frame for frame in frames), words
        assert udp_ports(frames) <= {WIREGUARD_PORT}, words
        catch_up(hosts[0], netns, **ENCRYPTED)
        assert one.reaches(address, seconds=PATIENCE), words
