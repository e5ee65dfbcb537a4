"""WireGuard devices, by generic netlink (include/uapi/linux/wireguard.h).

A device has one private key and a UDP port; a peer is known by its public key, and has
the packets to and from one address of ours. What comes from a peer under another address
is dropped, and so is what goes to an address that no peer has.
"""

from _socket import AF_INET, AF_INET6
from _struct import Struct
from errno import ENODEV, EOPNOTSUPP

from cnm_core.errors import KernelRefused
from cnm_core.inet import format_ip
from cnm_core.kernel import link
from cnm_core.kernel.netlink import (
    NLA_F_NESTED,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    U16,
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
    from collections.abc import Collection, Iterable

# What WireGuard puts before and after a packet: IP, UDP, its header, and the ICV.
OVERHEAD = {4: 20 + 8 + 16 + 16, 6: 40 + 8 + 16 + 16}

NETLINK_GENERIC, GENL_ID_CTRL = 16, 16
CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME = 3, 1, 2
WG_CMD_GET_DEVICE, WG_CMD_SET_DEVICE = 0, 1
WGDEVICE_A_IFNAME, WGDEVICE_A_PRIVATE_KEY, WGDEVICE_A_PUBLIC_KEY = 2, 3, 4
WGDEVICE_A_LISTEN_PORT, WGDEVICE_A_PEERS = 6, 8
WGPEER_A_PUBLIC_KEY, WGPEER_A_FLAGS, WGPEER_A_ENDPOINT = 1, 3, 4
WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL, WGPEER_A_ALLOWEDIPS = 5, 9
WGPEER_F_REMOVE_ME, WGPEER_F_REPLACE_ALLOWEDIPS, WGPEER_F_UPDATE_ONLY = 1, 2, 4
WGALLOWEDIP_A_FAMILY, WGALLOWEDIP_A_IPADDR, WGALLOWEDIP_A_CIDR_MASK = 1, 2, 3

_GENLMSG = Struct("=BBxx")
_PORT = Struct("!H")
# A message stays below 64 KiB, which the length of its one attribute can say.
_BATCH = 200


class Peer(Record):
    """A peer: its public key, where it is on the underlay, and its address in the tunnel."""

    key: bytes
    endpoint: bytes
    port: int
    ip: bytes

    def __str__(self) -> str:
        return f"{format_ip(self.ip)} at {format_ip(self.endpoint)} port {self.port}"


class Device(Record):
    """What a device has."""

    private_key: bytes
    public_key: bytes
    port: int
    peers: tuple[Peer, ...]

    def __repr__(self) -> str:
        return f"Device(port={self.port}, peers={self.peers})"  # a private key is not for logs


class Wireguard:
    """The kernel's WireGuard in the namespace where this was opened."""

    def __init__(self) -> None:
        """Raises KernelRefused with ENOENT where the kernel has none.

        To ask for it has the kernel load the module (ctrl_getfamily, net/netlink/genetlink.c).
        """
        self._socket = Socket(NETLINK_GENERIC)
        body = _GENLMSG.pack(CTRL_CMD_GETFAMILY, 1) + string(CTRL_ATTR_FAMILY_NAME, "wireguard")
        request = Request(GENL_ID_CTRL, NLM_F_ACK, body, "find WireGuard in the kernel")
        answer = attributes(self._socket.request(request)[0], _GENLMSG.size)
        self._family: int = U16.unpack(answer[CTRL_ATTR_FAMILY_ID])[0]

    def device_of(self, name: str) -> Device | None:
        """The device of that name; None where there is none, or a link of another kind."""
        body = _GENLMSG.pack(WG_CMD_GET_DEVICE, 1) + string(WGDEVICE_A_IFNAME, name)
        what = f'read WireGuard device "{name}"'
        try:
            messages = self._socket.dump(Request(self._family, NLM_F_DUMP, body, what))
        except KernelRefused as error:
            if error.errno in (ENODEV, EOPNOTSUPP):
                return None
            raise
        return _parse(messages)

    def set_key(self, name: str, private_key: bytes, port: int) -> None:
        """Give a device its private key and port; its peers' sessions begin anew."""
        self._socket.request(key_request(self._family, name, private_key, port))

    def set_peers(
        self, name: str, wanted: "Collection[Peer]", unwanted: "Iterable[bytes]" = ()
    ) -> None:
        """Have peers, and none any more of some keys.

        A device that is up turns to each at once, rather than with the first packet: the
        other side may have begun in vain, and would wait some seconds (REKEY_TIMEOUT).
        """
        for request in peer_requests(self._family, name, wanted, unwanted):
            self._socket.request(request)


def key_request(family: int, name: str, private_key: bytes, port: int) -> Request:
    """Set a device's private key and port."""
    values = attribute(WGDEVICE_A_PRIVATE_KEY, private_key) + u16(WGDEVICE_A_LISTEN_PORT, port)
    return _set(family, name, values, f'set key and port {port} of WireGuard device "{name}"')


def peer_requests(
    family: int, name: str, wanted: "Collection[Peer]", unwanted: "Iterable[bytes]"
) -> list[Request]:
    """Remove the peers of some keys, and have others, in batches.

    Each wanted one comes twice: with an interval for keepalives, which has the device send
    one at once (set_peer, drivers/net/wireguard/netlink.c), and then without.
    """
    changes = [_removed(key) for key in unwanted]
    changes += [step for peer in wanted for step in (_added(peer), _left_alone(peer))]
    return [
        _set(
            family,
            name,
            nested(WGDEVICE_A_PEERS | NLA_F_NESTED, *changes[at : at + _BATCH]),
            f'set the peers of WireGuard device "{name}"',
        )
        for at in range(0, len(changes), _BATCH)
    ]


def create(name: str, mtu: int) -> Request:
    """Make a device, which is down and has no key."""
    body = link.header() + string(link.IFLA_IFNAME, name) + u32(link.IFLA_MTU, mtu)
    body += nested(link.IFLA_LINKINFO, string(link.IFLA_INFO_KIND, "wireguard"))
    flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
    return Request(link.RTM_NEWLINK, flags, body, f'create WireGuard device "{name}"')


def _set(family: int, name: str, values: bytes, what: str) -> Request:
    body = _GENLMSG.pack(WG_CMD_SET_DEVICE, 1) + string(WGDEVICE_A_IFNAME, name) + values
    return Request(family, NLM_F_ACK, body, what)


def _added(peer: Peer) -> bytes:
    family = AF_INET if len(peer.ip) == 4 else AF_INET6
    allowed = u16(WGALLOWEDIP_A_FAMILY, family) + attribute(WGALLOWEDIP_A_IPADDR, peer.ip)
    allowed += u8(WGALLOWEDIP_A_CIDR_MASK, len(peer.ip) * 8)
    return nested(
        NLA_F_NESTED,
        attribute(WGPEER_A_PUBLIC_KEY, peer.key),
        u32(WGPEER_A_FLAGS, WGPEER_F_REPLACE_ALLOWEDIPS),
        attribute(WGPEER_A_ENDPOINT, _sockaddr(peer.endpoint, peer.port)),
        u16(WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL, 1),
        nested(WGPEER_A_ALLOWEDIPS | NLA_F_NESTED, nested(NLA_F_NESTED, allowed)),
    )


def _left_alone(peer: Peer) -> bytes:
    return nested(
        NLA_F_NESTED,
        attribute(WGPEER_A_PUBLIC_KEY, peer.key),
        u32(WGPEER_A_FLAGS, WGPEER_F_UPDATE_ONLY),
        u16(WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL, 0),
    )


def _removed(key: bytes) -> bytes:
    return nested(
        NLA_F_NESTED,
        attribute(WGPEER_A_PUBLIC_KEY, key),
        u32(WGPEER_A_FLAGS, WGPEER_F_REMOVE_ME),
    )


def _sockaddr(ip: bytes, port: int) -> bytes:
    """struct sockaddr_in, or struct sockaddr_in6 without flow and scope."""
    if len(ip) == 4:
        return U16.pack(AF_INET) + _PORT.pack(port) + ip + bytes(8)
    return U16.pack(AF_INET6) + _PORT.pack(port) + bytes(4) + ip + bytes(4)


def _parse(messages: list[bytes]) -> Device:
    """Peers that one message has no room for are in further ones, which have nothing else."""
    first = attributes(messages[0], _GENLMSG.size)
    peers: list[Peer] = []
    for message in messages:
        listed = attributes(message, _GENLMSG.size).get(WGDEVICE_A_PEERS, b"")
        peers += map(_peer, repeated(listed, 0))
    return Device(
        first.get(WGDEVICE_A_PRIVATE_KEY, b""),
        first.get(WGDEVICE_A_PUBLIC_KEY, b""),
        U16.unpack(first[WGDEVICE_A_LISTEN_PORT])[0],
        tuple(peers),
    )


def _peer(data: bytes) -> Peer:
    values = attributes(data)
    endpoint = values.get(WGPEER_A_ENDPOINT, bytes(16))
    allowed = attributes(attributes(values.get(WGPEER_A_ALLOWEDIPS, b"")).get(0, b""))
    return Peer(
        key=values[WGPEER_A_PUBLIC_KEY],
        endpoint=endpoint[4:8] if len(endpoint) == 16 else endpoint[8:24],
        port=_PORT.unpack_from(endpoint, 2)[0],
        ip=allowed.get(WGALLOWEDIP_A_IPADDR, b""),
    )
