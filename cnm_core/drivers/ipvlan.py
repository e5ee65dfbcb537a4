"""Endpoints are ipvlan links: they share the MAC address of a parent link.

Mode and flag belong to the parent: the kernel gives all its links those of the newest
(ipvlan_link_new). CHECK shows where another network changed them.
"""

from cnm_core.config.ipvlan import IpvlanConfig, ipvlan_config
from cnm_core.drivers import parent
from cnm_core.drivers.container_end import (
    attached,
    configure,
    interface,
    remove,
)
from cnm_core.errors import InvalidNetworkConfig, KernelRefused
from cnm_core.inet import format_mac
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


class Ipvlan:
    """The driver for one call: it keeps a socket, and the parent once it has been seen."""

    def __init__(self) -> None:
        self._host = Socket()
        self._parent: Link | None = None

    @staticmethod
    def options(document: object) -> IpvlanConfig:
        """The ipvlan plugin's own keys. Raises InvalidNetworkConfig."""
        return ipvlan_config(document)

    def validate(self, network: Network, wanted: EndpointOptions) -> None:
        """Refuse options that cannot go together, and a parent that is missing or unfit."""
        options = _options(network)
        parent.refuse_contradictions(options, wanted)
        _mode(options)
        if wanted.mac:
            raise InvalidNetworkConfig(
                f"mac: {format_mac(wanted.mac)} was asked for, and ipvlan has its parent's",
                details="ask for none, or use macvlan",
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
        """The parent, if it is one that we make."""
        return endpoint.replace(parents=parent.made(_options(network), network.name))

    def join(self, network: Network, endpoint: Endpoint, netns: Netns) -> None:
        """The link, down. Raises NotAvailable, KernelRefused."""
        options = _options(network)
        socket = netns.socket() if options.link_in_container else self._host
        if options.link_in_container:
            self._parent = parent.find(socket, options, network.name)
        assert self._parent is not None
        mode, flag = _mode(options)
        request = upper.create_ipvlan(
            endpoint.key.ifname,
            self._parent.index,
            mode=mode,
            flag=flag,
            mtu=options.mtu or self._parent.mtu,
            netns=None if options.link_in_container else netns.fd,
        )
        try:
            upper.make(socket, request)
        except KernelRefused as error:
            raise parent.explained(error, "ipvlan", self._parent) from None

    def configure(self, network: Network, endpoint: Endpoint, netns: Netns) -> Attachment:
        """Addresses and routes, and the link up. Raises KernelRefused."""
        dad = _options(network).enabledad
        end = configure(endpoint.key.ifname, endpoint.addressing, netns, up=True, dad=dad)
        return attached(endpoint.addressing, interface(end, netns.path))

    def leave(self, key: EndpointKey, endpoint: Endpoint | None, netns: Netns | None) -> None:
        """Delete the link in the sandbox, if that is still there."""
        remove("ipvlan", key, endpoint, netns)

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
        """Parent, mode, flag, MTU, addresses and routes."""
        from cnm_core.drivers.container_drift import container_drift

        options = _options(network)
        found = container_drift(key, "ipvlan", attachment, netns)
        end = link.find(netns.socket(), key.ifname)
        if end is None or end.kind != "ipvlan":
            return found
        socket = netns.socket() if options.link_in_container else self._host
        found += parent.drift(socket, options, network.name, end, attachment)
        if upper.ipvlan_mode(end) != _mode(options):
            what = f"mode and flag of container end {key.ifname}"
            found.append(Drift(what, " ".join(_mode(options)), " ".join(upper.ipvlan_mode(end))))
        return found

    def check_status(self, network: Network) -> None:
        """Whether the kernel has ipvlan links, and the parent is there and up."""
        parent.check_status(self._host, _options(network), network.name, "ipvlan")

    def collect(self, network: str, known: "Callable[[], Collection[EndpointKey]]") -> None:
        """Nothing: the host has nothing of an endpoint, and sandboxes take theirs with them."""

    def disown(self, network: str, key: EndpointKey) -> None:
        """Nothing: the host has nothing of an endpoint."""

    def delete_network(self, network: Network) -> None:
        """Nothing: a parent that we made goes with its last endpoint."""


def _options(network: Network) -> IpvlanConfig:
    assert isinstance(network.options, IpvlanConfig)
    return network.options


def _mode(options: IpvlanConfig) -> tuple[str, str]:
    """Mode and flag."""
    mode = ("mode", options.mode), ("ipvlan_mode", options.ipvlan_mode)
    flag = ("flag", options.flag), ("ipvlan_flag", options.ipvlan_flag)
    return parent.one_of(*mode, default="l2"), parent.one_of(*flag, default="bridge")
