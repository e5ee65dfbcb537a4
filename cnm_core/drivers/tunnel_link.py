"""What the tunnels of encrypted networks have in common: a link with a link-local address.

VXLAN devices are bound to it and use addresses in it, so that the kernel takes their packets
nowhere else and from nowhere else, whatever becomes of the tunnel (`tunnel_ip` in
cnm_core/store/tunnels.py).
"""

from cnm_core.errors import KernelRefused, NotAvailable
from cnm_core.inet import Address
from cnm_core.kernel import address, link, sysctl, vxlan
from cnm_core.kernel.link import Link
from cnm_core.kernel.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, Socket
from cnm_core.store.entries import Member
from cnm_core.store.membership import Membership

_LENGTH = 64  # of a link-local address's prefix


def require_ipv6() -> None:
    """Raise NotAvailable where the kernel has none."""
    try:
        sysctl.get("net", "ipv6", "conf", "all", "disable_ipv6")
    except KernelRefused:
        raise NotAvailable(
            "encrypted: this host's kernel has IPv6 switched off, which the tunnel is made of",
            details="boot without ipv6.disable=1; IPv6 addresses are needed nowhere else",
        ) from None


def ensure_address(host: Socket, device: Link, ip: bytes) -> None:
    """The address with its route: to replace what is there brings a lost route back.

    IPv6 may be off for new links, which is to concern others than this one.
    """
    disabled = ("net", "ipv6", "conf", device.name, "disable_ipv6")
    if sysctl.get(*disabled) != "0":
        sysctl.set_to("0", *disabled)
    request = address.add(device.index, Address(ip, _LENGTH))
    flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE  # inet6_addr_modify, net/ipv6/addrconf.c
    host.request(request.replace(flags=flags))


def has_address(host: Socket, device: Link, ip: bytes) -> bool:
    """Whether the link has it."""
    return any(each.address.ip == ip for each in address.list_of(host, device.index))


def delete_unless_used(host: Socket, name: str) -> bool:
    """Delete the link where no VXLAN device is bound to it any more; whether it is gone."""
    found = link.find(host, name)
    devices = map(vxlan.parse, link.list_links(host))
    if found and any(each is not None and each.link == found.index for each in devices):
        return False
    link.delete_if_present(host, name)
    return True


def own_member(membership: Membership) -> Member:
    """This host as a member. Raises NotAvailable where it is none, and Unreachable."""
    for each in membership.cluster.members():
        if each.node == membership.node:
            return each
    raise no_member(membership.node)


def no_member(node: str) -> NotAvailable:
    """The error where a host is no member."""
    return NotAvailable(
        f'this host, "{node}", is no member of the cluster',
        details="it was fenced, or has had no container yet; its next ADD has it join",
    )
