"""Telling a link's neighbours about an IPv6 address (RFC 4861, section 4.4).

For IPv4 the kernel does it when a link comes up (arp_notify in
Documentation/networking/ip-sysctl.rst); for IPv6 it leaves out addresses that
skipped duplicate address detection.
"""

from _socket import AF_INET6, SOCK_CLOEXEC, SOCK_RAW, socket

IPPROTO_IPV6, IPPROTO_ICMPV6 = 41, 58
IPV6_MULTICAST_IF, IPV6_MULTICAST_HOPS = 17, 18
NEIGHBOUR_ADVERTISEMENT, OVERRIDE, TARGET_LINK_LAYER_ADDRESS = 136, 0x20, 2
_ALL_NODES = "ff02::1"


def advertise(index: int, ip: bytes, text: str, mac: bytes) -> None:
    """Send an unsolicited advertisement of an address of a link in our namespace.

    `text` is the address in text form. Best effort: who missed it asks when its entry is stale.
    """
    # Type, code, a checksum that the kernel fills in, flags, the address, its MAC address.
    packet = bytes([NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0]) + ip
    packet += bytes([TARGET_LINK_LAYER_ADDRESS, 1]) + mac
    out = socket(AF_INET6, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMPV6)
    try:
        out.setsockopt(IPPROTO_IPV6, IPV6_MULTICAST_IF, index)
        out.setsockopt(IPPROTO_IPV6, IPV6_MULTICAST_HOPS, 255)
        out.bind((text, 0, 0, 0))
        out.sendto(packet, (_ALL_NODES, 0, 0, index))
    except OSError:
        pass  # a link without carrier yet, or an address that is still being looked at
    finally:
        out.close()
