"""Endpoints are in the host's own network namespace: nothing is made, what is there is told."""

from cnm_core.config.host import HostConfig, host_config
from cnm_core.drivers.none import refuse_options
from cnm_core.errors import Damaged, InvalidNetworkConfig, NotAvailable
from cnm_core.inet import format_mac
from cnm_core.kernel import address, link, route
from cnm_core.kernel.netns import Netns
from cnm_core.model import (
    Addressing,
    Attachment,
    Drift,
    Endpoint,
    EndpointKey,
    EndpointOptions,
    Interface,
    Lease,
    Network,
)
from cnm_core.store.endpoints import EndpointStore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

_NAME = "host"


class Host:
    """The driver: it makes nothing, so that there is nothing to remove."""

    @staticmethod
    def options(document: object) -> HostConfig:
        """The host plugin's own keys. Raises InvalidNetworkConfig."""
        return host_config(document)

    def validate(self, network: Network, wanted: EndpointOptions) -> None:
        """Refuse what would change the host, and a second host network."""
        assert isinstance(network.options, HostConfig)
        refuse_options(_NAME, network.options.ipam, wanted)
        _refuse_second(network)

    def complete(self, network: Network, addressing: Addressing) -> Addressing:
        """The host has its addresses."""
        return addressing

    def create_network(self, network: Network, leases: tuple[Lease, ...]) -> bool:
        """The network is there."""
        return False

    def create_endpoint(self, network: Network, endpoint: Endpoint) -> Endpoint:
        """There is nothing to name."""
        return endpoint.replace(driver=_NAME)

    def join(self, network: Network, endpoint: Endpoint, netns: Netns) -> None:
        """Look for another host network again, now that whoever is as fast sees our record."""
        _refuse_second(network)

    def configure(self, network: Network, endpoint: Endpoint, netns: Netns) -> Attachment:
        """The links of the host's default routes, with their addresses of more than link scope."""
        host = netns.socket()
        interfaces: list[Interface] = []
        leases: list[Lease] = []
        owners: list[int] = []
        for index in route.default_links(host):
            found = link.parse(host.request(link.get_by_index(index))[0])
            for each in address.list_of(host, index):
                if each.scope < address.RT_SCOPE_LINK:
                    leases.append(Lease(each.address))
                    owners.append(len(interfaces))
            interfaces.append(Interface(found.name, format_mac(found.mac), found.mtu, netns.path))
        return Attachment(tuple(interfaces), tuple(leases), tuple(owners))

    def leave(self, key: EndpointKey, endpoint: Endpoint | None, netns: Netns | None) -> None:
        """The host stays as it is."""

    def joined(self, key: EndpointKey, netns: Netns) -> bool:
        """Never: no link is made for the endpoint, whatever its name."""
        return False

    def drift(
        self,
        network: Network,
        key: EndpointKey,
        endpoint: Endpoint | None,
        attachment: Attachment,
        netns: Netns,
    ) -> list[Drift]:
        """Links and addresses of the previous result that the host has no more."""
        host = netns.socket()
        drifts = []
        for index, each in enumerate(attachment.interfaces):
            what = f"host interface {each.name}"
            found = link.find(host, each.name)
            if found is None:
                drifts.append(Drift(what, "a link", "no such link"))
                continue
            if not found.up:
                drifts.append(Drift(what, "up", "down"))
            if each.mac and each.mac.lower() != format_mac(found.mac):
                drifts.append(Drift(f"MAC of {what}", each.mac, format_mac(found.mac)))
            present = [other.address for other in address.list_of(host, found.index)]
            owned = zip(attachment.leases, attachment.lease_interfaces, strict=False)
            for lease, owner in owned:
                if owner == index and lease.address not in present:
                    has = ", ".join(map(str, present)) or "no address"
                    drifts.append(Drift(f"addresses of {what}", str(lease.address), has))
        return drifts

    def check_status(self, network: Network) -> None:
        """Ready unless its configuration makes no sense, or there is another host network."""
        try:
            self.validate(network, EndpointOptions())
        except InvalidNetworkConfig as error:
            raise NotAvailable(error.msg, details=error.details) from None

    def collect(self, network: str, known: "Callable[[], Collection[EndpointKey]]") -> None:
        """Nothing was made of which a record could be lost."""

    def disown(self, network: str, key: EndpointKey) -> None:
        """Nothing was made."""

    def delete_network(self, network: Network) -> None:
        """The host stays as it is."""


def _refuse_second(network: Network) -> None:
    """Raise InvalidNetworkConfig where a host network of another name has endpoints."""
    store = EndpointStore(network.state_dir)
    for name in store.networks():
        found = _record_in(store, name) if name != network.name else None
        if found is not None and found.driver == _NAME:
            raise InvalidNetworkConfig(
                f'name: "{network.name}" would be a second network of type host beside "{name}", '
                f"which has {found.key} among its endpoints",
                details=f'use "{name}": a host has one network of its own',
            )


def _record_in(store: EndpointStore, network: str) -> Endpoint | None:
    """An endpoint of a network, the first whose record makes sense: it names the driver."""
    for key in store.keys(network):
        try:
            found = store.load(network, key)
        except Damaged:
            continue
        if found is not None:
            return found
    return None
