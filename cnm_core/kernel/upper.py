"""Macvlan and ipvlan links, and links that lead nowhere (include/uapi/linux/if_link.h)."""

from errno import EEXIST, EOPNOTSUPP
from posix import urandom

from cnm_core.errors import InterfaceExists, KernelRefused
from cnm_core.kernel.link import (
    IFF_UP,
    IFLA_ADDRESS,
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_LINK,
    IFLA_LINKINFO,
    IFLA_MTU,
    IFLA_NET_NS_FD,
    RTM_NEWLINK,
    Link,
    header,
)
from cnm_core.kernel.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_EXCL,
    U16,
    U32,
    Request,
    Socket,
    attribute,
    attributes,
    nested,
    string,
    u16,
    u32,
)

_FIRST_INDEX = 1 << 24  # of those that the kernel does not come to by itself

IFLA_MACVLAN_MODE, IFLA_MACVLAN_BC_QUEUE_LEN = 1, 7
IFLA_IPVLAN_MODE, IFLA_IPVLAN_FLAGS = 1, 2

MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
IPVLAN_MODES = {"l2": 0, "l3": 1, "l3s": 2}
IPVLAN_FLAGS = {"bridge": 0, "private": 1, "vepa": 2}


def create_macvlan(
    name: str,
    parent: int,
    *,
    mode: str,
    queue: int,
    mac: bytes | None,
    mtu: int,
    netns: int | None,
) -> Request:
    """Make a macvlan link on the link of that index, born in `netns` (an open file) with its name.

    `queue` is the length of the queue for broadcasts, 0 for the kernel's own; without `mac`
    the kernel chooses, in mode passthru its parent's; without `netns` it stays beside its parent.
    """
    data = u32(IFLA_MACVLAN_MODE, MACVLAN_MODES[mode])
    if queue:
        data += u32(IFLA_MACVLAN_BC_QUEUE_LEN, queue)
    return _create("macvlan", name, parent, data, mac=mac, mtu=mtu, netns=netns)


def create_ipvlan(
    name: str, parent: int, *, mode: str, flag: str, mtu: int, netns: int | None
) -> Request:
    """Make an ipvlan link, as `create_macvlan` does; mode and flag become those of all on it."""
    data = u16(IFLA_IPVLAN_MODE, IPVLAN_MODES[mode]) + u16(IFLA_IPVLAN_FLAGS, IPVLAN_FLAGS[flag])
    return _create("ipvlan", name, parent, data, mtu=mtu, netns=netns)


def make(socket: Socket, request: Request) -> None:
    """Make a link by a request of this module, in another namespace or here.

    Raises KernelRefused, InterfaceExists where the name is taken.

    Kernels before 6.15 look for its name among the links of whoever asks, too, where it may
    be any link's (net/core/rtnetlink.c, __rtnl_newlink), unless the request has an index.
    """
    try:
        socket.request(request)
    except KernelRefused as error:
        if error.errno != EEXIST:
            raise
        index = _FIRST_INDEX + int.from_bytes(urandom(3), "little")
        start = header(index)
        again = request.replace(body=start + request.body[len(start) :])
        try:
            socket.request(again)
        except KernelRefused as error:
            if error.errno != EEXIST:
                raise
            raise InterfaceExists(
                error.msg, details="choose another CNI_IFNAME, or DEL the attachment that has it"
            ) from None


def create_isolated(name: str, kind: str) -> Request:
    """Make a link that leads nowhere, of kind dummy or ifb, and set it up."""
    return _create(kind, name, 0, b"", up=True)


def supported(socket: Socket, kind: str) -> bool:
    """Whether the kernel has links of a kind that stand on others; loads its module.

    It is asked for one on no link, which it refuses in any case (EINVAL of their newlink
    and validate functions), and as EOPNOTSUPP if it does not know the kind.
    """
    try:
        socket.request(_create(kind, "", 0, b""))
    except KernelRefused as error:
        return error.errno != EOPNOTSUPP
    return True


def macvlan_mode(of: Link) -> str:
    """The mode of a macvlan link."""
    value = attributes(of.data).get(IFLA_MACVLAN_MODE, bytes(4))
    return _name_of(U32.unpack(value)[0], MACVLAN_MODES)


def ipvlan_mode(of: Link) -> tuple[str, str]:
    """Mode and flag of an ipvlan link."""
    found = attributes(of.data)
    mode, flag = (found.get(kind, bytes(2)) for kind in (IFLA_IPVLAN_MODE, IFLA_IPVLAN_FLAGS))
    return (
        _name_of(U16.unpack(mode)[0], IPVLAN_MODES),
        _name_of(U16.unpack(flag)[0], IPVLAN_FLAGS),
    )


def _name_of(number: int, names: dict[str, int]) -> str:
    return next((name for name, value in names.items() if value == number), str(number))


def _create(
    kind: str,
    name: str,
    parent: int,
    data: bytes,
    *,
    mac: bytes | None = None,
    mtu: int = 0,
    netns: int | None = None,
    up: bool = False,
) -> Request:
    body = header(flags=IFF_UP, change=IFF_UP) if up else header()
    body += string(IFLA_IFNAME, name) if name else b""
    body += attribute(IFLA_ADDRESS, mac) if mac else b""
    body += u32(IFLA_MTU, mtu) if mtu else b""
    body += u32(IFLA_LINK, parent) if parent else b""
    body += u32(IFLA_NET_NS_FD, netns) if netns is not None else b""
    info = string(IFLA_INFO_KIND, kind) + (nested(IFLA_INFO_DATA, data) if data else b"")
    body += nested(IFLA_LINKINFO, info)
    flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
    return Request(RTM_NEWLINK, flags, body, f'create {kind} link "{name}"')
