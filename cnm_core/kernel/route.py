"""Routes (include/uapi/linux/rtnetlink.h)."""

from _socket import AF_INET, AF_INET6
from _struct import Struct

from cnm_core.errors import KernelRefused
from cnm_core.inet import Address, format_ip
from cnm_core.kernel.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_REPLACE,
    U32,
    Request,
    Socket,
    attribute,
    attributes,
    nested,
    u32,
)
from cnm_core.model import Route

RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_METRICS = 1, 4, 5, 6, 8
RTA_PREFSRC, RTNH_F_ONLINK = 7, 0x4
RTA_MULTIPATH, RTA_TABLE = 9, 15
RTAX_MTU, RTAX_ADVMSS = 2, 8
RT_TABLE_MAIN, RT_TABLE_LOCAL = 254, 255
RTPROT_BOOT, RTPROT_KERNEL, RTN_UNICAST, RTN_LOCAL = 3, 2, 1, 2
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 0, 253

_RTMSG = Struct("=BBBBBBBBI")
_RTNEXTHOP = Struct("=HBBi")


def add(index: int, route: Route) -> Request:
    """Add a route through a link. A route without gateway reaches its hosts on the link.

    Another link's route to the same destination is no obstacle: of several interfaces with
    a default route the kernel takes the newest (IPv4) or all by turns (IPv6).
    """
    to = route.destination
    scope = route.scope
    if scope is None:
        scope = RT_SCOPE_LINK if route.gateway is None and to.version == 4 else RT_SCOPE_UNIVERSE
    table = RT_TABLE_MAIN if route.table is None else route.table
    family = AF_INET if to.version == 4 else AF_INET6
    body = _RTMSG.pack(
        family, to.prefix, 0, 0, table if table < 256 else 0, RTPROT_BOOT, scope, RTN_UNICAST, 0
    )
    if to.prefix:
        body += attribute(RTA_DST, to.ip)
    body += u32(RTA_OIF, index)
    if route.gateway is not None:
        body += attribute(RTA_GATEWAY, route.gateway)
    if route.priority is not None:
        body += u32(RTA_PRIORITY, route.priority)
    if table > 255:
        body += u32(RTA_TABLE, table)
    metrics = b"".join(
        u32(kind, value)
        for kind, value in ((RTAX_MTU, route.mtu), (RTAX_ADVMSS, route.advmss))
        if value is not None
    )
    if metrics:
        body += nested(RTA_METRICS, metrics)
    return Request(RTM_NEWROUTE, NLM_F_ACK | NLM_F_CREATE, body, f"add route {describe(route)}")


def replace_through(index: int, route: Route, source: bytes) -> Request:
    """Have a route whose gateway is on the link whatever other routes say; from `source`."""
    flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE
    return Request(RTM_NEWROUTE, flags, _through(index, route, source), f"set {describe(route)}")


def delete_through(index: int, route: Route) -> Request:
    """Delete such a route."""
    what = f"remove route {describe(route)}"
    return Request(RTM_DELROUTE, NLM_F_ACK, _through(index, route, b""), what)


def _through(index: int, route: Route, source: bytes) -> bytes:
    to = route.destination
    family = AF_INET if to.version == 4 else AF_INET6
    scope = RT_SCOPE_LINK if route.gateway is None and to.version == 4 else RT_SCOPE_UNIVERSE
    flags = 0 if route.gateway is None else RTNH_F_ONLINK
    body = _RTMSG.pack(
        family, to.prefix, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, scope, RTN_UNICAST, flags
    )
    body += attribute(RTA_DST, to.ip) + u32(RTA_OIF, index)
    if route.gateway is not None:
        body += attribute(RTA_GATEWAY, route.gateway)
    return body + (attribute(RTA_PREFSRC, source) if source else b"")


def outgoing(socket: Socket, ip: bytes) -> int | None:
    """The index of the link by which packets to an address leave; None without a route."""
    family = AF_INET if len(ip) == 4 else AF_INET6
    body = _RTMSG.pack(family, len(ip) * 8, 0, 0, 0, 0, 0, 0, 0) + attribute(RTA_DST, ip)
    request = Request(RTM_GETROUTE, NLM_F_ACK, body, f"find the route to {format_ip(ip)}")
    try:
        answer = socket.request(request)[0]
    except KernelRefused:
        return None
    index = attributes(answer, 12).get(RTA_OIF)
    return U32.unpack(index)[0] if index else None


def default_links(socket: Socket) -> list[int]:
    """The indexes of the links of default routes: IPv4 before IPv6, lower metrics first."""
    found = []
    for number, family in enumerate((AF_INET, AF_INET6)):
        body = _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
        for message in socket.dump(Request(RTM_GETROUTE, NLM_F_DUMP, body, "list routes")):
            _, prefix, _, _, table, _, _, kind, _ = _RTMSG.unpack_from(message)
            values = attributes(message, 12)
            # Of several next hops the first: struct rtnexthop has the index at byte 4.
            index = values.get(RTA_OIF) or values.get(RTA_MULTIPATH, b"")[4:8]
            if (prefix, table, kind) == (0, RT_TABLE_MAIN, RTN_UNICAST) and index:
                metric = U32.unpack(values.get(RTA_PRIORITY, bytes(4)))[0]
                found.append((number, metric, U32.unpack(index)[0]))
    return list(dict.fromkeys(index for _, _, index in sorted(found)))


def local_addresses(socket: Socket, family: int) -> list[bytes]:
    """The addresses that are the host's, out of the table of local routes.

    Asking for addresses has the kernel look at every link, of which a host may have thousands
    without any.
    """
    body = _RTMSG.pack(family, 0, 0, 0, RT_TABLE_LOCAL, 0, 0, RTN_LOCAL, 0)
    found = []
    for message in socket.dump(Request(RTM_GETROUTE, NLM_F_DUMP, body, "list local routes")):
        prefix = _RTMSG.unpack_from(message)[1]
        ip = attributes(message, 12).get(RTA_DST, b"")
        if prefix == len(ip) * 8:
            found.append(ip)
    return found


def describe(route: Route) -> str:
    """A route in words."""
    via = f" via {format_ip(route.gateway)}" if route.gateway else ""
    table = f" in table {route.table}" if route.table is not None else ""
    return f"{route.destination}{via}{table}"


def list_of(socket: Socket, index: int) -> list[Route]:
    """The unicast routes through a link in every table, both families; of all for index 0."""
    found = []
    for family in (AF_INET, AF_INET6):
        body = _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
        request = Request(RTM_GETROUTE, NLM_F_DUMP, body, "list routes")
        for message in socket.dump(request):
            route = _parse(message, index)
            if route is not None:
                found.append(route)
    return found


def _hop(hops: bytes, index: int) -> dict[int, bytes]:
    """The attributes of a route with several next hops by the one through a link."""
    while hops:
        length, _, _, link = _RTNEXTHOP.unpack_from(hops)
        if link == index:
            return {**attributes(hops[:length], _RTNEXTHOP.size), RTA_OIF: U32.pack(index)}
        hops = hops[max(length, _RTNEXTHOP.size) :]
    return {}


def _parse(message: bytes, index: int) -> Route | None:
    family, prefix, _, _, table, _, scope, kind, _ = _RTMSG.unpack_from(message)
    values = attributes(message, 12)
    if RTA_MULTIPATH in values:
        values |= _hop(values[RTA_MULTIPATH], index)
    if kind != RTN_UNICAST or (index and values.get(RTA_OIF) != U32.pack(index)):
        return None
    numbers = {
        kind: U32.unpack(values[kind])[0] for kind in (RTA_TABLE, RTA_PRIORITY) if kind in values
    }
    metrics = {
        kind: U32.unpack(value)[0]
        for kind, value in attributes(values.get(RTA_METRICS, b"")).items()
        if len(value) == 4
    }
    zero = bytes(4 if family == AF_INET else 16)
    return Route(
        destination=Address(values.get(RTA_DST, zero), prefix),
        gateway=values.get(RTA_GATEWAY),
        mtu=metrics.get(RTAX_MTU),
        advmss=metrics.get(RTAX_ADVMSS),
        priority=numbers.get(RTA_PRIORITY),
        table=numbers.get(RTA_TABLE, table),
        scope=scope,
    )
