"""The network configurations that are timed, for one peer and one data directory each."""

import json
from pathlib import Path
from typing import Any

from peers import Peer

Config = dict[str, Any]

VERSION = "1.0.0"  # the newest that Debian 12's plugins speak
MACVLAN_PARENT = "parent0"


def encode(config: Config) -> bytes:
    return json.dumps(config).encode()


def network(peer: Peer, plugin: str, **keys: Any) -> Config:
    """What each configuration has."""
    return {"cniVersion": VERSION, "name": f"net{peer.index}", "type": plugin, **keys}


def host_local(peer: Peer, data: Path, *, dual: bool = False) -> Config:
    """An ipam section: a /16 and a default route, the same again for IPv6 where dual."""
    ranges = [[{"subnet": f"10.{100 + peer.index}.0.0/16"}]]
    routes = [{"dst": "0.0.0.0/0"}]
    if dual:
        ranges.append([{"subnet": f"fd00:{peer.index + 1:x}::/64"}])
        routes.append({"dst": "::/0"})
    return {"type": "host-local", "dataDir": str(data), "ranges": ranges, "routes": routes}


def bridge_name(peer: Peer) -> str:
    return f"br{peer.index}"


def bridge(peer: Peer, data: Path, *, dual: bool = False, **keys: Any) -> Config:
    """A bridge that is no gateway."""
    ipam = host_local(peer, data, dual=dual)
    return network(peer, "bridge", bridge=bridge_name(peer), ipam=ipam) | keys


def gateway(peer: Peer, data: Path, **keys: Any) -> Config:
    """A bridge as most people have it."""
    return bridge(peer, data, isGateway=True, **keys)


def addresses(peer: Peer, data: Path) -> Config:
    """Addresses alone: what a plugin hands to host-local."""
    return network(peer, "bridge", ipam=host_local(peer, data))


def published(number: int) -> Config:
    """The keys by which two ports of the host lead to a container."""
    ports = [
        {"hostPort": 2 * number + 8080, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 2 * number + 8081, "containerPort": 81, "protocol": "udp"},
    ]
    return {"capabilities": {"portMappings": True}, "runtimeConfig": {"portMappings": ports}}
