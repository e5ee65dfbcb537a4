"""Addresses of links (include/uapi/linux/if_addr.h)."""

from _socket import AF_INET, AF_INET6
from _struct import Struct

from cnm_core.inet import Address, format_ip
from cnm_core.kernel.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    U32,
    Request,
    Socket,
    attribute,
    attributes,
)
from cnm_core.record import Record

RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_FLAGS = 1, 2, 4, 8
IFA_F_NODAD, IFA_F_DADFAILED, IFA_F_TENTATIVE = 0x2, 0x8, 0x40
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RT_SCOPE_HOST = 0, 253, 254

_IFADDRMSG = Struct("=BBBBI")


class LinkAddress(Record):
    """An address that a link has, by its index.

    `scope` is an rtm_scope, `flags` are IFA_F_ bits.
    """

    address: Address
    scope: int
    flags: int
    index: int


def add(index: int, address: Address, *, dad: bool = False) -> Request:
    """Add an address to a link; with `dad`, IPv6 looks for duplicates before it is used."""
    message, what = _of(index, address, 0 if dad or address.version == 4 else IFA_F_NODAD)
    if address.version == 4 and address.prefix < 31:
        message += attribute(IFA_BROADCAST, address.last)
    flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
    return Request(RTM_NEWADDR, flags, message, f"add address {what}")


def delete(index: int, address: Address) -> Request:
    """Remove an address from a link."""
    message, what = _of(index, address, 0)
    return Request(RTM_DELADDR, NLM_F_ACK, message, f"remove address {what}")


def list_of(socket: Socket, index: int, family: int = 0) -> list[LinkAddress]:
    """The addresses of a link, of every link for index 0; of one family, of both for 0."""
    body = _IFADDRMSG.pack(family, 0, 0, 0, index)
    request = Request(RTM_GETADDR, NLM_F_DUMP, body, "list addresses")
    found = []
    for message in socket.dump(request):
        family, prefix, flags, scope, of = _IFADDRMSG.unpack_from(message)
        if index not in (0, of) or family not in (AF_INET, AF_INET6):
            continue
        values = attributes(message, 8)
        if IFA_FLAGS in values:
            flags = U32.unpack(values[IFA_FLAGS])[0]
        # IFA_ADDRESS is the far end's on point-to-point links; IFA_LOCAL is ours.
        ip = values.get(IFA_LOCAL) or values[IFA_ADDRESS]
        found.append(LinkAddress(Address(ip, prefix), scope, flags, of))
    return found


def _of(index: int, address: Address, flags: int) -> tuple[bytes, str]:
    family = AF_INET if address.version == 4 else AF_INET6
    message = _IFADDRMSG.pack(family, address.prefix, flags, RT_SCOPE_UNIVERSE, index)
    message += attribute(IFA_LOCAL, address.ip) + attribute(IFA_ADDRESS, address.ip)
    return message, f"{format_ip(address.ip)}/{address.prefix}"
