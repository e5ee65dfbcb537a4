"""Expressions of nf_tables rules, and the values that they and the elements of sets have.

Numbers are from include/uapi/linux/netfilter/{nf_tables,nf_nat}.h, those of data types from
nft's include/datatype.h, those of userdata from libnftnl's include/libnftnl/udata.h. Numbers in
attributes are big-endian. Attributes come in ascending order and without NLA_F_NESTED, as the
kernel dumps them: what is read back compares with what was sent.

A rule is a list of expressions that pass values on in registers: 64 bytes in 16 slots of 4.
Register 1 begins at slot 0, and 9, 10, … at slots 1, 2, …, as `nft --debug=netlink` has them.
"""

from _struct import Struct

from cnm_core.kernel.netlink import (
    U16,
    U32,
    attribute,
    attributes,
    nested,
    string,
    text_of,
)

NFTA_LIST_ELEM = 1
NFTA_EXPR_NAME, NFTA_EXPR_DATA = 1, 2
NFTA_DATA_VALUE, NFTA_DATA_VERDICT = 1, 2
NFTA_VERDICT_CODE, NFTA_VERDICT_CHAIN = 1, 2
NFTA_BITWISE_OP = 6
NFT_DATA_VERDICT = 0xFFFFFF00
NFT_FIB_RESULT_OIF, NFT_FIB_RESULT_ADDRTYPE = 1, 3
NFTA_FIB_F_SADDR, NFTA_FIB_F_DADDR, NFTA_FIB_F_IIF = 0x1, 0x2, 0x8
NF_NAT_RANGE_MAP_IPS, NF_NAT_RANGE_PROTO_SPECIFIED = 0x1, 0x2
UDATA_SET_KEYBYTEORDER, UDATA_SET_DATABYTEORDER = 0, 1
UDATA_COMMENT, UDATA_SET_ELEM_FLAGS, SET_ELEM_F_INTERVAL_OPEN = 0, 1, 1
# In bytes; nft refuses longer ones where it reads its own listing (NFTNL_UDATA_COMMENT_MAXLEN).
COMMENT_MAXLEN = 128

FAMILIES = {"ip": 2, "ip6": 10, "bridge": 7}

# Registers: that of the verdict, and the first for values; `registers` has the others.
VERDICT, REG = 0, 1
# Flags of masquerade and nat.
RANDOM, PERSISTENT, FULLY_RANDOM = 0x4, 0x8, 0x10
# Bits of `ct state` and of `ct status` (include/uapi/linux/netfilter/nf_conntrack_common.h).
INVALID, ESTABLISHED, RELATED, NEW = 0x1, 0x2, 0x4, 0x8
DNATTED = 0x20
# Values of `meta l4proto`, of `fib daddr type` (RTN_LOCAL) and of `meta iiftype` (ARPHRD_ETHER).
TCP, UDP, SCTP = b"\x06", b"\x11", b"\x84"
LOCAL, ETHER = U32.pack(2), U16.pack(1)

_VERDICTS = {"drop": 0, "accept": 1, "continue": -1, "jump": -3, "goto": -4, "return": -5}
# Data types: number, length in bytes, byte order (1 the host's, 2 big-endian, 0 neither).
_TYPES = {
    "ipv4_addr": (7, 4, 2),
    "ipv6_addr": (8, 16, 2),
    "ether_addr": (9, 6, 2),
    "inet_proto": (12, 1, 0),
    "inet_service": (13, 2, 2),
    "mark": (19, 4, 1),
    "ifname": (41, 16, 1),
}
_META = {"mark": 3, "iifname": 6, "oifname": 7, "iiftype": 8, "nfproto": 15, "l4proto": 16}
_CT = {"state": 0, "status": 2, "mark": 3}
# Fields of packets: header (0 link layer, 1 network, 2 transport), offset, length.
_PAYLOAD = {
    "ether daddr": (0, 0, 6),
    "ether saddr": (0, 6, 6),
    "ip saddr": (1, 12, 4),
    "ip daddr": (1, 16, 4),
    "ip6 saddr": (1, 8, 16),
    "ip6 daddr": (1, 24, 16),
    "th sport": (2, 0, 2),
    "th dport": (2, 2, 2),
    # Behind UDP's 8 bytes: a reserved byte, and the VNI (RFC 7348, section 5).
    "vxlan vni": (2, 11, 4),
}
_ATTRIBUTE = Struct("=HH")
_BE16, _BE32 = Struct(">H"), Struct(">I")


def expression(name: str, *data: bytes) -> bytes:
    """An expression of that name, as an entry of a rule's list."""
    return nested(NFTA_LIST_ELEM, string(NFTA_EXPR_NAME, name), nested(NFTA_EXPR_DATA, *data))


def meta(key: str, reg: int = REG) -> bytes:
    """Load "iifname", "oifname" (16 bytes), "l4proto", "nfproto" (1), "mark" or "iiftype"."""
    return expression("meta", be32(1, reg), be32(2, _META[key]))


def ct(key: str, reg: int = REG) -> bytes:
    """Load "state", "status" or "mark" of the packet's connection, each 4 bytes in host order."""
    return expression("ct", be32(1, reg), be32(2, _CT[key]))


def payload(field: str, reg: int = REG) -> bytes:
    """Load a field of the packet, such as "ip saddr", "ip6 daddr", "th dport", "ether saddr".

    Where a packet has no such header, the rule ends. nft needs `meta("iiftype")` compared
    with ETHER before it calls "ether saddr" by that name in ip and ip6.
    """
    header, offset, length = _PAYLOAD[field]
    where = be32(2, header), be32(3, offset), be32(4, length)
    return expression("payload", be32(1, reg), *where)


def fib_daddr_type(reg: int = REG) -> bytes:
    """Load what the routes take the destination for, 4 bytes: LOCAL is the host's own."""
    return _fib(NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_F_DADDR, reg)


def fib_daddr_type_here(reg: int = REG) -> bytes:
    """Load the same, where LOCAL is an address of the link that the packet came by."""
    return _fib(NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_F_DADDR | NFTA_FIB_F_IIF, reg)


def fib_way_back(reg: int = REG) -> bytes:
    """Load the index of the link that the packet came by, if a route to its source leaves there.

    4 bytes; zeroes where none does.
    """
    return _fib(NFT_FIB_RESULT_OIF, NFTA_FIB_F_SADDR | NFTA_FIB_F_IIF, reg)


def _fib(result: int, flags: int, reg: int) -> bytes:
    return expression("fib", be32(1, reg), be32(2, result), be32(3, flags))


def cmp(value: bytes, reg: int = REG, *, equal: bool = True) -> bytes:
    """Go on only if a register equals the value, or differs from it."""
    return expression("cmp", be32(1, reg), be32(2, not equal), nested(3, value_data(value)))


def bitwise(mask: bytes, reg: int = REG) -> bytes:
    """Clear those bits of a register that the mask does not have."""
    data = nested(4, value_data(mask)), nested(5, value_data(bytes(len(mask))))
    return expression("bitwise", be32(1, reg), be32(2, reg), be32(3, len(mask)), *data)


def to_host_order(reg: int = REG) -> bytes:
    """Turn the 4 big-endian bytes of a register into the host's order."""
    return expression("byteorder", be32(1, reg), be32(2, reg), be32(3, 0), be32(4, 4), be32(5, 4))


def any_of(bits: int, reg: int = REG) -> bytes:
    """Go on only if a register with a state, a status or a mark has one of the bits."""
    return bitwise(U32.pack(bits), reg) + cmp(bytes(4), reg, equal=False)


def lookup(name: str, reg: int = REG, *, into: int | None = None, inverted: bool = False) -> bytes:
    """Go on only if a set or map has the key that begins in a register, or has it not.

    `into` is the register that a map's value goes into, VERDICT for a verdict map's.
    """
    value = b"" if into is None else be32(3, into)
    return expression("lookup", string(1, name), be32(2, reg), value, be32(5, inverted))


def immediate(value: bytes, reg: int = REG) -> bytes:
    """Load a value."""
    return expression("immediate", be32(1, reg), nested(2, value_data(value)))


def verdict(text: str) -> bytes:
    """End with "accept", "drop" or "return", or go on with "jump CHAIN" or "goto CHAIN"."""
    return expression("immediate", be32(1, VERDICT), nested(2, verdict_data(text)))


def counter() -> bytes:
    """Count the packets and bytes that come here."""
    return expression("counter")


def masquerade(flags: int = 0) -> bytes:
    """Give the connection the address of the link that it leaves by; flags are RANDOM, …"""
    return expression("masq", be32(1, flags) if flags else b"")


def dnat(family: str, address: int = REG, port: int = 0, *, flags: int = 0) -> bytes:
    """Have the connection go to the address, and the port, in registers; flags are RANDOM, …"""
    return _nat(1, family, address, port, flags)


def snat(family: str, address: int = REG, port: int = 0, *, flags: int = 0) -> bytes:
    """Have the connection come from the address, and the port, in registers."""
    return _nat(0, family, address, port, flags)


def _nat(kind: int, family: str, address: int, port: int, flags: int) -> bytes:
    data = [be32(1, kind), be32(2, FAMILIES[family]), be32(3, address), be32(4, address)]
    flags |= NF_NAT_RANGE_MAP_IPS
    if port:
        data += [be32(5, port), be32(6, port)]
        flags |= NF_NAT_RANGE_PROTO_SPECIFIED
    return expression("nat", *data, be32(7, flags))


def as_sent(dumped: bytes) -> bytes:
    """A dumped expression as it is encoded here, without what the kernel adds to it."""
    found = attributes(dumped)
    name = text_of(found[NFTA_EXPR_NAME])
    data = attributes(found.get(NFTA_EXPR_DATA, b""))
    if name == "counter":
        data = {}  # what it has counted
    elif name == "bitwise":
        data.pop(NFTA_BITWISE_OP, None)  # since Linux 5.6; shifts have other attributes too
    return expression(name, *(attribute(kind, data[kind]) for kind in sorted(data)))


# --- values: single ones, and concatenations, whose fields fill whole slots


def type_of(types: str) -> tuple[int, int, int]:
    """Number, length and byte order; a concatenation's number has 6 bits for each field's."""
    names = types.split(" . ")
    if len(names) == 1:
        return _TYPES[types]
    number = length = 0
    for name in names:
        number = number << 6 | _TYPES[name][0]
        length += _padded(_TYPES[name][1])
    return number, length, 0


def _padded(length: int) -> int:
    return length + (-length % 4)


def registers(types: str) -> tuple[int, ...]:
    """The register of each field of a concatenation, such as "inet_proto . inet_service"."""
    found = []
    slot = 0
    for name in types.split(" . "):
        found.append(8 + slot if slot % 4 else 1 + slot // 4)
        slot += _padded(_TYPES[name][1]) // 4
    return tuple(found)


def concatenate(*fields: bytes) -> bytes:
    """The value that is made of fields; of a single one, itself."""
    if len(fields) == 1:
        return fields[0]
    return b"".join(field.ljust(_padded(len(field)), b"\0") for field in fields)


def fields(value: bytes, types: str) -> list[bytes]:
    """The fields that a value is made of."""
    found = []
    at = 0
    for name in types.split(" . "):
        length = _TYPES[name][1]
        found.append(value[at : at + length])
        at += _padded(length)
    return found


def ifname(name: str) -> bytes:
    """The name of a link as a value."""
    return name.encode().ljust(16, b"\0")


def service(port: int) -> bytes:
    """A port as a value."""
    return _BE16.pack(port)


def mark(number: int) -> bytes:
    """A mark as a value."""
    return U32.pack(number)


# --- attributes


def be32(kind: int, value: int) -> bytes:
    """A 32-bit attribute, big-endian as nf_tables has them."""
    return attribute(kind, _BE32.pack(value & 0xFFFFFFFF))


def value_data(value: bytes) -> bytes:
    """A value as the data of an expression or an element."""
    return attribute(NFTA_DATA_VALUE, value)


def verdict_data(text: str) -> bytes:
    """A verdict in nft's words, such as "goto CHAIN", as such data."""
    word, _, chain = text.partition(" ")
    code = be32(NFTA_VERDICT_CODE, _VERDICTS[word])
    return nested(NFTA_DATA_VERDICT, code, string(NFTA_VERDICT_CHAIN, chain) if chain else b"")


def verdict_in(payload: bytes) -> str:
    """The words of a verdict that the kernel tells of."""
    found = attributes(payload)
    code = _BE32.unpack(found[NFTA_VERDICT_CODE])[0]
    words = [word for word, number in _VERDICTS.items() if number & 0xFFFFFFFF == code]
    if NFTA_VERDICT_CHAIN in found:
        words.append(text_of(found[NFTA_VERDICT_CHAIN]))
    return " ".join(words)


def list_in(payload: bytes) -> list[bytes]:
    """The payloads of the attributes of a list."""
    found = []
    at = 0
    while at + 4 <= len(payload):
        length = max(4, _ATTRIBUTE.unpack_from(payload, at)[0])
        found.append(payload[at + 4 : at + length])
        at += length + (-length % 4)
    return found


def userdata(kind: int, value: bytes) -> bytes:
    """A piece of what the kernel keeps for nft: at most 255 bytes."""
    return bytes((kind, len(value))) + value


def comment(text: str) -> str:
    """A comment that nft can list and read back: no double quotes, at most 128 bytes."""
    data = text.replace('"', "'").encode()[:COMMENT_MAXLEN]
    return data.decode("utf-8", "ignore")


def comment_data(text: str) -> bytes:
    """A comment as userdata. nft shows it in quotes as it is: it should have none itself."""
    value = text.encode()
    if len(value) > COMMENT_MAXLEN:
        raise ValueError(f'a comment has at most {COMMENT_MAXLEN} bytes, not "{text}"')
    return userdata(UDATA_COMMENT, value + b"\0") if text else b""


def comment_in(userdata: bytes) -> str:
    """The comment in userdata, "" for none."""
    at = 0
    while at + 2 <= len(userdata):
        end = at + 2 + userdata[at + 1]
        if userdata[at] == UDATA_COMMENT:
            return text_of(userdata[at + 2 : end])
        at = end
    return ""
