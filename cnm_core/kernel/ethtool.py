"""What a link leaves to hardware, by generic netlink (linux/ethtool_netlink.h, Linux 5.7)."""

from _struct import Struct
from errno import ENOENT

from cnm_core.errors import KernelRefused
from cnm_core.kernel.netlink import (
    NLA_F_NESTED,
    NLM_F_ACK,
    U16,
    Request,
    Socket,
    attribute,
    attributes,
    repeated,
    string,
    text_of,
)

NETLINK_GENERIC, GENL_ID_CTRL = 16, 16
CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME = 3, 1, 2
ETHTOOL_MSG_FEATURES_GET, ETHTOOL_MSG_FEATURES_SET = 11, 12
ETHTOOL_A_FEATURES_HEADER, ETHTOOL_A_FEATURES_WANTED, ETHTOOL_A_FEATURES_ACTIVE = 1, 3, 4
ETHTOOL_A_HEADER_DEV_NAME = 2
ETHTOOL_A_BITSET_BITS, ETHTOOL_A_BITSET_BITS_BIT, ETHTOOL_A_BITSET_BIT_NAME = 3, 1, 2
# NETIF_F_HW_CSUM, as ethtool names it (net/ethtool/common.c).
_CHECKSUM = "tx-checksum-ip-generic"
_GENLMSG = Struct("=BBxx")


def leaves_checksums(name: str) -> bool:
    """Whether a link leaves it to what is below it to compute checksums of what it sends."""
    socket = Socket(NETLINK_GENERIC)
    header = _nested(ETHTOOL_A_FEATURES_HEADER, string(ETHTOOL_A_HEADER_DEV_NAME, name))
    answer = _request(socket, ETHTOOL_MSG_FEATURES_GET, header, f'list the features of "{name}"')
    active = attributes(answer, _GENLMSG.size).get(ETHTOOL_A_FEATURES_ACTIVE, b"")
    bits = repeated(attributes(active).get(ETHTOOL_A_BITSET_BITS, b""), ETHTOOL_A_BITSET_BITS_BIT)
    return any(text_of(attributes(bit)[ETHTOOL_A_BITSET_BIT_NAME]) == _CHECKSUM for bit in bits)


def keep_checksums(name: str) -> None:
    """Have the kernel compute them before a link sends. Raises KernelRefused."""
    socket = Socket(NETLINK_GENERIC)
    header = _nested(ETHTOOL_A_FEATURES_HEADER, string(ETHTOOL_A_HEADER_DEV_NAME, name))
    # A bit without a value is cleared; bits that are not named stay.
    bit = _nested(ETHTOOL_A_BITSET_BITS_BIT, string(ETHTOOL_A_BITSET_BIT_NAME, _CHECKSUM))
    wanted = _nested(ETHTOOL_A_FEATURES_WANTED, _nested(ETHTOOL_A_BITSET_BITS, bit))
    _request(socket, ETHTOOL_MSG_FEATURES_SET, header + wanted, f'set the features of "{name}"')


def _request(socket: Socket, command: int, body: bytes, what: str) -> bytes:
    request = Request(_family(socket), NLM_F_ACK, _GENLMSG.pack(command, 1) + body, what)
    return socket.request(request)[0]


def _family(socket: Socket) -> int:
    body = _GENLMSG.pack(CTRL_CMD_GETFAMILY, 1) + string(CTRL_ATTR_FAMILY_NAME, "ethtool")
    try:
        answer = socket.request(Request(GENL_ID_CTRL, NLM_F_ACK, body, "find ethtool's netlink"))
    except KernelRefused as error:
        if error.errno != ENOENT:
            raise
        raise KernelRefused(
            error.errno,
            "the kernel has no ethtool by netlink",
            details="it needs Linux 5.7 with CONFIG_ETHTOOL_NETLINK",
        ) from None
    family: int = U16.unpack(attributes(answer[0], _GENLMSG.size)[CTRL_ATTR_FAMILY_ID])[0]
    return family


def _nested(kind: int, *parts: bytes) -> bytes:
    """With the flag, on which generic netlink insists (NL_VALIDATE_NESTED)."""
    return attribute(kind | NLA_F_NESTED, b"".join(parts))
