"""IPsec's ESP in tunnel mode, over an XFRM interface (include/uapi/linux/xfrm.h).

An XFRM interface has a number, which security associations and policies have too, as their
`if_id`. What goes out by it is encrypted as a policy of that number says; where there is none it
is dropped (xfrmi_xmit2, net/xfrm/xfrm_interface_core.c). What associations of the number have
decrypted comes in by it. A socket here sees those of one number only, and never touches others.

Times are in whole seconds, of the kernel's own clock.
"""

from _socket import AF_INET, AF_INET6
from _struct import Struct
from errno import EEXIST, EINVAL, EOPNOTSUPP, ESRCH
from posix import urandom

from cnm_core.errors import KernelRefused
from cnm_core.inet import format_ip
from cnm_core.kernel import link
from cnm_core.kernel.link import Link
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
    string,
    u32,
)
from cnm_core.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# What ESP puts about a packet: IP, its header, the IV, the trailer without filling, and the ICV.
OVERHEAD = {4: 20 + 8 + 8 + 2 + 16, 6: 40 + 8 + 8 + 2 + 16}
ALIGNMENT = 4  # of packet and trailer
KEY_BYTES = 16 + 4  # AES-128 and the salt (RFC 4106, section 8.1)
IN, OUT = 0, 1

NETLINK_XFRM = 6
XFRM_MSG_NEWSA, XFRM_MSG_DELSA, XFRM_MSG_GETSA = 0x10, 0x11, 0x12
XFRM_MSG_DELPOLICY, XFRM_MSG_GETPOLICY = 0x14, 0x15
XFRM_MSG_UPDPOLICY, XFRM_MSG_UPDSA = 0x19, 0x1A
XFRMA_TMPL, XFRMA_ALG_AEAD, XFRMA_REPLAY_ESN_VAL, XFRMA_IF_ID = 5, 18, 23, 31
XFRM_MODE_TUNNEL, XFRM_STATE_ESN = 1, 128
IPPROTO_ESP = 50
IFLA_XFRM_IF_ID = 2

_ALGORITHM = b"rfc4106(gcm(aes))"
_ICV_BITS = 128
# Packets that may be late: as many as fit into a bitmap of that many words.
_WINDOW_WORDS = 32
_REQID = 1
_UNLIMITED = (1 << 64) - 1
_ANY = 0xFFFFFFFF  # all algorithms

_SELECTOR = Struct("@16s16sHHHHHBBB3xiI")
_ID = Struct("@16s4sB3x")  # destination, SPI, protocol
_LIFETIME = Struct("@8Q")  # bytes, packets, seconds since adding, since first use: soft and hard
_LIVED = Struct("@4Q")  # bytes, packets, when added, when used first
_ASSOCIATION = Struct("@56s24s16s64s32s12xIIHBBB7x")
_POLICY = Struct("@56s64s32sIIBBBB4x")
_TEMPLATE = Struct("@24sH2x16sIBBBxIII")
_ALGORITHM_HEAD = Struct("@64sII")
_REPLAY = Struct("@6I")
_SPI = Struct("!I")
_LIFETIME_AT = 56 + 24 + 16
_HARD_SECONDS = 5  # in a lifetime
_BATCH = 100


class Association(Record):
    """One direction between two hosts: addresses on the underlay, SPI and key; and the two
    addresses within, which no other packets may have.
    """

    source: bytes
    destination: bytes
    spi: int
    key: bytes
    inner_source: bytes
    inner_destination: bytes

    def __repr__(self) -> str:
        ends = f"{format_ip(self.source)} to {format_ip(self.destination)}"
        return f"Association({ends}, SPI {self.spi:#x})"  # a key is not for logs


class Found(Record):
    """An association that the kernel has.

    `packets` is how many it has been used for, `added` when it was made, `ends` after how many
    seconds from then it goes by itself, 0 for never; `message` the kernel's own words.
    """

    source: bytes
    destination: bytes
    spi: int
    packets: int
    added: int
    ends: int
    message: bytes


class Policy(Record):
    """What is between two addresses within goes between two hosts by ESP.

    `direction` is IN or OUT, `spi` that of the association to use, 0 for any.
    """

    direction: int
    inner_source: bytes
    inner_destination: bytes
    source: bytes
    destination: bytes
    spi: int = 0

    def __str__(self) -> str:
        into = self.direction == IN
        way = f"in from {format_ip(self.inner_source)}"
        if not into:
            way = f"out to {format_ip(self.inner_destination)}"
        other = self.source if into else self.destination
        if not other:
            return f"{way}, of another kind"
        return f"{way} at {format_ip(other)}" + (f" by SPI {self.spi:#x}" if self.spi else "")


class Xfrm:
    """Associations and policies of one number, in the namespace where this was opened."""

    def __init__(self, if_id: int) -> None:
        """Raises KernelRefused where the kernel has no IPsec."""
        self._if_id = if_id
        try:
            self._socket = Socket(NETLINK_XFRM)
        except OSError as error:
            raise KernelRefused(error.errno or 0, f"cannot open XFRM: {error.strerror}") from None

    def associations(self) -> list[Found]:
        """Those of our number."""
        request = Request(XFRM_MSG_GETSA, NLM_F_DUMP, b"", "list security associations")
        parsed = (_association(each, self._if_id) for each in self._socket.dump(request))
        return [each for each in parsed if each is not None]

    def policies(self) -> set[Policy]:
        """Those of our number. One that is not as we make them has no addresses of hosts."""
        request = Request(XFRM_MSG_GETPOLICY, NLM_F_DUMP, b"", "list IPsec policies")
        parsed = (_policy(each, self._if_id) for each in self._socket.dump(request))
        return {each for each in parsed if each is not None}

    def add(self, associations: "Iterable[Association]") -> None:
        """Make associations. KernelRefused with EEXIST where one's SPI is taken."""
        self._do([add_association(each, self._if_id) for each in associations])

    def delete(self, found: "Iterable[Found]") -> None:
        """Delete associations, those that are there still."""
        self._do([_delete_association(each) for each in found], but=ESRCH)

    def end(self, found: "Iterable[Found]", at: int) -> None:
        """Have the kernel delete associations by itself at a time."""
        self._do([_end(each, at) for each in found], but=ESRCH)

    def set_policies(self, wanted: "Iterable[Policy]", unwanted: "Iterable[Policy]" = ()) -> None:
        """Have policies, in place of others between the same addresses; and some no more."""
        self._do([set_policy(each, self._if_id) for each in wanted])
        self._do([_delete_policy(each, self._if_id) for each in unwanted], but=ESRCH)

    def clear(self) -> None:
        """Delete all associations and policies of our number."""
        self.set_policies((), self.policies())
        self.delete(self.associations())

    def try_out(self, ip: bytes) -> None:
        """Make what an address of the underlay needs, and delete it: KernelRefused if it fails.

        It would go by itself in two seconds, should this be killed.
        """
        spi = 256 + U32.unpack(urandom(4))[0] % (1 << 31)
        trial = Association(ip, ip, spi, bytes(KEY_BYTES), bytes(16), bytes(16))
        request = add_association(trial, self._if_id, seconds=2)
        try:
            self._socket.request(request)
        except KernelRefused as error:
            if error.errno != EEXIST:
                raise
            return
        self.delete([Found(ip, ip, spi, 0, 0, 0, b"")])

    def _do(self, requests: "list[Request]", but: int = 0) -> None:
        for at in range(0, len(requests), _BATCH):
            try:
                self._socket.request(*requests[at : at + _BATCH])
            except KernelRefused as error:
                if error.errno != but:
                    raise


# --- the interface


def create(name: str, mtu: int, if_id: int) -> Request:
    """Make an XFRM interface, which is down."""
    kind = string(link.IFLA_INFO_KIND, "xfrm")
    kind += nested(link.IFLA_INFO_DATA, u32(IFLA_XFRM_IF_ID, if_id))
    body = link.header() + string(link.IFLA_IFNAME, name) + u32(link.IFLA_MTU, mtu)
    body += nested(link.IFLA_LINKINFO, kind)
    flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
    return Request(link.RTM_NEWLINK, flags, body, f'create XFRM interface "{name}"')


def number_of(found: Link) -> int:
    """An XFRM interface's number, 0 for a link of another kind."""
    if found.kind != "xfrm":
        return 0
    number: int = U32.unpack(attributes(found.data).get(IFLA_XFRM_IF_ID, bytes(4)))[0]
    return number


def has_interfaces(host: Socket, name: str) -> bool:
    """Whether the kernel has XFRM interfaces; it loads the module, if need be.

    It is asked for one with an MTU that no link may have: it says so (dev_validate_mtu), or that
    it does not know the kind. An older one that does not look makes it, and it goes again.
    """
    try:
        host.request(create(name, 1, 1))
    except KernelRefused as error:
        if error.errno not in (EINVAL, EEXIST, EOPNOTSUPP):
            raise
        return error.errno != EOPNOTSUPP
    link.delete_if_present(host, name)
    return True


# --- messages


def add_association(association: Association, if_id: int, seconds: int = 0) -> Request:
    """Make an association, for some seconds or until it is deleted.

    With extended sequence numbers: it would end after 2^32 packets.
    """
    body = _ASSOCIATION.pack(
        _selector(association.inner_source, association.inner_destination),
        _id(association.destination, association.spi),
        _padded(association.source),
        _lifetime(seconds),
        bytes(_LIVED.size),
        0,
        _REQID,
        _family(association.destination),
        XFRM_MODE_TUNNEL,
        0,
        XFRM_STATE_ESN,
    )
    algorithm = _ALGORITHM_HEAD.pack(_ALGORITHM, len(association.key) * 8, _ICV_BITS)
    body += attribute(XFRMA_ALG_AEAD, algorithm + association.key)
    window = _REPLAY.pack(_WINDOW_WORDS, 0, 0, 0, 0, _WINDOW_WORDS * 32)
    body += attribute(XFRMA_REPLAY_ESN_VAL, window + bytes(_WINDOW_WORDS * 4))
    body += u32(XFRMA_IF_ID, if_id)
    return Request(XFRM_MSG_NEWSA, NLM_F_ACK, body, f"make {association!r}")


def set_policy(policy: Policy, if_id: int) -> Request:
    """Make a policy, or change the one between the same addresses."""
    body = _POLICY.pack(
        _selector(policy.inner_source, policy.inner_destination),
        _lifetime(0),
        bytes(_LIVED.size),
        *(0, 0, policy.direction, 0, 0, 0),
    )
    body += attribute(XFRMA_TMPL, _template(policy)) + u32(XFRMA_IF_ID, if_id)
    return Request(XFRM_MSG_UPDPOLICY, NLM_F_ACK, body, f"set IPsec policy {policy}")


def _template(policy: Policy) -> bytes:
    return _TEMPLATE.pack(
        _id(policy.destination, policy.spi),
        _family(policy.destination),
        _padded(policy.source),
        *(_REQID, XFRM_MODE_TUNNEL, 0, 0, _ANY, _ANY, _ANY),
    )


def _delete_policy(policy: Policy, if_id: int) -> Request:
    body = _selector(policy.inner_source, policy.inner_destination)
    body += U32.pack(0) + bytes((policy.direction, 0, 0, 0)) + u32(XFRMA_IF_ID, if_id)
    return Request(XFRM_MSG_DELPOLICY, NLM_F_ACK, body, f"delete IPsec policy {policy}")


def _delete_association(found: Found) -> Request:
    family = _family(found.destination)
    body = _padded(found.destination) + _SPI.pack(found.spi)
    body += U16.pack(family) + bytes((IPPROTO_ESP, 0))
    return Request(XFRM_MSG_DELSA, NLM_F_ACK, body, f"delete SPI {found.spi:#x}")


def _end(found: Found, at: int) -> Request:
    """What the kernel said of an association, with another end; it leaves all else as it is."""
    message = bytearray(found.message)
    lifetime = [*_LIFETIME.unpack_from(message, _LIFETIME_AT)]
    lifetime[_HARD_SECONDS] = max(at - found.added, 1)
    _LIFETIME.pack_into(message, _LIFETIME_AT, *lifetime)
    return Request(XFRM_MSG_UPDSA, NLM_F_ACK, bytes(message), f"end SPI {found.spi:#x}")


def _association(message: bytes, if_id: int) -> Found | None:
    if attributes(message, _ASSOCIATION.size).get(XFRMA_IF_ID) != U32.pack(if_id):
        return None
    _, key, source, lifetime, lived, _, _, family, _, _, _ = _ASSOCIATION.unpack_from(message)
    destination, spi, _ = _ID.unpack(key)
    _, packets, added, _ = _LIVED.unpack(lived)
    return Found(
        _unpadded(source, family),
        _unpadded(destination, family),
        _SPI.unpack(spi)[0],
        packets,
        added,
        _LIFETIME.unpack(lifetime)[_HARD_SECONDS],
        message,
    )


def _policy(message: bytes, if_id: int) -> Policy | None:
    values = attributes(message, _POLICY.size)
    if values.get(XFRMA_IF_ID) != U32.pack(if_id):
        return None
    selector, _, _, _, _, direction, action, *_ = _POLICY.unpack_from(message)
    inner_destination, inner_source, *_ = _SELECTOR.unpack(selector)
    other = Policy(direction, inner_source, inner_destination, b"", b"")
    template = values.get(XFRMA_TMPL, b"")
    if len(template) != _TEMPLATE.size:
        return other
    key, family, source, *_ = _TEMPLATE.unpack(template)
    destination, spi, _ = _ID.unpack(key)
    found = other.replace(
        source=_unpadded(source, family),
        destination=_unpadded(destination, family),
        spi=_SPI.unpack(spi)[0],
    )
    same = action == 0 and template == _template(found)
    return found if same and selector == _selector(inner_source, inner_destination) else other


def _selector(source: bytes, destination: bytes) -> bytes:
    """One IPv6 address to another; all zeros mean any."""
    prefix = 128 if any(source) else 0
    return _SELECTOR.pack(destination, source, 0, 0, 0, 0, AF_INET6, prefix, prefix, 0, 0, 0)


def _id(destination: bytes, spi: int) -> bytes:
    return _ID.pack(_padded(destination), _SPI.pack(spi), IPPROTO_ESP)


def _lifetime(seconds: int) -> bytes:
    return _LIFETIME.pack(*(_UNLIMITED,) * 4, 0, seconds, 0, 0)


def _family(ip: bytes) -> int:
    return AF_INET if len(ip) == 4 else AF_INET6


def _padded(ip: bytes) -> bytes:
    return ip.ljust(16, b"\0")


def _unpadded(ip: bytes, family: int) -> bytes:
    return ip[:4] if family == AF_INET else ip
