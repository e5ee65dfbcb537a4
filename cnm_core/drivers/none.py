"""Endpoints are sandboxes in complete isolation: `lo`, up, and nothing else."""

from cnm_core.config.none import NoneConfig, none_config
from cnm_core.drivers.loopback import Loopback
from cnm_core.errors import InterfaceExists, InvalidNetworkConfig, NotAvailable
from cnm_core.inet import Address, parse_address
from cnm_core.kernel import address, link, route
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

# What the kernel itself gives `lo`; older ones have a route to ::1 beside the address.
_OWN: tuple[Address, ...] = (parse_address("127.0.0.1/8"), parse_address("::1/128"))
# Links that tunnel modules make in every new namespace (net.core.fb_tunnels_only_for_init_net).
_FALLBACK = {
    "tunl0": "ipip",
    "gre0": "gre",
    "gretap0": "gretap",
    "erspan0": "erspan",
    "ip_vti0": "vti",
    "sit0": "sit",
    "ip6tnl0": "ip6tnl",
    "ip6gre0": "ip6gre",
    "ip6_vti0": "vti6",
}


class Isolated:
    """The driver: it makes nothing, so that there is nothing to remove."""

    @staticmethod
    def options(document: object) -> NoneConfig:
        """The none plugin's own keys. Raises InvalidNetworkConfig."""
        return none_config(document)

    def validate(self, network: Network, wanted: EndpointOptions) -> None:
        """Refuse whatever would be a way in or out."""
        assert isinstance(network.options, NoneConfig)
        refuse_options("none", network.options.ipam, wanted)

    def complete(self, network: Network, addressing: Addressing) -> Addressing:
        """There are no addresses."""
        return addressing

    def create_network(self, network: Network, leases: tuple[Lease, ...]) -> bool:
        """Its endpoints share nothing."""
        return False

    def create_endpoint(self, network: Network, endpoint: Endpoint) -> Endpoint:
        """There is nothing to name."""
        return endpoint.replace(driver="none")

    def join(self, network: Network, endpoint: Endpoint, netns: Netns) -> None:
        """There is nothing to join. Raises InterfaceExists where the sandbox has another link."""
        found = _others(netns)
        if found:
            raise InterfaceExists(
                f'"{netns.path}" is not isolated: ' + "; ".join(map(str, found)),
                details="a none network is for sandboxes that have nothing but lo",
            )

    def configure(self, network: Network, endpoint: Endpoint, netns: Netns) -> Attachment:
        """Set `lo` up. The result has no address, since the sandbox is nowhere to be reached."""
        return Attachment(interfaces=Loopback().join(netns).interfaces)

    def leave(self, key: EndpointKey, endpoint: Endpoint | None, netns: Netns | None) -> None:
        """`lo` stays up, as every container has it."""

    def joined(self, key: EndpointKey, netns: Netns) -> bool:
        """Never: no link bears the endpoint's name."""
        return False

    def drift(
        self,
        network: Network,
        key: EndpointKey,
        endpoint: Endpoint | None,
        attachment: Attachment,
        netns: Netns,
    ) -> list[Drift]:
        """Whatever appeared since, and whether `lo` is down."""
        return Loopback().drift(netns) + _others(netns)

    def check_status(self, network: Network) -> None:
        """Always ready, unless its configuration makes no sense."""
        try:
            self.validate(network, EndpointOptions())
        except InvalidNetworkConfig as error:
            raise NotAvailable(error.msg, details=error.details) from None

    def collect(self, network: str, known: "Callable[[], Collection[EndpointKey]]") -> None:
        """Nothing was made of which a record could be lost."""

    def disown(self, network: str, key: EndpointKey) -> None:
        """Nothing was made."""

    def delete_network(self, network: Network) -> None:
        """Its endpoints shared nothing."""


def refuse_options(driver: str, ipam: dict[str, object], wanted: EndpointOptions) -> None:
    """Refuse what a network without links of its own cannot give an endpoint."""
    for key, asked in (
        ("ipam", bool(ipam)),
        ("runtimeConfig.portMappings", bool(wanted.ports)),
        ("mac", wanted.mac is not None),
    ):
        if asked:
            raise InvalidNetworkConfig(
                f"{key}: cannot be given for a network of type {driver}",
                details="leave it out: such a network has no links and addresses of its own",
            )


def _others(netns: Netns) -> list[Drift]:
    """What a sandbox has beside `lo` and its addresses: links, addresses, routes."""
    inside = netns.socket()
    found = []
    for each in link.list_links(inside):
        if _FALLBACK.get(each.name) == each.kind and not each.up:
            continue
        if each.name != "lo":
            found.append(Drift("interfaces", "lo only", each.name))
        found += _of_link(inside, each)
    return found


def _of_link(inside: Socket, of: Link) -> list[Drift]:
    own = _OWN if of.name == "lo" else ()
    expected = "those of lo only"
    found = [
        Drift(f"addresses of {of.name}", expected, str(each.address))
        for each in address.list_of(inside, of.index)
        if each.address not in own
    ]
    found += [
        Drift(f"routes of {of.name}", expected, route.describe(each))
        for each in route.list_of(inside, of.index)
        if each.destination not in own
    ]
    return found
