"""What the cluster has of the overlay networks of this host."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cnm_core.cli import output
from cnm_core.cli.conflists import Conflist
from cnm_core.cli.main import IN_THE_WAY, Failure
from cnm_core.cli.pool_use import PoolUse
from cnm_core.config.overlay import OverlayConfig, overlay_config
from cnm_core.drivers.overlay import bridge_name, device_name
from cnm_core.errors import Error
from cnm_core.inet import Address, format_ip, format_mac
from cnm_core.ipam.cluster import ClusterIpam
from cnm_core.store.entries import Member, Published, SharedNetwork
from cnm_core.store.membership import Membership, open_membership


@dataclass(frozen=True)
class Seen:
    """A network as the cluster has it, and who is on it; of a silent one what this host knows."""

    network: SharedNetwork | None
    members: Sequence[Member] = ()
    alive: frozenset[str] = frozenset()
    endpoints: Sequence[Published] = ()
    answered: bool = True

    @property
    def links(self) -> list[str]:
        """The names of bridge and VXLAN device, on every host."""
        return [bridge_name(self.network), device_name(self.network)] if self.network else []

    def pools(self) -> list[PoolUse]:
        """The use of each subnet by all hosts; none where the cluster is silent."""
        if self.network is None or not self.answered:
            return []
        taken = [ip for each in self.endpoints for ip in each.ips]
        return [_use_of(each.address, taken) for each in self.network.subnets]

    def peers(self) -> list[dict[str, Any]]:
        """The hosts of the cluster as Docker has them, with their endpoints on the network."""
        return [
            {
                "Name": each.node,
                "IP": format_ip(each.vtep),
                "Alive": each.node in self.alive,
                "Endpoints": [_described(on) for on in self.endpoints if on.node == each.node],
            }
            for each in self.members
        ]


def look(network: Conflist) -> Seen:
    """Ask the cluster about an overlay network; why it does not answer goes to stderr."""
    known = None
    try:
        membership = open_membership(
            overlay_config(network.driver_config), output.passed_over, json.loads
        )
        view = membership.known(network.name)
        known = view.network if view else None
        cluster = membership.cluster
        return Seen(
            cluster.network(network.name),
            cluster.members(),
            frozenset(cluster.alive()),
            cluster.endpoints(network.name),
        )
    except Error as error:
        output.warn(f"network {network.name}: {error.msg}; what other hosts have is left out")
        return Seen(known, answered=False)


@dataclass(frozen=True)
class Removal:
    """An overlay's way out of the cluster: `refuse` before this host's part, `finish` after it."""

    name: str
    options: OverlayConfig
    membership: Membership

    def refuse(self) -> None:
        """Raise Failure while another host has endpoints, Unreachable where nobody can tell."""
        for each in self.membership.cluster.endpoints(self.name):
            if each.node != self.membership.node:
                raise Failure(
                    f'network "{self.name}" has endpoints on other hosts, {each.owner} among them',
                    advice="remove them there; cnm node fence removes those of a host that is "
                    "gone for good",
                    code=IN_THE_WAY,
                )

    def finish(self) -> None:
        """Have the cluster forget the network, unless the name is another one's by now.

        What is this host's there has no record any more.
        """
        self.membership.replay()
        ClusterIpam(self.name, self.options, self.membership).collect(())
        cluster = self.membership.cluster
        present = cluster.network(self.name)
        if present is not None and self.options.vni in (0, present.vni):
            cluster.delete_network(present)
        if not self.options.store.endpoints:
            cluster.leave(self.membership.node)  # files of this host alone: nobody else would
        self.membership.remove(self.name)


def removal(network: Conflist) -> Removal:
    """For `cnm network rm`. Raises InvalidNetworkConfig."""
    options = overlay_config(network.driver_config)
    return Removal(network.name, options, open_membership(options, output.passed_over, json.loads))


def _use_of(subnet: Address, taken: list[bytes]) -> PoolUse:
    """Network address, broadcast address and gateway are nobody's to have."""
    in_use = sum(ip in subnet for ip in taken)
    size = 1 << (len(subnet.ip) * 8 - subnet.prefix)
    reserved = 3 if len(subnet.ip) == 4 else 2
    return PoolUse(str(subnet), in_use, max(0, size - reserved - in_use))


def _described(endpoint: Published) -> dict[str, Any]:
    addresses = [format_ip(ip) for ip in endpoint.ips]
    return {
        "Container": endpoint.key.container_id,
        "Interface": endpoint.key.ifname,
        "MacAddress": format_mac(endpoint.mac),
        "IPv4Address": next((ip for ip in addresses if ":" not in ip), ""),
        "IPv6Address": next((ip for ip in addresses if ":" in ip), ""),
    }
