"""The endpoints of networks: by our drivers' records, and by the results that runtimes keep."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from cnm_core.cli import plugins
from cnm_core.cli.conflists import Conflist
from cnm_core.cli.drivers import state_dir
from cnm_core.errors import StateFailure
from cnm_core.inet import format_ip, format_mac
from cnm_core.kernel.netns import find_netns
from cnm_core.model import Endpoint, EndpointKey, PublishedPort
from cnm_core.store.endpoints import EndpointStore

_PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp"}


@dataclass(frozen=True)
class Attached:
    """An endpoint: what it is to its network, wherever that is written down.

    Addresses are in CIDR notation, ports as in 127.0.0.1:8080->80/tcp. `damaged` says why
    its record cannot be read.
    """

    network: str
    key: EndpointKey
    netns: str = ""
    mac: str = ""
    host_link: str = ""
    addresses: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()
    damaged: str = ""

    @property
    def id(self) -> str:
        """64 hexadecimal digits that follow from network, container and interface."""
        text = f"{self.network} {self.key}"
        return sha256(text.encode()).hexdigest()

    @property
    def is_alive(self) -> bool:
        """Whether there is a namespace at its path."""
        return find_netns(self.netns) is not None


def of_network(network: Conflist) -> list[Attached]:
    """The endpoints of a network, by container ID and interface name."""
    found = {each.key: each for each in map(_of_cache, plugins.cached_of(network.name))}
    found |= {each.key: each for each in recorded(state_dir(network.driver_config), network.name)}
    return [found[key] for key in sorted(found, key=str)]


def recorded(directory: str, network: str) -> list[Attached]:
    """The endpoints that have records of ours."""
    store = EndpointStore(directory)
    return [_of_record(store, network, key) for key in store.keys(network)]


def recorded_networks(directory: str) -> list[str]:
    """The networks that have records, whether or not they still have a file."""
    try:
        entries = list(Path(directory).iterdir())
    except OSError:
        return []
    return sorted(each.name for each in entries if each.is_dir() and each.name[0] != ".")


def _of_record(store: EndpointStore, network: str, key: EndpointKey) -> Attached:
    try:
        endpoint = store.load(network, key)
    except StateFailure as error:
        return Attached(network, key, damaged=error.msg)
    return Attached(network, key) if endpoint is None else _of_endpoint(endpoint)


def _of_endpoint(endpoint: Endpoint) -> Attached:
    return Attached(
        endpoint.network,
        endpoint.key,
        endpoint.sandbox.netns,
        format_mac(endpoint.mac) if endpoint.mac else "",
        endpoint.host_link,
        tuple(str(lease.address) for lease in endpoint.addressing.leases),
        tuple(map(_port, endpoint.ports)),
    )


def _of_cache(cached: plugins.Cached) -> Attached:
    key, result = cached.attachment.key, cached.result
    interfaces = _objects(result.get("interfaces"))
    inside = [each for each in interfaces if each.get("sandbox") and each.get("name") == key.ifname]
    outside = [each for each in interfaces if not each.get("sandbox")]
    return Attached(
        cached.network.name,
        key,
        cached.attachment.netns,
        str(inside[0].get("mac", "")) if inside else "",
        str(outside[-1].get("name", "")) if outside else "",
        tuple(str(each["address"]) for each in _objects(result.get("ips")) if "address" in each),
    )


def _objects(values: Any) -> list[dict[str, Any]]:
    return [each for each in values if isinstance(each, dict)] if isinstance(values, list) else []


def _port(port: PublishedPort) -> str:
    host = format_ip(port.host_ip) if port.host_ip else ""
    host = f"[{host}]:" if ":" in host else f"{host}:" if host else ""
    protocol = _PROTOCOLS.get(port.protocol, str(port.protocol))
    return f"{host}{port.host_port}->{port.container_port}/{protocol}"
