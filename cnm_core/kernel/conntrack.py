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
from cnm_core.record import Record

NFNL_SUBSYS_CTNETLINK = 1
IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_DELETE = 1, 2
CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_STATUS = 1, 2, 3
CTA_FILTER, CTA_STATUS_MASK = 25, 26
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
CTA_IP_V4_SRC, CTA_IP_V4_DST, CTA_IP_V6_SRC, CTA_IP_V6_DST = 1, 2, 3, 4
CTA_PROTO_NUM, CTA_PROTO_SRC_PORT, CTA_PROTO_DST_PORT = 1, 2, 3
CTA_FILTER_ORIG_FLAGS, CTA_FILTER_REPLY_FLAGS = 1, 2
# Which fields of a tuple count (net/netfilter/nf_conntrack_netlink.c).
CTA_FILTER_F_IP_SRC, CTA_FILTER_F_IP_DST, CTA_FILTER_F_PROTO_NUM = 1 << 0, 1 << 1, 1 << 3
CTA_FILTER_F_PROTO_SRC_PORT, CTA_FILTER_F_PROTO_DST_PORT = 1 << 4, 1 << 5
# include/uapi/linux/netfilter/nf_conntrack_common.h
IPS_SRC_NAT, IPS_DST_NAT = 1 << 4, 1 << 5

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

_NFGENMSG = Struct(">BBH")
_PORT = Struct(">H")
_STATUS = Struct(">I")


class End(Record):
    """An end of flows: attributes of a tuple and their bits; of which flows, by status bits."""

    tuple_: int
    ipv4: int
    ipv6: int
    port: int
    ip_field: int
    port_field: int
    status: int
    status_mask: int


# What the first packet of a flow was sent to; in IPv6 of flows that nobody translates.
DESTINATION = End(
    CTA_TUPLE_ORIG,
    CTA_IP_V4_DST,
    CTA_IP_V6_DST,
    CTA_PROTO_DST_PORT,
    CTA_FILTER_F_IP_DST,
    CTA_FILTER_F_PROTO_DST_PORT,
    0,
    IPS_SRC_NAT | IPS_DST_NAT,
)
# Who answers: the container, where the destination was translated.
RESPONDER = End(
    CTA_TUPLE_REPLY,
    CTA_IP_V4_SRC,
    CTA_IP_V6_SRC,
    CTA_PROTO_SRC_PORT,
    CTA_FILTER_F_IP_SRC,
    CTA_FILTER_F_PROTO_SRC_PORT,
    IPS_DST_NAT,
    IPS_DST_NAT,
)


def forget(socket: Socket, protocol: int, end: End, ends: "Collection[tuple[bytes, int]]") -> None:
    """Delete the entries of flows that have one of the (address, port) pairs at that end.

    `protocol` is as in IP. A UDP flow that goes on keeps the destination that it got when
    it began, until its entry is gone. Each IPv4 pair and each IPv6 port costs a walk through
    the table, of 0.3 ms where it has 262,144 buckets.
    """
    requests = {each.body: each for each in (_by_filter(protocol, end, *pair) for pair in ends)}
    try:
        for request in requests.values():
            socket.request(request)
    except KernelRefused:
        # Before Linux 6.8 a filter counts in listings only, and a deletion wants the whole
        # tuple. A listing takes 8 ms of the same table.
        _forget_one_by_one(socket, protocol, end, ends)


def _by_filter(protocol: int, end: End, ip: bytes, port: int) -> Request:
    """Delete all entries that have this protocol, address and port at that end.

    Of IPv6 also those of other addresses that have the end's status: the kernel takes
    addresses that differ for equal (ctnetlink_filter_match_tuple), so none may be named.
    Translated flows come back as they were; the others have nothing to lose.
    """
    of_protocol = attribute(CTA_PROTO_NUM, bytes([protocol]))
    of_protocol += attribute(end.port, _PORT.pack(port))
    tuple_ = attribute(CTA_TUPLE_PROTO | NLA_F_NESTED, of_protocol)
    fields, status = CTA_FILTER_F_PROTO_NUM | end.port_field, b""
    if len(ip) == 4:
        family = AF_INET
        fields |= end.ip_field
        tuple_ += attribute(CTA_TUPLE_IP | NLA_F_NESTED, attribute(end.ipv4, ip))
    else:
        family = AF_INET6
        status = attribute(CTA_STATUS, _STATUS.pack(end.status))
        status += attribute(CTA_STATUS_MASK, _STATUS.pack(end.status_mask))
    original = end is DESTINATION
    which = u32(CTA_FILTER_ORIG_FLAGS, fields if original else 0)
    which += u32(CTA_FILTER_REPLY_FLAGS, 0 if original else fields)
    # Version 1: version 0 means that the family does not count.
    body = _NFGENMSG.pack(family, 1, 0)
    body += attribute(end.tuple_ | NLA_F_NESTED, tuple_)
    body += attribute(CTA_FILTER | NLA_F_NESTED, which) + status
    return _request(IPCTNL_MSG_CT_DELETE, NLM_F_ACK, body, f"forget flows of port {port}")


def _forget_one_by_one(
    socket: Socket, protocol: int, end: End, ends: "Collection[tuple[bytes, int]]"
) -> None:
    every = _NFGENMSG.pack(0, 0, 0)
    listing = _request(IPCTNL_MSG_CT_GET, NLM_F_DUMP, every, "list tracked connections")
    for message in socket.dump(listing):
        flow = attributes(message, _NFGENMSG.size)
        if _end_of(flow[end.tuple_], protocol, end) not in ends:
            continue
        body = message[: _NFGENMSG.size]
        body += attribute(CTA_TUPLE_ORIG | NLA_F_NESTED, flow[CTA_TUPLE_ORIG])
        try:
            socket.request(_request(IPCTNL_MSG_CT_DELETE, NLM_F_ACK, body, "forget a flow"))
        except KernelRefused as error:
            if error.errno != ENOENT:  # it ended meanwhile
                raise


def _end_of(tuple_: bytes, protocol: int, end: End) -> tuple[bytes, int]:
    """Address and port at the end of a flow of the protocol; (b"", 0) of another."""
    parts = attributes(tuple_)
    ips = attributes(parts.get(CTA_TUPLE_IP, b""))
    ports = attributes(parts.get(CTA_TUPLE_PROTO, b""))
    if ports.get(CTA_PROTO_NUM) != bytes([protocol]):
        return b"", 0
    ip = ips.get(end.ipv4) or ips.get(end.ipv6, b"")
    return ip, int.from_bytes(ports.get(end.port, b""), "big")


def _request(kind: int, flags: int, body: bytes, what: str) -> Request:
    return Request(NFNL_SUBSYS_CTNETLINK << 8 | kind, flags, body, what)
