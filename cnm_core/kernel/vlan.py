"""VLANs: which ones the ports of a bridge are in, and VLAN links (if_bridge.h, if_link.h)."""

from _struct import Struct
from errno import EINVAL, EPROTONOSUPPORT

from cnm_core.errors import KernelRefused
from cnm_core.kernel import link
from cnm_core.kernel.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    U16,
    U32,
    Request,
    Socket,
    attribute,
    attributes,
    nested,
    repeated,
    string,
    u8,
    u16,
    u32,
)
from cnm_core.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    # VLAN IDs with their flags: PVID for what comes in untagged, UNTAGGED for what goes out so.
    Members = dict[int, int]

PVID, UNTAGGED = 0x2, 0x4
IFLA_LINK, IFLA_AF_SPEC = 5, 26
IFLA_BR_VLAN_FILTERING, IFLA_BR_VLAN_PROTOCOL, IFLA_BR_VLAN_DEFAULT_PVID = 7, 8, 39
IFLA_BRIDGE_FLAGS, IFLA_BRIDGE_VLAN_INFO = 0, 2
IFLA_VLAN_ID = 1
BRIDGE_FLAGS_SELF = 2
RANGE_BEGIN, RANGE_END = 0x8, 0x10
RTEXT_FILTER_BRVLAN_COMPRESSED = 4
# For the creation of a bridge that filters VLANs.
FILTERING = u8(IFLA_BR_VLAN_FILTERING, 1)
# No link has this name (dev_valid_name, net/core/dev.c).
_IMPOSSIBLE = "/"

_VLAN_INFO = Struct("=HH")


class Filtering(Record):
    """What a bridge makes of VLANs. `default` is the one that ports begin in, 0 for none."""

    on: bool
    default: int


def kernel_filters(socket: Socket) -> bool:
    """Whether the running kernel's bridges know VLANs (CONFIG_BRIDGE_VLAN_FILTERING).

    Asks for a bridge that cannot be: of no VLAN protocol, which br_validate refuses where it
    looks at that, and of a name that register_netdevice refuses otherwise.
    """
    data = nested(link.IFLA_INFO_DATA, u16(IFLA_BR_VLAN_PROTOCOL, 0))
    return _refusal(socket, "bridge", data) == EPROTONOSUPPORT


def kernel_links(socket: Socket) -> bool:
    """Whether the running kernel has VLAN links (CONFIG_VLAN_8021Q).

    Asks for one without an ID, which vlan_validate refuses. Loads the module.
    """
    return _refusal(socket, "vlan", b"") == EINVAL


def _refusal(socket: Socket, kind: str, data: bytes) -> int:
    """The errno with which the kernel refuses to make a link of an impossible name."""
    body = link.header() + string(link.IFLA_IFNAME, _IMPOSSIBLE)
    body += nested(link.IFLA_LINKINFO, string(link.IFLA_INFO_KIND, kind), data)
    flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
    try:
        socket.request(Request(link.RTM_NEWLINK, flags, body, f"probe for {kind} links"))
    except KernelRefused as error:
        return error.errno
    return 0


def filtering_of(socket: Socket, bridge: str) -> Filtering:
    """What a bridge makes of VLANs. Raises KernelRefused."""
    message = socket.request(link.get(bridge))[0]
    data = _info_data(message)
    return Filtering(
        on=data.get(IFLA_BR_VLAN_FILTERING, b"\0") != b"\0",
        default=U16.unpack(data.get(IFLA_BR_VLAN_DEFAULT_PVID, b"\0\0"))[0],
    )


def set_filtering(index: int, bridge: str) -> Request:
    """Have a bridge filter VLANs."""
    data = nested(link.IFLA_INFO_DATA, FILTERING)
    body = link.header(index)
    body += nested(link.IFLA_LINKINFO, string(link.IFLA_INFO_KIND, "bridge"), data)
    return Request(link.RTM_NEWLINK, NLM_F_ACK, body, f'switch on VLAN filtering of "{bridge}"')


def add(index: int, name: str, members: "Members", *, own: bool = False) -> Request:
    """Put a port into VLANs, or change its flags there; with `own`, the bridge itself."""
    body = _af_spec(index, members, own=own)
    return Request(link.RTM_SETLINK, NLM_F_ACK, body, f'add the VLANs of "{name}"')


def remove(index: int, name: str, vids: "Iterable[int]", *, own: bool = False) -> Request:
    """Take a port out of VLANs; with `own`, the bridge itself."""
    body = _af_spec(index, dict.fromkeys(vids, 0), own=own)
    return Request(link.RTM_DELLINK, NLM_F_ACK, body, f'remove the VLANs of "{name}"')


def members_of(socket: Socket, *indexes: int) -> "list[Members]":
    """The VLANs of some bridges and ports, by their indexes, from one dump.

    The kernel filters no dump of family AF_BRIDGE by link (valid_bridge_getlink_req), but
    gives ranges as two entries. Those of other links are not looked into.
    """
    body = link.header(family=link.AF_BRIDGE)
    body += u32(link.IFLA_EXT_MASK, RTEXT_FILTER_BRVLAN_COMPRESSED)
    found: dict[int, Members] = {index: {} for index in indexes}
    for message in socket.dump(Request(link.RTM_GETLINK, NLM_F_DUMP, body, "list VLANs")):
        index = link.index_of(message)
        if index in found:
            found[index] = _members(attributes(message, 16).get(IFLA_AF_SPEC, b""))
    return [found[index] for index in indexes]


def create(name: str, parent: int, vid: int) -> Request:
    """Make a link, up at once, for what a parent link gets with a VLAN's tag."""
    data = nested(link.IFLA_INFO_DATA, u16(IFLA_VLAN_ID, vid))
    body = link.header(flags=link.IFF_UP, change=link.IFF_UP)
    body += string(link.IFLA_IFNAME, name) + u32(IFLA_LINK, parent)
    body += nested(link.IFLA_LINKINFO, string(link.IFLA_INFO_KIND, "vlan"), data)
    flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
    return Request(link.RTM_NEWLINK, flags, body, f'create VLAN link "{name}"')


def origin_of(socket: Socket, name: str) -> tuple[int, int]:
    """The index of a VLAN link's parent, and its VLAN; zeros for links of other kinds."""
    message = socket.request(link.get(name))[0]
    data = _info_data(message)
    parent = attributes(message, 16).get(IFLA_LINK, bytes(4))
    return U32.unpack(parent)[0], U16.unpack(data.get(IFLA_VLAN_ID, b"\0\0"))[0]


def _info_data(message: bytes) -> dict[int, bytes]:
    """What is particular to the kind of a link."""
    info = attributes(attributes(message, 16).get(link.IFLA_LINKINFO, b""))
    return attributes(info.get(link.IFLA_INFO_DATA, b""))


def ranges(members: "Members") -> list[tuple[int, int, int]]:
    """First, last and flags of what adjoins and has the same flags, which are not PVID."""
    found: list[tuple[int, int, int]] = []
    for vid, flags in sorted(members.items()):
        if found and not flags & PVID and found[-1][1:] == (vid - 1, flags):
            found[-1] = (found[-1][0], vid, flags)
        else:
            found.append((vid, vid, flags))
    return found


def _af_spec(index: int, members: "Members", *, own: bool) -> bytes:
    entries = [u16(IFLA_BRIDGE_FLAGS, BRIDGE_FLAGS_SELF)] if own else []
    for first, last, flags in ranges(members):
        if first == last:
            entries.append(_entry(first, flags))
        else:
            entries += [_entry(first, flags | RANGE_BEGIN), _entry(last, flags | RANGE_END)]
    return link.header(index, family=link.AF_BRIDGE) + nested(IFLA_AF_SPEC, *entries)


def _entry(vid: int, flags: int) -> bytes:
    return attribute(IFLA_BRIDGE_VLAN_INFO, _VLAN_INFO.pack(flags, vid))


def _members(spec: bytes) -> "Members":
    """The VLANs in the IFLA_AF_SPEC of a port."""
    found: Members = {}
    first = 0
    for entry in repeated(spec, IFLA_BRIDGE_VLAN_INFO):
        flags, vid = _VLAN_INFO.unpack_from(entry)
        if flags & RANGE_BEGIN:
            first = vid
            continue
        if not flags & RANGE_END:
            first = vid
        for each in range(first, vid + 1):
            found[each] = flags & (PVID | UNTAGGED)
    return found
