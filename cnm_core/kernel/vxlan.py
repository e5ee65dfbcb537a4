"""VXLAN devices as ports of a bridge (RFC 7348; include/uapi/linux/if_link.h, IFLA_VXLAN_*)."""

from _struct import Struct

from cnm_core.inet import format_ip
from cnm_core.kernel import link
from cnm_core.kernel.link import Link
from cnm_core.kernel.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_EXCL,
    U32,
    Request,
    attribute,
    attributes,
    nested,
    string,
    u8,
    u32,
)
from cnm_core.record import Record

# What VXLAN puts before a frame: IPv4 or IPv6, UDP, VXLAN and the frame's own Ethernet header.
OVERHEAD = {4: 20 + 8 + 8 + 14, 6: 40 + 8 + 8 + 14}
IFLA_VXLAN_ID, IFLA_VXLAN_LINK, IFLA_VXLAN_LOCAL, IFLA_VXLAN_LOCAL6 = 1, 3, 4, 17
IFLA_VXLAN_LEARNING, IFLA_VXLAN_PORT, IFLA_VXLAN_UDP_CSUM = 7, 15, 18
IFLA_BRPORT_UNICAST_FLOOD = 9
IFLA_BRPORT_MCAST_FLOOD, IFLA_BRPORT_BCAST_FLOOD, IFLA_BRPORT_NEIGH_SUPPRESS = 27, 30, 32

_BE16 = Struct("!H")


class Vxlan(Record):
    """What a VXLAN device is: `local` is the address it sends from, this host's VTEP.

    `link` is the index of the link that it is bound to, 0 for none.
    """

    vni: int
    port: int
    local: bytes
    link: int = 0

    def __str__(self) -> str:
        return f"VNI {self.vni} from {format_ip(self.local)} port {self.port}"


def create(name: str, mac: bytes, mtu: int, master: int, device: Vxlan) -> Request:
    """Make a device that is up and a port of a bridge, and learns no addresses.

    UDP checksums as RFC 7348 wants them for IPv4: none; IPv6 keeps its own.
    """
    local = IFLA_VXLAN_LOCAL if len(device.local) == 4 else IFLA_VXLAN_LOCAL6
    data = u32(IFLA_VXLAN_ID, device.vni) + attribute(local, device.local)
    data += u8(IFLA_VXLAN_LEARNING, 0) + attribute(IFLA_VXLAN_PORT, _BE16.pack(device.port))
    data += u8(IFLA_VXLAN_UDP_CSUM, 0)
    if device.link:
        data += u32(IFLA_VXLAN_LINK, device.link)
    body = link.header(flags=link.IFF_UP, change=link.IFF_UP)
    body += string(link.IFLA_IFNAME, name) + attribute(link.IFLA_ADDRESS, mac)
    body += u32(link.IFLA_MTU, mtu) + u32(link.IFLA_MASTER, master)
    kind = string(link.IFLA_INFO_KIND, "vxlan") + attribute(link.IFLA_INFO_DATA, data)
    body += nested(link.IFLA_LINKINFO, kind)
    flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
    return Request(link.RTM_NEWLINK, flags, body, f'create VXLAN device "{name}", {device}')


def set_port(of: Link, *, flooded: bool) -> Request:
    """Have a bridge not learn from the device and answer ARP for it; and flood to it, or not."""
    flags = (u8(kind, value) for kind, value in _port(flooded).items())
    return link.port_flags(of.index, of.name, *flags)


def is_set(of: Link, *, flooded: bool) -> bool:
    """Whether the device is such a port."""
    present = attributes(of.port)
    return all(present.get(kind) == bytes([value]) for kind, value in _port(flooded).items())


def _port(flooded: bool) -> dict[int, int]:
    flood = (IFLA_BRPORT_UNICAST_FLOOD, IFLA_BRPORT_MCAST_FLOOD, IFLA_BRPORT_BCAST_FLOOD)
    return {
        link.IFLA_BRPORT_LEARNING: 0,
        **dict.fromkeys(flood, int(flooded)),
        IFLA_BRPORT_NEIGH_SUPPRESS: 1,
    }


def parse(of: Link) -> Vxlan | None:
    """What a link is as a VXLAN device; None where it is of another kind."""
    if of.kind != "vxlan":
        return None
    data = attributes(of.data)
    return Vxlan(
        U32.unpack(data[IFLA_VXLAN_ID])[0],
        _BE16.unpack(data[IFLA_VXLAN_PORT])[0],
        data.get(IFLA_VXLAN_LOCAL) or data.get(IFLA_VXLAN_LOCAL6, b""),
        U32.unpack(data.get(IFLA_VXLAN_LINK, bytes(4)))[0],
    )
