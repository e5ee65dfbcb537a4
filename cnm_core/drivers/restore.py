"""Firewall state made again from the records of endpoints, after somebody flushed it.

``nft flush ruleset``, or a firewall that starts anew: what is left then of networks and
endpoints is in their records only. The next ADD that meets broken tables comes here.
"""

from cnm_core.drivers.firewall import Firewall, Target
from cnm_core.drivers.spoofcheck import SpoofCheck
from cnm_core.errors import Damaged, InvalidNetworkConfig
from cnm_core.kernel.netns import is_of_another_boot
from cnm_core.model import Endpoint
from cnm_core.store.endpoints import EndpointStore


def restore(state_dir: str) -> None:
    """Make policies, published ports and source checks of every recorded endpoint again.

    What stands already stays; where a port or a subnet is somebody else's by now, CHECK of
    its endpoint says so. Raises KernelRefused, StateFailure.
    """
    firewall, sources = Firewall(), None
    for endpoint in _recorded(state_dir):
        if endpoint.policy is not None:
            _apply(firewall, endpoint)
        if endpoint.ports:
            firewall.prepare()
            firewall.restore(endpoint.ports, Target.of(endpoint))
        if endpoint.source_checked and endpoint.mac is not None:
            sources = sources or SpoofCheck()
            sources.prepare()
            owner = f"{endpoint.network} {endpoint.key}"
            sources.allow(endpoint.host_link, endpoint.mac, owner)


def _apply(firewall: Firewall, endpoint: Endpoint) -> None:
    assert endpoint.policy is not None
    for lease in endpoint.addressing.leases:
        firewall.prepare((lease.address.version,))
        try:
            firewall.apply(endpoint.policy, endpoint.policy.subnet_of(lease.address))
        except InvalidNetworkConfig:
            pass  # another network has the subnet by now


def _recorded(state_dir: str) -> list[Endpoint]:
    """The endpoints of network plugins and of the portmap plugin, the oldest first.

    What two of them want was the older one's: the other is just being made. Not those of
    another boot, which a disk may have kept: their containers are gone.
    """
    found = []
    for directory in (state_dir, f"{state_dir}/.portmap"):
        store = EndpointStore(directory)
        for network in store.networks():
            for key in store.keys(network):
                try:
                    endpoint = store.load(network, key)
                except Damaged:
                    continue  # damaged: DEL and GC work without it
                if endpoint is not None and not is_of_another_boot(endpoint.sandbox.identity):
                    found.append((store.written(network, key), endpoint))
    return [endpoint for _, endpoint in sorted(found, key=lambda each: each[0])]
