"""What hosts of an overlay of mode l3 have of each other: routes, and where these lead.

Each block of addresses is a subnet of its host's bridge, and the others route it through
their VXLAN device, which is no port of a bridge then: one route and one neighbour entry for
a block, one forwarding entry for a host, whatever the number of endpoints. The way to a block
is by its gateway, whose MAC address is that of its host's VXLAN device, which follows from
the VTEP. What is in no block goes to that device too, and nowhere: not to the default route.
"""

from binascii import crc32
from errno import ESRCH

from cnm_core.errors import KernelRefused
from cnm_core.inet import Address
from cnm_core.kernel import neighbour, route, vxlan
from cnm_core.kernel.neighbour import Row
from cnm_core.model import Route
from cnm_core.record import Record
from cnm_core.store.cluster import block_at, first_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from cnm_core.kernel.link import Link
    from cnm_core.kernel.netlink import Socket
    from cnm_core.store.entries import Published
    from cnm_core.store.membership import View

    Entries = set["Row | Way"]


class Way(Record):
    """A route through the VXLAN device: to a block by its gateway, to a whole subnet by none."""

    destination: Address
    gateway: bytes | None = None

    def __str__(self) -> str:
        return f"route {route.describe(self.route)}"

    @property
    def route(self) -> Route:
        """The same as the kernel has it."""
        return Route(self.destination, self.gateway)


def device_mac(vtep: bytes) -> bytes:
    """The MAC address of a host's VXLAN devices, which the other hosts know without asking."""
    last = vtep if len(vtep) == 4 else crc32(vtep).to_bytes(4, "big")
    return b"\x0a\x42" + last


def difference(
    socket: "Socket", view: "View", device: "Link", endpoints: "Iterable[Published]"
) -> "tuple[Entries, Entries]":
    """What is missing of other hosts' endpoints, and what should not be there."""
    wanted = _wanted(view, device, endpoints)
    present: Entries = set(neighbour.list_of(socket, device.index, device.index))
    present |= _present(socket, view, device)
    return wanted - present, present - wanted


def apply(
    socket: "Socket", view: "View", device: "Link", missing: "Entries", stale: "Entries"
) -> None:
    """Have what is missing, and nothing that is stale; routes come last and go first."""
    for each in stale:
        if isinstance(each, Way):
            _delete(socket, device, each)
    rows = ({each for each in entries if isinstance(each, Row)} for entries in (missing, stale))
    neighbour.apply(socket, *rows)
    for each in missing:
        if isinstance(each, Way):
            source = _source(view, each.destination)
            socket.request(route.replace_through(device.index, each.route, source))


def _wanted(view: "View", device: "Link", endpoints: "Iterable[Published]") -> "Entries":
    own = {each.address for each in view.blocks}
    on = vxlan.parse(device)
    through = on.link if on else 0
    found: Entries = set()
    subnets = [each.address for each in view.network.subnets]
    for subnet in subnets:
        if block_at(subnet, subnet.ip) != subnet:
            found.add(Way(subnet))
    for endpoint in endpoints:
        for ip in endpoint.ips:
            block = next(block_at(subnet, ip) for subnet in subnets if ip in subnet)
            if block not in own:
                mac, gateway = device_mac(endpoint.vtep), first_of(block)
                found |= {
                    Way(block, gateway),
                    Row(device.index, mac, gateway, b""),
                    Row(device.index, mac, b"", endpoint.vtep, through),
                }
    return found


def _present(socket: "Socket", view: "View", device: "Link") -> "Entries":
    """The routes of the device into the network; it has those of IPv6's own, too."""
    subnets = [each.address for each in view.network.subnets]
    return {
        Way(each.destination, each.gateway)
        for each in route.list_of(socket, device.index)
        if any(each.destination.ip in subnet for subnet in subnets)
    }


def _source(view: "View", destination: Address) -> bytes:
    """What the host itself sends from: its gateway, which the other hosts know the way to."""
    subnet = next(each.address for each in view.network.subnets if destination.ip in each.address)
    blocks = view.blocks_of(subnet)
    return first_of(blocks[0]) if blocks else b""


def _delete(socket: "Socket", device: "Link", way: Way) -> None:
    try:
        socket.request(route.delete_through(device.index, way.route))
    except KernelRefused as error:
        if error.errno != ESRCH:
            raise
