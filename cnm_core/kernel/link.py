"""Links: bridges, veth pairs and their ports (include/uapi/linux/if_link.h)."""

from _struct import Struct
from errno import EIO, ENODEV
from posix import O_CLOEXEC, _exit, close, closerange, fork, pipe2, read, urandom, write
from select import POLLIN, poll

from cnm_core.errors import KernelRefused
from cnm_core.kernel.netlink import (
    NLA_F_NESTED,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    U32,
    Request,
    Socket,
    attribute,
    attributes,
    nested,
    string,
    text_of,
    u8,
    u32,
)
from cnm_core.record import Record

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
IFF_UP, IFF_LOOPBACK, IFF_PROMISC = 0x1, 0x8, 0x100
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER, IFLA_PROTINFO = 1, 3, 4, 5, 10, 12
IFLA_LINKINFO, IFLA_NET_NS_FD, IFLA_EXT_MASK = 18, 28, 29
IFLA_OPERSTATE, IFLA_IFALIAS = 16, 20
IF_OPER_UP = 6
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_DATA = 1, 2, 5
VETH_INFO_PEER = 1
IFLA_BR_MCAST_SNOOPING = 23
IFLA_BRPORT_MODE, IFLA_BRPORT_LEARNING, IFLA_BRPORT_NO, IFLA_BRPORT_ISOLATED = 4, 8, 18, 33
RTEXT_FILTER_SKIP_STATS = 8
AF_BRIDGE = 7
RTMGRP_LINK = 1
# What the child that deletes a link answers when it has done so.
_GONE = "gone"

_IFINFOMSG = Struct("=BxHiII")
_U16 = Struct("=H")
_DUMP_STATS_OFF = u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn


class Link(Record):
    """A link as the kernel reports it. `mac` is "" where the link has none.

    `master` is the index of the bridge that the link is a port of, 0 for none;
    `hairpin` and `isolated` are that port's flags. `operational` is RFC 2863's: up, with
    carrier, and known to the kernel as such. `parent` is the index of the link that it stands
    on or, for a veth, of its peer, in whose namespace the index counts; `data` has its kind's
    own attributes, and `port` those of a bridge's port.
    """

    index: int
    name: str
    kind: str
    mac: bytes
    mtu: int
    flags: int
    master: int
    alias: str
    operational: bool = False
    hairpin: bool = False
    isolated: bool = False
    parent: int = 0
    data: bytes = b""
    port: bytes = b""

    @property
    def up(self) -> bool:
        """Whether the link is administratively up."""
        return bool(self.flags & IFF_UP)


def header(index: int = 0, flags: int = 0, change: int = 0, family: int = 0) -> bytes:
    """The struct ifinfomsg that messages about links begin with."""
    return _IFINFOMSG.pack(family, 0, index, flags, change)


def index_of(message: bytes) -> int:
    """The index in the body of a message about a link."""
    index: int = _IFINFOMSG.unpack_from(message)[2]
    return index


def parse(message: bytes) -> Link:
    """The link in the body of an RTM_NEWLINK message."""
    _, _, index, flags, _ = _IFINFOMSG.unpack_from(message)
    found = attributes(message, 16)
    info = attributes(found.get(IFLA_LINKINFO, b""))
    slave = info.get(IFLA_INFO_SLAVE_DATA, b"")
    port = attributes(slave)
    return Link(
        index=index,
        name=text_of(found[IFLA_IFNAME]),
        kind=text_of(info.get(IFLA_INFO_KIND, b"")),
        mac=found.get(IFLA_ADDRESS, b""),
        mtu=U32.unpack(found[IFLA_MTU])[0],
        flags=flags,
        master=U32.unpack(found[IFLA_MASTER])[0] if IFLA_MASTER in found else 0,
        alias=text_of(found.get(IFLA_IFALIAS, b"")),
        operational=found.get(IFLA_OPERSTATE) == bytes([IF_OPER_UP]),
        hairpin=port.get(IFLA_BRPORT_MODE, b"\0") != b"\0",
        isolated=port.get(IFLA_BRPORT_ISOLATED, b"\0") != b"\0",
        parent=U32.unpack(found[IFLA_LINK])[0] if IFLA_LINK in found else 0,
        data=info.get(IFLA_INFO_DATA, b""),
        port=slave,
    )


def port_number(port: Link) -> int:
    """The number of a bridge's port: from 1, the lowest that was free (find_portno, br_if.c)."""
    number: int = _U16.unpack(attributes(port.port)[IFLA_BRPORT_NO])[0]
    return number


def get(name: str) -> Request:
    """Ask for the link of that name."""
    body = header() + string(IFLA_IFNAME, name) + _DUMP_STATS_OFF
    return Request(RTM_GETLINK, NLM_F_ACK, body, f'find link "{name}"')


def get_by_index(index: int) -> Request:
    """Ask for the link of that index."""
    return Request(RTM_GETLINK, NLM_F_ACK, header(index) + _DUMP_STATS_OFF, f"find link {index}")


def find(socket: Socket, name: str) -> Link | None:
    """The link of that name, or None."""
    try:
        return parse(socket.request(get(name))[0])
    except KernelRefused as error:
        if error.errno == ENODEV:
            return None
        raise


def list_links(socket: Socket) -> list[Link]:
    """Every link of the socket's namespace."""
    request = Request(RTM_GETLINK, NLM_F_DUMP, header() + _DUMP_STATS_OFF, "list links")
    return [parse(message) for message in socket.dump(request)]


def random_mac() -> bytes:
    """A unicast address of the locally administered kind (IEEE 802, section 8.4)."""
    first, *rest = urandom(6)
    return bytes([first & 0xFC | 0x02, *rest])


def create_bridge(name: str, mac: bytes, mtu: int, data: bytes = b"") -> Request:
    """Make a bridge that is up and keeps its MAC address whatever its ports are.

    The address is given at creation, so that the bridge does not take its lowest port's
    (br_stp_recalculate_bridge_id) and systemd-udev leaves it alone. `mtu` 0 leaves it
    to the kernel. `data` are further IFLA_BR_ attributes.

    It does not snoop on multicast. Without a querier a bridge floods that anyway
    (br_multicast_querier_exists), and snooping would have it set timers of every port
    anew whenever one of them comes or goes (br_port_state_selection).
    """
    data += u8(IFLA_BR_MCAST_SNOOPING, 0)
    body = header(flags=IFF_UP, change=IFF_UP) + string(IFLA_IFNAME, name)
    body += attribute(IFLA_ADDRESS, mac) + (u32(IFLA_MTU, mtu) if mtu else b"")
    kind = string(IFLA_INFO_KIND, "bridge")
    body += nested(IFLA_LINKINFO, kind, nested(IFLA_INFO_DATA, data))
    flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
    return Request(RTM_NEWLINK, flags, body, f'create bridge "{name}"')


def create_veth(
    name: str,
    *,
    mac: bytes,
    mtu: int,
    master: int,
    peer_name: str,
    peer_mac: bytes,
    peer_netns: int,
) -> Request:
    """Make a veth pair in one message: the peer born in another namespace with its name.

    `peer_netns` is an open file of that namespace, `master` the index of the bridge that
    the near end becomes a port of. Both ends are down: IFF_UP for the peer fails with
    ENOTCONN (veth_newlink has no carrier yet), and a near end that is up before the kernel
    has noted that it has no carrier counts as able to forward, so that the bridge looks
    through all its ports twice more, for taking it in and out (br_port_state_selection).
    """
    peer = header() + string(IFLA_IFNAME, peer_name) + attribute(IFLA_ADDRESS, peer_mac)
    peer += u32(IFLA_MTU, mtu) + u32(IFLA_NET_NS_FD, peer_netns)
    data = nested(IFLA_INFO_DATA, attribute(VETH_INFO_PEER, peer))
    body = header() + string(IFLA_IFNAME, name)
    body += attribute(IFLA_ADDRESS, mac) + u32(IFLA_MTU, mtu) + u32(IFLA_MASTER, master)
    body += nested(IFLA_LINKINFO, string(IFLA_INFO_KIND, "veth"), data)
    flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
    return Request(
        RTM_NEWLINK, flags, body, f'create veth pair "{name}" and "{peer_name}" in the sandbox'
    )


def set_up(index: int, name: str) -> Request:
    """Set a link administratively up; index 0 finds it by its name."""
    body = header(index, IFF_UP, IFF_UP) + (b"" if index else string(IFLA_IFNAME, name))
    return Request(RTM_NEWLINK, NLM_F_ACK, body, f'set link "{name}" up')


def set_down(index: int, name: str) -> Request:
    """Set a link administratively down."""
    return Request(RTM_NEWLINK, NLM_F_ACK, header(index, 0, IFF_UP), f'set link "{name}" down')


def set_promiscuous(index: int, name: str) -> Request:
    """Put a link into promiscuous mode."""
    body = header(index, IFF_PROMISC, IFF_PROMISC)
    return Request(RTM_NEWLINK, NLM_F_ACK, body, f'make link "{name}" promiscuous')


def set_mac(index: int, name: str, mac: bytes) -> Request:
    """Give a link a MAC address. Its own has the kernel announce its addresses anew."""
    body = header(index) + attribute(IFLA_ADDRESS, mac)
    return Request(RTM_NEWLINK, NLM_F_ACK, body, f'set the MAC address of link "{name}"')


def set_alias(name: str, alias: str) -> Request:
    """Give a link its alias, which `ip link` shows; at most 254 bytes."""
    body = header() + string(IFLA_IFNAME, name) + string(IFLA_IFALIAS, alias)
    return Request(RTM_NEWLINK, NLM_F_ACK, body, f'set the alias of link "{name}"')


def set_port(index: int, name: str, *, hairpin: bool, isolated: bool) -> Request:
    """Set the flags of a bridge port."""
    return port_flags(
        index, name, u8(IFLA_BRPORT_MODE, hairpin), u8(IFLA_BRPORT_ISOLATED, isolated)
    )


def stop_learning(of: Link) -> Request:
    """Have a bridge believe no source address of what comes in by a port."""
    return port_flags(of.index, of.name, u8(IFLA_BRPORT_LEARNING, 0))


def learns(of: Link) -> bool:
    """Whether it does."""
    return attributes(of.port).get(IFLA_BRPORT_LEARNING) == b"\1"


def port_flags(index: int, name: str, *flags: bytes) -> Request:
    """Set flags of a bridge port, given as attributes IFLA_BRPORT_*."""
    # NLA_F_NESTED, or the kernel takes the payload for an old-style port state (br_setlink).
    body = header(index, family=AF_BRIDGE)
    body += attribute(IFLA_PROTINFO | NLA_F_NESTED, b"".join(flags))
    return Request(RTM_SETLINK, NLM_F_ACK, body, f'set the bridge port flags of "{name}"')


def delete(index: int, name: str) -> Request:
    """Delete a link, and the other end of a veth with it."""
    body = header(index)
    return Request(RTM_DELLINK, NLM_F_ACK, body, f'delete link "{name}"')


def delete_if_present(
    socket: Socket, name: str, meanwhile: "Callable[[], None] | None" = None
) -> bool:
    """Delete the link of that name in the socket's and our namespace; False if there is none.

    `meanwhile` is called once the deletion is under way, if there is one.

    The link is gone from both namespaces within a millisecond, which its notification
    says, and may be named anew; but the request returns only when the kernel has freed it
    too, some 15 ms later (netdev_run_todo waits for RCU). A child process does that
    waiting, which nobody else needs to; init reaps it.
    """
    found = find(socket, name)
    if found is None:
        return False
    try:
        listener = Socket(groups=RTMGRP_LINK)
        answer, sink = pipe2(O_CLOEXEC)
        child = fork()
    except (OSError, KernelRefused):  # neither descriptors nor a process to be had: wait ourselves
        _delete_and_wait(socket, found)
        if meanwhile is not None:
            meanwhile()
        return True
    if child == 0:
        _delete_and_exit(found, sink)
    close(sink)
    try:
        if meanwhile is not None:
            meanwhile()
        failure = _await_deletion(listener, answer, found.index)
    finally:
        close(answer)
        listener.close()
    if failure:
        raise KernelRefused(EIO, failure)
    return True


def _delete_and_wait(socket: Socket, found: Link) -> None:
    """Delete a link; ENODEV means that somebody else was faster."""
    try:
        socket.request(delete(found.index, found.name))
    except KernelRefused as error:
        if error.errno != ENODEV:
            raise


def _delete_and_exit(found: Link, sink: int) -> "NoReturn":
    """Delete a link in a child process, and write to `sink` what came of it.

    The child lets go of stdin, stdout and stderr, or a runtime that reads to their end
    would wait for it after all.
    """
    outcome = _GONE
    try:
        closerange(0, 3)
        _delete_and_wait(Socket(), found)
    except KernelRefused as error:
        outcome = error.msg
    except BaseException as error:
        outcome = f'cannot delete link "{found.name}": {error}'
    finally:
        write(sink, outcome.encode())
        _exit(0)


def _await_deletion(listener: Socket, answer: int, index: int) -> str:
    """Wait until the link is gone or the child has answered; what went wrong, or ""."""
    waiting = poll()
    waiting.register(listener.fileno(), POLLIN)
    waiting.register(answer, POLLIN)
    while True:
        for fd, _ in waiting.poll():
            if fd != answer:
                if _deleted(listener, index):
                    return ""
                continue
            outcome = read(answer, 4096).decode("utf-8", "replace")
            return "" if outcome == _GONE else outcome or "the process that deletes a link died"


def _deleted(listener: Socket, index: int) -> bool:
    """Whether one of the listener's next messages says that the link is gone."""
    try:
        events = listener.events()
    except KernelRefused:
        return False  # ENOBUFS: some were lost; the child's end says the same, later
    # Family 0: a bridge says with its own that a port left it, which comes first.
    return any(
        kind == RTM_DELLINK and (body[0], _IFINFOMSG.unpack_from(body)[2]) == (0, index)
        for kind, body in events
    )
