"""Published ports for an endpoint that some other plugin attached."""

from cnm_core.drivers.firewall import Firewall, Target
from cnm_core.kernel import link, route, sysctl
from cnm_core.kernel.netlink import Socket
from cnm_core.model import Drift, Endpoint, EndpointKey

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection


class Portmap:
    """The ports of one endpoint at a time; its leases are where they lead."""

    def __init__(self) -> None:
        self._firewall = Firewall()

    def check_status(self) -> None:
        """Raise KernelRefused where the kernel has no nftables, or not for us."""
        self._firewall.check_status()

    def publish(self, endpoint: Endpoint, state_dir: str, *, snat: bool) -> None:
        """Lead the ports to the endpoint. Raises AddressInUse with the holder of a taken one.

        With `snat` the host reaches them through 127.0.0.1, and the endpoint's network
        through the host, itself included. `state_dir` has the records of network plugins.
        """
        if self._firewall.prepare():
            from cnm_core.drivers.restore import restore

            restore(state_dir)
        if snat:
            for lease in endpoint.addressing.leases:
                self._firewall.turn_back(endpoint.network, lease.address.network)
                if lease.address.version == 4:
                    _let_loopback_out(lease.address.ip)
        self._firewall.publish(endpoint.ports, Target.of(endpoint))

    def unpublish(self, endpoint: Endpoint) -> None:
        """Take the ports back."""
        self._firewall.unpublish(endpoint.ports, Target.of(endpoint))

    def disown(self, network: str, key: EndpointKey) -> None:
        """Take back the ports of an endpoint of which the record says nothing."""
        self._firewall.disown(network, key)

    def collect(self, network: str, known: "Callable[[], Collection[EndpointKey]]") -> None:
        """Take back the ports of the network whose owner is not known any more."""
        self._firewall.collect(network, known)

    def drift(self, endpoint: Endpoint, *, snat: bool) -> list[Drift]:
        """Ports that do not lead to the endpoint, and rules that are not as made."""
        found = self._firewall.base_drift()
        for lease in endpoint.addressing.leases if snat else ():
            found += self._firewall.turn_back_drift(lease.address.network)
        return found + self._firewall.port_drift(endpoint.ports, Target.of(endpoint))


def _let_loopback_out(ip: bytes) -> None:
    """Allow 127.0.0.1 as a source on the link that leads to an address of a container."""
    host = Socket()
    index = route.outgoing(host, ip)
    if index is not None:
        name = link.parse(host.request(link.get_by_index(index))[0]).name
        sysctl.set_to("1", "net", "ipv4", "conf", name, "route_localnet")
