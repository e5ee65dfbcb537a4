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
CTA_TUPLE_PROTO = 2
CTA_PROTO_NUM, CTA_PROTO_DST_PORT = 1, 3
CTA_FILTER_ORIG_FLAGS, CTA_FILTER_REPLY_FLAGS = 1, 2
# Which fields of the tuple count (net/netfilter/nf_conntrack_netlink.c).
CTA_FILTER_F_PROTO_NUM, CTA_FILTER_F_PROTO_DST_PORT = 1 << 3, 1 << 5

_NFGENMSG = Struct(">BBH")
_PORT = Struct(">H")


def forget(socket: Socket, protocol: int, ports: frozenset[int]) -> None:
    """Delete the entries of flows that were sent to one of the ports of the host.

    `protocol` is as in IP; both versions of it are meant. A UDP flow that goes on keeps the
    destination that it got when it began, until its entry is gone.
    """
    try:
        for port in ports:
            socket.request(*(_by_filter(family, protocol, port) for family in (AF_INET, AF_INET6)))
    except KernelRefused:
        # Before Linux 6.8 a filter counts in listings only, and a deletion wants the whole
        # tuple. Going through the table takes 10 ms where it has 262,144 buckets.
        _forget_one_by_one(socket, protocol, ports)


def _by_filter(family: int, protocol: int, port: int) -> Request:
    """Delete all entries whose original tuple has this protocol and destination port."""
    to = attribute(CTA_PROTO_NUM, bytes([protocol])) + attribute(
        CTA_PROTO_DST_PORT, _PORT.pack(port)
    )
    tuple_ = attribute(CTA_TUPLE_PROTO | NLA_F_NESTED, to)
    which = u32(CTA_FILTER_ORIG_FLAGS, CTA_FILTER_F_PROTO_NUM | CTA_FILTER_F_PROTO_DST_PORT)
    which += u32(CTA_FILTER_REPLY_FLAGS, 0)
    # Version 1: version 0 means that the family does not count.
    body = _NFGENMSG.pack(family, 1, 0)
    body += attribute(CTA_TUPLE_ORIG | NLA_F_NESTED, tuple_)
    body += attribute(CTA_FILTER | NLA_F_NESTED, which)
    return _request(IPCTNL_MSG_CT_DELETE, NLM_F_ACK, body, f"forget flows to port {port}")


def _forget_one_by_one(socket: Socket, protocol: int, ports: frozenset[int]) -> None:
    every = _NFGENMSG.pack(0, 0, 0)
    listing = _request(IPCTNL_MSG_CT_GET, NLM_F_DUMP, every, "list tracked connections")
    for message in socket.dump(listing):
        original = attributes(message, _NFGENMSG.size)[CTA_TUPLE_ORIG]
        to = attributes(attributes(original).get(CTA_TUPLE_PROTO, b""))
        port = int.from_bytes(to.get(CTA_PROTO_DST_PORT, b""), "big")
        if to.get(CTA_PROTO_NUM) != bytes([protocol]) or port not in ports:
            continue
        body = message[: _NFGENMSG.size] + attribute(CTA_TUPLE_ORIG | NLA_F_NESTED, original)
        try:
            socket.request(
                _request(IPCTNL_MSG_CT_DELETE, NLM_F_ACK, body, f"forget a flow to port {port}")
            )
        except KernelRefused as error:
            if error.errno != ENOENT:  # it ended meanwhile
                raise


def _request(kind: int, flags: int, body: bytes, what: str) -> Request:
    return Request(NFNL_SUBSYS_CTNETLINK << 8 | kind, flags, body, what)
