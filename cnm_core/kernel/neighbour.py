"""Neighbour entries, and forwarding entries of bridges and VXLAN devices (linux/neighbour.h).

All are static. They are always replaced, never added exclusively: what should stand
there is known, whatever stood there before.
"""

from _socket import AF_INET, AF_INET6
from _struct import Struct
from errno import ENOENT

from cnm_core.errors import KernelRefused
from cnm_core.inet import format_ip, format_mac
from cnm_core.kernel.link import AF_BRIDGE
from cnm_core.kernel.netlink import (
    NLM_F_ACK,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_REPLACE,
    U32,
    Request,
    Socket,
    attribute,
    attributes,
    u32,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
NDA_DST, NDA_LLADDR, NDA_IFINDEX = 1, 2, 8
NUD_PERMANENT, NUD_NOARP = 0x80, 0x40
NTF_SELF, NTF_MASTER, NTF_STICKY = 0x2, 0x4, 0x40
# The address of frames to everybody: a VXLAN device sends one to each of its hosts.
EVERYBODY = bytes(6)

_NDMSG = Struct("=BxxxiHBB")
# Some kB a send: a socket's buffer takes it, and so do the answers.
_BATCH = 200


class Row(tuple[int, bytes, bytes, bytes, int]):
    """An entry of link `index`: exactly one of three kinds.

    `ip` and `mac`: a neighbour. `mac` and `vtep`: frames to `mac` leave a VXLAN device to
    that host, by the link `through` where that is not 0, and those to EVERYBODY to each host
    that has one. `mac` alone: a bridge sends frames to `mac` out of the port `index`.

    A tuple and no Record: an agent compares tens of thousands of them every minute.
    """

    __slots__ = ()

    def __new__(
        cls, index: int, mac: bytes, ip: bytes = b"", vtep: bytes = b"", through: int = 0
    ) -> "Self":
        return tuple.__new__(cls, (index, mac, ip, vtep, through))

    @property
    def index(self) -> int:  # type: ignore[override]
        """The link's."""
        return self[0]

    @property
    def mac(self) -> bytes:
        """Whom frames are for."""
        return self[1]

    @property
    def ip(self) -> bytes:
        """A neighbour's address, b"" for an entry of another kind."""
        return self[2]

    @property
    def vtep(self) -> bytes:
        """The host that frames go to, b"" for an entry of another kind."""
        return self[3]

    @property
    def through(self) -> int:
        """The index of the link by which they go there, 0 for any."""
        return self[4]

    @property
    def key(self) -> tuple[int, bytes, bytes | bool]:
        """What the kernel tells entries apart by."""
        host = self.vtep if self.is_copy else bool(self.vtep)
        return self.index, self.ip or self.mac, host

    @property
    def is_copy(self) -> bool:
        """Whether it is about frames to everybody, which several hosts may get."""
        return self.mac == EVERYBODY and bool(self.vtep)

    def __str__(self) -> str:
        if self.ip:
            return f"neighbour {format_ip(self.ip)} at {format_mac(self.mac)}"
        if self.is_copy:
            return f"frames for everybody to {format_ip(self.vtep)}"
        to = f"to {format_ip(self.vtep)}" if self.vtep else "out of the port"
        return f"frames for {format_mac(self.mac)} {to}"


def replace(row: Row) -> Request:
    """Have an entry, whatever stands there."""
    beside = NLM_F_APPEND if row.is_copy else NLM_F_REPLACE
    flags = NLM_F_ACK | NLM_F_CREATE | beside
    return Request(RTM_NEWNEIGH, flags, _body(row), f"set {row}")


def delete(row: Row) -> Request:
    """Remove an entry."""
    return Request(RTM_DELNEIGH, NLM_F_ACK, _body(row), f"remove {row}")


def apply(socket: Socket, wanted: "Iterable[Row]", unwanted: "Iterable[Row]" = ()) -> None:
    """Remove entries, which may be gone, and have others, in batches. Raises KernelRefused.

    An unwanted one in whose place a wanted one comes is replaced, which takes no moment.
    """
    wanted = list(wanted)
    replaced = {row.key for row in wanted}
    for batch in _batches([row for row in unwanted if row.key not in replaced]):
        try:
            socket.request(*map(delete, batch))
        except KernelRefused as error:
            if error.errno != ENOENT:
                raise
    for batch in _batches(wanted):
        socket.request(*map(replace, batch))


def list_of(socket: Socket, bridge: int, device: int) -> set[Row]:
    """The static entries of an overlay: neighbours of its bridge, where the device's frames go."""
    found = forwarding_of(socket, device)
    only = attribute(NDA_IFINDEX, U32.pack(bridge))
    for family in (AF_INET, AF_INET6):
        found |= _list(socket, bridge, _NDMSG.pack(family, 0, 0, 0, 0) + only)
    return found


def forwarding_of(socket: Socket, index: int) -> set[Row]:
    """The static entries for frames that go out of a link."""
    return _list(socket, index, _NDMSG.pack(AF_BRIDGE, index, 0, 0, 0))


def _list(socket: Socket, index: int, body: bytes) -> set[Row]:
    dump = socket.dump(Request(RTM_GETNEIGH, NLM_F_DUMP, body, "list neighbours"))
    return {row for message in dump if (row := _parse(message, index)) is not None}


def _body(row: Row) -> bytes:
    link_layer = attribute(NDA_LLADDR, row.mac)
    if row.ip:
        family = AF_INET if len(row.ip) == 4 else AF_INET6
        head = _NDMSG.pack(family, row.index, NUD_PERMANENT, 0, 0)
        return head + attribute(NDA_DST, row.ip) + link_layer
    if row.vtep:
        head = _NDMSG.pack(AF_BRIDGE, row.index, NUD_PERMANENT | NUD_NOARP, NTF_SELF, 0)
        where = u32(NDA_IFINDEX, row.through) if row.through else b""
        return head + link_layer + attribute(NDA_DST, row.vtep) + where
    # The state that `bridge fdb … static` sets; PERMANENT would make it an address of the port.
    # Static alone it would follow whoever sends from that address to another port, where that
    # learns (br_fdb_update, net/bridge/br_fdb.c). Linux before 4.20 does not know NTF_STICKY.
    head = _NDMSG.pack(AF_BRIDGE, row.index, NUD_NOARP, NTF_MASTER | NTF_STICKY, 0)
    return head + link_layer


def _parse(message: bytes, index: int) -> Row | None:
    family, found, state, flags, _ = _NDMSG.unpack_from(message)
    if found != index or not state & (NUD_PERMANENT | NUD_NOARP):
        return None
    values = attributes(message, 12)
    mac = values.get(NDA_LLADDR, b"")
    if len(mac) != 6:
        return None
    if family != AF_BRIDGE:
        return Row(index, mac, values[NDA_DST], b"") if state & NUD_PERMANENT else None
    if flags & NTF_SELF:
        vtep = values.get(NDA_DST, b"")
        through = U32.unpack(values.get(NDA_IFINDEX, bytes(4)))[0]
        return Row(index, mac, b"", vtep, through) if any(vtep) else None
    return Row(index, mac, b"", b"") if state == NUD_NOARP else None


def _batches(rows: list[Row]) -> list[list[Row]]:
    return [rows[at : at + _BATCH] for at in range(0, len(rows), _BATCH)]
