"""The link and the address by which an overlay's hosts reach each other."""

from cnm_core.errors import InvalidNetworkConfig
from cnm_core.inet import format_ip, parse_ip
from cnm_core.kernel import address, link, route
from cnm_core.kernel.netlink import Socket
from cnm_core.record import Record


class Underlay(Record):
    """A link of the host, its MTU, and the address of it that VXLAN sends from."""

    name: str
    mtu: int
    ip: bytes


def find(socket: Socket, wanted: str) -> Underlay:
    """The underlay that an address or the name of a link means; "" means the default route's.

    Raises InvalidNetworkConfig where there is none.
    """
    try:
        return _of_address(socket, parse_ip(wanted))
    except ValueError:
        pass
    if wanted:
        found = link.find(socket, wanted)
        if found is None:
            raise InvalidNetworkConfig(
                f'underlay: "{wanted}" is neither an address nor a link of this host',
                details="name the link or the address that VXLAN shall use, as ip addr shows it",
            )
        return _of_link(socket, found.index)
    defaults = route.default_links(socket)
    if not defaults:
        raise InvalidNetworkConfig(
            "underlay: is not given, and this host has no default route",
            details='name the link or the address that VXLAN shall use: "underlay": "eth1"',
        )
    return _of_link(socket, defaults[0])


def _of_address(socket: Socket, ip: bytes) -> Underlay:
    for each in address.list_of(socket, 0):
        if each.address.ip == ip:
            found = link.parse(socket.request(link.get_by_index(each.index))[0])
            return Underlay(found.name, found.mtu, ip)
    raise InvalidNetworkConfig(
        f"underlay: {format_ip(ip)} is no address of this host",
        details="name an address that the host has, or the link that has it",
    )


def _of_link(socket: Socket, index: int) -> Underlay:
    """A link with its first address that other hosts can use, IPv4 before IPv6."""
    found = link.parse(socket.request(link.get_by_index(index))[0])
    usable = [
        each.address
        for each in address.list_of(socket, index)
        if each.scope == address.RT_SCOPE_UNIVERSE
    ]
    if not usable:
        raise InvalidNetworkConfig(
            f'underlay: link "{found.name}" has no address',
            details="give the link an address, or name another",
        )
    first = min(usable, key=lambda each: each.version)
    return Underlay(found.name, found.mtu, first.ip)
