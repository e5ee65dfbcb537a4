"""Records of endpoints: what was made for each, so that it can be undone whatever is lost.

One JSON file an endpoint, ``<directory>/<network>/<container ID>:<interface name>``,
written before the kernel is changed and removed after. A colon is in neither part.
"""

from time import time_ns

from cnm_core import json
from cnm_core.config import formats
from cnm_core.errors import Damaged
from cnm_core.inet import (
    format_ip,
    format_mac,
    parse_address,
    parse_ip,
    parse_mac,
)
from cnm_core.model import (
    Addressing,
    Endpoint,
    EndpointKey,
    Lease,
    Policy,
    Pool,
    PublishedPort,
    Sandbox,
)
from cnm_core.store import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FORMAT = 1


class EndpointStore:
    """The records of all networks under one directory."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def lock(self, network: str) -> files.Lock:
        """The network's lock, for changes that concern more than one endpoint."""
        directory = self._network(network)
        files.make_private(directory)
        return files.Lock(directory + "/.lock")

    def lock_of_parents(self) -> files.Lock:
        """The lock for parent links, which endpoints of several networks may share."""
        files.make_directories(self._directory)
        return files.Lock(self._directory + "/.lock")

    def shares_parent(self, name: str, endpoint: Endpoint) -> bool:
        """Whether the record of another endpoint, of any network, names that parent link.

        A record that makes no sense may be one of them. The first found will do: mostly
        the endpoint's own network has it.
        """
        own = (endpoint.network, endpoint.key)
        networks = sorted(self.networks(), key=lambda each: each != endpoint.network)
        for network in networks:
            for key in self.keys(network):
                if (network, key) != own and self._names_parent(network, key, name):
                    return True
        return False

    def save(self, endpoint: Endpoint) -> None:
        """Write an endpoint's record. Raises StateFailure."""
        files.make_private(self._network(endpoint.network))
        files.replace(self._path(endpoint.network, endpoint.key), _encode(endpoint))

    def load(self, network: str, key: EndpointKey) -> Endpoint | None:
        """An endpoint's record, or None. Raises StateFailure, Damaged where it makes no sense."""
        path = self._path(network, key)
        content = files.read_text(path)
        return None if content is None else _decode(content, path, network, key)

    def is_young(self, network: str, key: EndpointKey, seconds: int) -> bool:
        """Whether an endpoint's record was written less than that ago."""
        return files.within(self.written(network, key), time_ns(), seconds)

    def written(self, network: str, key: EndpointKey) -> int:
        """When an endpoint's record was written, in nanoseconds since 1970; 0 for no record."""
        return files.modified(self._path(network, key)) or 0

    def remove_half_written(self, network: str, seconds: int) -> None:
        """Forget what a kill left of records that were being written longer ago than that."""
        files.refuse_link(self._network(network))
        for path in files.temporaries(self._network(network)):
            if not files.within(files.modified(path) or 0, time_ns(), seconds):
                files.remove(path)

    def remove(self, network: str, key: EndpointKey) -> None:
        """Forget an endpoint; it may be forgotten already, or half written."""
        files.refuse_link(self._network(network))
        files.remove(files.temporary(self._path(network, key)))
        files.remove(self._path(network, key))

    def keys(self, network: str) -> list[EndpointKey]:
        """The endpoints of a network that have records, whole or broken."""
        names = files.names(self._network(network))
        parts = [name.partition(":") for name in names if not name.startswith(".")]
        return [EndpointKey(cid, ifname) for cid, colon, ifname in parts if colon]

    def _names_parent(self, network: str, key: EndpointKey, name: str) -> bool:
        try:
            found = self.load(network, key)
        except Damaged:
            return True
        return found is not None and name in found.parents

    def networks(self) -> list[str]:
        """The networks that have, or had, endpoints."""
        return [name for name in files.names(self._directory) if not name.startswith(".")]

    def _network(self, network: str) -> str:
        return f"{self._directory}/{network}"

    def _path(self, network: str, key: EndpointKey) -> str:
        return f"{self._network(network)}/{key}"


def _encode(endpoint: Endpoint) -> str:
    return json.dumps(
        {
            "format": FORMAT,
            "netns": endpoint.sandbox.netns,
            "sandbox": endpoint.sandbox.identity,
            "hostLink": endpoint.host_link,
            "mac": format_mac(endpoint.mac) if endpoint.mac else None,
            "sourceChecked": endpoint.source_checked,
            "parents": endpoint.parents,
            "driver": endpoint.driver,
            "policy": _encode_policy(endpoint.policy) if endpoint.policy else None,
            "pool": {"driver": endpoint.pool.driver, "dataDir": endpoint.pool.data_dir},
            "ports": [
                {
                    "protocol": port.protocol,
                    "hostPort": port.host_port,
                    "containerPort": port.container_port,
                    "hostIP": format_ip(port.host_ip) if port.host_ip else None,
                }
                for port in endpoint.ports
            ],
            "leases": [
                {
                    "address": str(lease.address),
                    "gateway": format_ip(lease.gateway) if lease.gateway else None,
                }
                for lease in endpoint.addressing.leases
            ],
        }
    )


def _decode(content: str, path: str, network: str, key: EndpointKey) -> Endpoint:
    try:
        fields = json.loads(content)
        if type(fields) is not dict or fields.get("format") != FORMAT:
            raise ValueError(f"not a record of format {FORMAT}")
        return Endpoint(
            network=network,
            key=key,
            sandbox=Sandbox(str(fields["netns"]), str(fields["sandbox"])),
            host_link=_link_name(fields["hostLink"]) if fields["hostLink"] else "",
            mac=parse_mac(fields["mac"]) if fields["mac"] else None,
            source_checked=fields.get("sourceChecked") is True,
            parents=tuple(map(_link_name, fields.get("parents", ()))),
            policy=_decode_policy(network, fields["policy"]) if fields.get("policy") else None,
            driver=str(fields.get("driver", "")),
            pool=_pool(fields["pool"]),
            ports=tuple(
                PublishedPort(
                    _number(port["protocol"], 255),
                    _number(port["hostPort"], 65535),
                    _number(port["containerPort"], 65535),
                    parse_ip(port["hostIP"]) if port["hostIP"] else None,
                )
                for port in fields["ports"]
            ),
            addressing=Addressing(
                leases=tuple(
                    Lease(
                        parse_address(lease["address"]),
                        parse_ip(lease["gateway"]) if lease["gateway"] else None,
                    )
                    for lease in fields["leases"]
                )
            ),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(
            f'endpoint record "{path}" is damaged: {error}',
            details="DEL and GC work without it; they remove it",
        ) from None


def _pool(fields: "dict[str, Any]") -> Pool:
    directory = str(fields["dataDir"])
    return Pool(str(fields["driver"]), formats.directory(directory) if directory else "")


def _link_name(value: object) -> str:
    return formats.interface_name(str(value))


def _number(value: object, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"not a number from 0 to {most}: {json.shorten(value)}")
    return value


def _encode_policy(policy: Policy) -> dict[str, object]:
    return {
        "bridge": policy.bridge,
        "masquerade": policy.masquerade,
        "sources": [format_ip(source) for source in policy.sources],
        "isolated": policy.isolated,
        "internal": policy.internal,
        "below": policy.below,
        "inner": policy.inner,
        "subnets": [str(subnet) for subnet in policy.subnets],
    }


def _decode_policy(network: str, fields: "dict[str, Any]") -> Policy:
    return Policy(
        network=network,
        bridge=str(fields["bridge"]),
        masquerade=fields["masquerade"] is True,
        sources=tuple(parse_ip(source) for source in fields["sources"]),
        isolated=fields["isolated"] is True,
        internal=fields["internal"] is True,
        below=str(fields["below"]),
        inner=str(fields.get("inner", "")),
        subnets=tuple(parse_address(subnet) for subnet in fields.get("subnets", ())),
    )
