"""What a host has of bridge endpoints of which no record tells: GC without state."""

from cnm_core.drivers.bridge import port_alias
from cnm_core.drivers.firewall import Firewall
from cnm_core.drivers.spoofcheck import SpoofCheck
from cnm_core.errors import Error, attempt, raise_all
from cnm_core.kernel import link, nftables
from cnm_core.kernel.netlink import Socket
from cnm_core.model import EndpointKey

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    Known = Callable[[], Collection[EndpointKey]]


def collect(host: Socket, network: str, known: "Known") -> None:
    """Remove host ends, published ports and source checks of endpoints that are not known.

    Each says whose it is: a link in its alias, an element in its comment. `known` is asked
    after the kernel. Goes on past failures and raises them together at the end.
    """
    failures: list[Error] = []
    attempt(failures, _collect_links, host, network, known)
    if nftables.available():
        attempt(failures, lambda: Firewall().collect(network, known))
        attempt(failures, lambda: SpoofCheck().collect(network, known))
    raise_all(failures)


def disown(host: Socket, network: str, key: EndpointKey) -> None:
    """Remove what the host has of one endpoint, whose record says nothing.

    Not by an alias or a comment without room for its whole name: others may have the same.
    """
    alias = f"cnm {network} {key}"
    for each in link.list_links(host):
        if each.kind == "veth" and each.alias == alias:
            link.delete_if_present(host, each.name)
    if nftables.available():
        Firewall().disown(network, key)
        SpoofCheck().disown(network, key)


def _collect_links(host: Socket, network: str, known: "Known") -> None:
    found = [
        each
        for each in link.list_links(host)
        if each.kind == "veth" and each.alias.startswith(f"cnm {network} ")
    ]
    aliases = {port_alias(network, key) for key in known()}
    for each in found:
        if each.alias not in aliases:
            link.delete_if_present(host, each.name)
