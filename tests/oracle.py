"""What an overlay's hosts must have in their kernels, by etcdctl; what they have, by iproute2.

Neither asks the code under test. A host has three entries for each endpoint of another host,
and none besides: ("neighbour", IP, MAC), ("port", MAC) and ("vtep", MAC, VTEP).
"""

import json
import subprocess
import time
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass

from tests import cni
from tests.etcd import CLIENT, Etcd
from tests.hosts import Host

Rows = set[tuple[str, ...]]
PREFIX = "cnm/v1/default/"


@dataclass(frozen=True)
class Stored:
    """An endpoint as the store has it."""

    node: str
    name: str
    ips: tuple[str, ...]
    mac: str
    vtep: str


def keys_below(etcd: Etcd, prefix: str) -> dict[str, str]:
    """Keys below a prefix, without it, and their values."""
    done = subprocess.run(
        ["etcdctl", f"--endpoints={etcd.url}", "get", "--prefix", PREFIX + prefix, "-w", "json"],
        env=CLIENT,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout).get("kvs", [])
    texts = [(b64decode(each["key"]), b64decode(each.get("value", ""))) for each in found]
    return {key.decode().removeprefix(PREFIX + prefix): text.decode() for key, text in texts}


def put(etcd: Etcd, key: str, value: str) -> None:
    """Write a key by hand."""
    command = ["etcdctl", f"--endpoints={etcd.url}", "put", PREFIX + key, value]
    subprocess.run(command, env=CLIENT, capture_output=True, check=True)


def stored_endpoints(etcd: Etcd, network: str = "blue") -> list[Stored]:
    """The endpoints of a network that the store has."""
    found = []
    for key, text in keys_below(etcd, f"endpoints/{network}/").items():
        node, _, name = key.partition("/")
        value = json.loads(text)
        found.append(Stored(node, name, tuple(value["ips"]), value["mac"], value["vtep"]))
    return found


def wanted(endpoints: Sequence[Stored], host: Host) -> Rows:
    """The entries that a host must have: without an endpoint of its own it has no bridge."""
    rows: Rows = set()
    if host.name not in {each.node for each in endpoints}:
        return rows
    for each in endpoints:
        if each.node != host.name:
            rows |= {("port", each.mac), ("vtep", each.mac, each.vtep)}
            rows |= {("neighbour", ip, each.mac) for ip in each.ips}
    return rows


def present(host: Host, vni: int = 4097) -> Rows:
    """The static entries that a host has."""
    bridge, device = f"ov-{vni:06x}", f"vx-{vni:06x}"
    rows: Rows = set()
    for each in host.listed("ip", "-j", "neigh", "show", "dev", bridge, "nud", "permanent"):
        if not each["dst"].startswith("ff"):
            rows.add(("neighbour", each["dst"], each["lladdr"]))
    for each in host.listed("bridge", "-j", "fdb", "show", "dev", device):
        if "dst" in each:
            rows.add(("vtep", each["mac"], each["dst"]))
        elif each.get("state") == "static":
            rows.add(("port", each["mac"]))
    return rows


def is_consistent(etcd: Etcd, network: str = "blue") -> list[str]:
    """What is wrong within the store: addresses without an endpoint, or with another one."""
    owners = keys_below(etcd, f"ips/{network}/")
    claimed = {
        ip: f"{each.node}/{each.name}"
        for each in stored_endpoints(etcd, network)
        for ip in each.ips
    }
    wrong = sorted(owners.items() ^ claimed.items())
    return [f"{ip} of {owner} is only in one of ips/ and endpoints/" for ip, owner in wrong]


def agree(
    hosts: Sequence[Host], *, vni: int = 4097, seconds: float = cni.PATIENCE, about: str = ""
) -> None:
    """Wait until each host's entries are what the store says, and none is missing or stale."""
    etcd = hosts[0].etcd
    deadline = time.monotonic() + seconds
    for host in hosts:
        while (rows := present(host, vni)) != (right := wanted(stored_endpoints(etcd), host)):
            assert time.monotonic() < deadline, (
                f"{about} {host.name}: missing {sorted(right - rows)}, stale {sorted(rows - right)}"
                f"\n{host.log.read_text()[-2000:] if host.log.exists() else ''}"
            )
            time.sleep(0.05)
    while wrong := is_consistent(etcd):  # it is read in two parts: a release may be between them
        assert time.monotonic() < deadline, f"{about} {wrong}"
        time.sleep(0.05)
