"""Entries of connection tracking (include/uapi/linux/netfilter/nfnetlink_conntrack.h)."""

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
)

NETLINK_NETFILTER = 12
NFNL_SUBSYS_CTNETLINK = 1
IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_DELETE = 1, 2
CTA_TUPLE_ORIG = 1
CTA_TUPLE_PROTO = 2
CTA_PROTO_NUM, CTA_PROTO_DST_PORT = 1, 3

_NFGENMSG = Struct(">BBH")


def forget(socket: Socket, family: int, protocol: int, ports: frozenset[int]) -> None:
    """Delete the entries of flows that were sent to one of the ports of the host.

    `family` is AF_INET or AF_INET6, `protocol` as in IP. A UDP flow that goes on keeps the
    destination that it got when it began, until its entry is gone.
    """
    header = _NFGENMSG.pack(family, 0, 0)
    kind = NFNL_SUBSYS_CTNETLINK << 8
    listing = Request(kind | IPCTNL_MSG_CT_GET, NLM_F_DUMP, header, "list tracked connections")
    for message in socket.dump(listing):
        original = attributes(message, _NFGENMSG.size)[CTA_TUPLE_ORIG]
        to = attributes(attributes(original).get(CTA_TUPLE_PROTO, b""))
        port = int.from_bytes(to.get(CTA_PROTO_DST_PORT, b""), "big")
        if to.get(CTA_PROTO_NUM) != bytes([protocol]) or port not in ports:
            continue
        body = header + attribute(CTA_TUPLE_ORIG | NLA_F_NESTED, original)
        deletion = Request(
            kind | IPCTNL_MSG_CT_DELETE, NLM_F_ACK, body, f"forget a flow to port {port}"
        )
        try:
            socket.request(deletion)
        except KernelRefused as error:
            if error.errno != ENOENT:  # it ended meanwhile
                raise
