"""Entries of connection tracking (include/uapi/linux/netfilter/nfnetlink_conntrack.h)."""

from _socket import AF_INET, AF_INET6
from _struct import Struct
from errno import ENOENT

from cnm_core.errors import KernelRefused
from cnm_core.kernel.netlink import (
    NLA_F_NESTED,
    NLM_F_ACK,
    NLM_F_DUMP,
    Request,
    Socket,
    attribute,
    attributes,
    u32,
)

NFNL_SUBSYS_CTNETLINK = 1
IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_DELETE = 1, 2
CTA_TUPLE_ORIG, CTA_FILTER = 1, 25
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
CTA_IP_V4_DST, CTA_IP_V6_DST = 2, 4
CTA_PROTO_NUM, CTA_PROTO_DST_PORT = 1, 3
CTA_FILTER_ORIG_FLAGS, CTA_FILTER_REPLY_FLAGS = 1, 2
# Which fields of the tuple count (net/netfilter/nf_conntrack_netlink.c).
CTA_FILTER_F_IP_DST, CTA_FILTER_F_PROTO_NUM, CTA_FILTER_F_PROTO_DST_PORT = 1 << 1, 1 << 3, 1 << 5
_DESTINATION = CTA_FILTER_F_IP_DST | CTA_FILTER_F_PROTO_NUM | CTA_FILTER_F_PROTO_DST_PORT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

_NFGENMSG = Struct(">BBH")
_PORT = Struct(">H")


def forget(socket: Socket, protocol: int, to: "Collection[tuple[bytes, int]]") -> None:
    """Delete the entries of flows that were sent to one of the (address, port) pairs.

    `protocol` is as in IP. A UDP flow that goes on keeps the destination that it got when
    it began, until its entry is gone.
    """
    try:
        for ip, port in to:
            socket.request(_by_filter(protocol, ip, port))
    except KernelRefused:
        # Before Linux 6.8 a filter counts in listings only, and a deletion wants the whole
        # tuple. Going through the table takes 10 ms where it has 262,144 buckets.
        _forget_one_by_one(socket, protocol, to)


def _by_filter(protocol: int, ip: bytes, port: int) -> Request:
    """Delete all entries whose original tuple has this protocol and destination."""
    family, kind = (AF_INET, CTA_IP_V4_DST) if len(ip) == 4 else (AF_INET6, CTA_IP_V6_DST)
    tuple_ = attribute(CTA_TUPLE_IP | NLA_F_NESTED, attribute(kind, ip))
    of_protocol = attribute(CTA_PROTO_NUM, bytes([protocol]))
    of_protocol += attribute(CTA_PROTO_DST_PORT, _PORT.pack(port))
    tuple_ += attribute(CTA_TUPLE_PROTO | NLA_F_NESTED, of_protocol)
    which = u32(CTA_FILTER_ORIG_FLAGS, _DESTINATION) + u32(CTA_FILTER_REPLY_FLAGS, 0)
    # Version 1: version 0 means that the family does not count.
    body = _NFGENMSG.pack(family, 1, 0)
    body += attribute(CTA_TUPLE_ORIG | NLA_F_NESTED, tuple_)
    body += attribute(CTA_FILTER | NLA_F_NESTED, which)
    return _request(IPCTNL_MSG_CT_DELETE, NLM_F_ACK, body, f"forget flows to port {port}")


def _forget_one_by_one(socket: Socket, protocol: int, to: "Collection[tuple[bytes, int]]") -> None:
    every = _NFGENMSG.pack(0, 0, 0)
    listing = _request(IPCTNL_MSG_CT_GET, NLM_F_DUMP, every, "list tracked connections")
    for message in socket.dump(listing):
        original = attributes(message, _NFGENMSG.size)[CTA_TUPLE_ORIG]
        if _destination(original, protocol) not in to:
            continue
        body = message[: _NFGENMSG.size] + attribute(CTA_TUPLE_ORIG | NLA_F_NESTED, original)
        try:
            socket.request(_request(IPCTNL_MSG_CT_DELETE, NLM_F_ACK, body, "forget a flow"))
        except KernelRefused as error:
            if error.errno != ENOENT:  # it ended meanwhile
                raise


def _destination(original: bytes, protocol: int) -> tuple[bytes, int]:
    """Address and port that a flow of the protocol was sent to; (b"", 0) of another."""
    parts = attributes(original)
    ips = attributes(parts.get(CTA_TUPLE_IP, b""))
    to = attributes(parts.get(CTA_TUPLE_PROTO, b""))
    if to.get(CTA_PROTO_NUM) != bytes([protocol]):
        return b"", 0
    ip = ips.get(CTA_IP_V4_DST) or ips.get(CTA_IP_V6_DST, b"")
    return ip, int.from_bytes(to.get(CTA_PROTO_DST_PORT, b""), "big")


def _request(kind: int, flags: int, body: bytes, what: str) -> Request:
    return Request(NFNL_SUBSYS_CTNETLINK << 8 | kind, flags, body, what)
