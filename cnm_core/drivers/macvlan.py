"""Endpoints are macvlan links: stations with MAC addresses of their own on a parent link."""

from errno import EADDRINUSE

from cnm_core.config.macvlan import MacvlanConfig, macvlan_config
from cnm_core.drivers import parent
from cnm_core.drivers.container_end import (
    announce,
    attached,
    configure,
    interface,
    remove,
)
from cnm_core.errors import AddressInUse, InvalidNetworkConfig, KernelRefused
from cnm_core.kernel import link, upper
from cnm_core.kernel.link import Link
from cnm_core.kernel.netlink import Socket
from cnm_core.kernel.netns import Netns
from cnm_core.model import (
    Addressing,
    Attachment,
    Drift,
    Endpoint,
    EndpointKey,
    EndpointOptions,
    Lease,
    Network,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection


class Macvlan:
    """The driver for one call: it keeps a socket, and the parent once it has been seen."""

    def __init__(self) -> None:
        self._host = Socket()
        self._parent: Link | None = None

    @staticmethod
    def options(document: object) -> MacvlanConfig:
        """The macvlan plugin's own keys. Raises InvalidNetworkConfig."""
        return macvlan_config(document)

    def validate(self, network: Network, wanted: EndpointOptions) -> None:
        """Refuse options that cannot go together, and a parent that is missing or unfit."""
        options = _options(network)
        parent.refuse_contradictions(options, wanted)
        if _mode(options) == "passthru" and (wanted.mac or options.mac):
            raise InvalidNetworkConfig(
                "mode: passthru has the parent's MAC address, and one was asked for",
                details="leave out one of the two",
            )
        if not options.link_in_container:
            self._parent = parent.find(self._host, options, network.name)

    def complete(self, network: Network, addressing: Addressing) -> Addressing:
        """As it is: gateways are out there, on the parent's network."""
        return addressing

    def create_network(self, network: Network, leases: tuple[Lease, ...]) -> bool:
        """The parent, if it is one that we make."""
        options = _options(network)
        if parent.made(options, network.name):
            self._parent = parent.ensure(self._host, options, network.name)
        return False

    def create_endpoint(self, network: Network, endpoint: Endpoint) -> Endpoint:
        """A MAC address unless one was asked for, and the parent if it is one that we make."""
        options = _options(network)
        own = None if _mode(options) == "passthru" else options.mac or link.random_mac()
        return endpoint.replace(mac=endpoint.mac or own, parents=parent.made(options, network.name))

    def join(self, network: Network, endpoint: Endpoint, netns: Netns) -> None:
        """The link, down. Raises NotAvailable, KernelRefused."""
        options = _options(network)
        socket = netns.socket() if options.link_in_container else self._host
        if options.link_in_container:
            self._parent = parent.find(socket, options, network.name)
        assert self._parent is not None
        request = upper.create_macvlan(
            endpoint.key.ifname,
            self._parent.index,
            mode=_mode(options),
            queue=options.bcqueuelen,
            mac=endpoint.mac,
            mtu=options.mtu or self._parent.mtu,
            netns=None if options.link_in_container else netns.fd,
        )
        try:
            upper.make(socket, request)
        except KernelRefused as error:
            alone = _mode(options) == "passthru"
            raise parent.explained(error, "macvlan", self._parent, alone=alone) from None

    def configure(self, network: Network, endpoint: Endpoint, netns: Netns) -> Attachment:
        """Addresses and routes, and the link up. Raises KernelRefused, AddressInUse."""
        options, ifname = _options(network), endpoint.key.ifname
        assert self._parent is not None
        try:
            end = configure(ifname, endpoint.addressing, netns, up=True, dad=options.enabledad)
        except KernelRefused as error:
            if error.errno != EADDRINUSE:
                raise
            raise AddressInUse(
                f'another macvlan link on "{self._parent.name}" has the MAC address '
                f"of {endpoint.key}",
                details="ask for another MAC address, or for none",
            ) from None
        if end.up:  # dhcp has set it up before it had addresses that the kernel could announce
            announce(end, netns)
        return attached(endpoint.addressing, interface(end, netns.path))

    def leave(self, key: EndpointKey, endpoint: Endpoint | None, netns: Netns | None) -> None:
        """Delete the link in the sandbox, if that is still there."""
        remove("macvlan", key, endpoint, netns)

    def joined(self, key: EndpointKey, netns: Netns) -> bool:
        """Whether the sandbox has an interface of that name."""
        return link.find(netns.socket(), key.ifname) is not None

    def drift(
        self,
        network: Network,
        key: EndpointKey,
        endpoint: Endpoint | None,
        attachment: Attachment,
        netns: Netns,
    ) -> list[Drift]:
        """Parent, mode, MTU, MAC address, addresses and routes."""
        from cnm_core.drivers.container_drift import container_drift

        options = _options(network)
        found = container_drift(key, "macvlan", attachment, netns)
        end = link.find(netns.socket(), key.ifname)
        if end is None or end.kind != "macvlan":
            return found
        socket = netns.socket() if options.link_in_container else self._host
        found += parent.drift(socket, options, network.name, end, attachment)
        if upper.macvlan_mode(end) != _mode(options):
            what = f"mode of container end {key.ifname}"
            found.append(Drift(what, _mode(options), upper.macvlan_mode(end)))
        return found

    def check_status(self, network: Network) -> None:
        """Whether the kernel has macvlan links, and the parent is there and up."""
        parent.check_status(self._host, _options(network), network.name, "macvlan")

    def collect(self, network: str, known: "Callable[[], Collection[EndpointKey]]") -> None:
        """Nothing: the host has nothing of an endpoint, and sandboxes take theirs with them."""

    def disown(self, network: str, key: EndpointKey) -> None:
        """Nothing: the host has nothing of an endpoint."""

    def delete_network(self, network: Network) -> None:
        """Nothing: a parent that we made goes with its last endpoint."""


def _options(network: Network) -> MacvlanConfig:
    assert isinstance(network.options, MacvlanConfig)
    return network.options


def _mode(options: MacvlanConfig) -> str:
    keys = ("mode", options.mode), ("macvlan_mode", options.macvlan_mode)
    return parent.one_of(*keys, default="bridge")
