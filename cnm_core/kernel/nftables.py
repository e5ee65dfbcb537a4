"""nf_tables: tables, chains, rules, sets and maps, changed in transactions.

Numbers are from include/uapi/linux/netfilter/{nf_tables,nfnetlink,nf_nat}.h, those of data
types from nft's include/datatype.h, those of userdata from libnftnl's include/libnftnl/udata.h.
Numbers in attributes are big-endian. Attributes come in ascending order and without
NLA_F_NESTED, as the kernel dumps them: what is read back compares with what was sent.

A rule is a list of expressions that pass values on in registers: 64 bytes in 16 slots of 4.
Register 1 begins at slot 0, and 9, 10, … at slots 1, 2, …, as `nft --debug=netlink` has them.
"""

from _socket import SOL_SOCKET
from _struct import Struct
from errno import EIO, ENOBUFS, ENOENT, EOPNOTSUPP, EPERM
from posix import strerror

from cnm_core.errors import KernelRefused
from cnm_core.kernel.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLMSG_ERROR,
    U16,
    U32,
    Request,
    Socket,
    _refused,
    attribute,
    attributes,
    encode,
    nested,
    string,
    text_of,
)
from cnm_core.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

NETLINK_NETFILTER = 12
NFNL_SUBSYS_NFTABLES, NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END = 10, 0x10, 0x11
NLM_F_APPEND = 0x800
SO_SNDBUFFORCE = 32

NFT_MSG_NEWTABLE, NFT_MSG_GETTABLE, NFT_MSG_DELTABLE = 0, 1, 2
NFT_MSG_NEWCHAIN, NFT_MSG_GETCHAIN, NFT_MSG_DELCHAIN = 3, 4, 5
NFT_MSG_NEWRULE, NFT_MSG_GETRULE, NFT_MSG_DELRULE = 6, 7, 8
NFT_MSG_NEWSET, NFT_MSG_DELSET = 9, 11
NFT_MSG_NEWSETELEM, NFT_MSG_GETSETELEM, NFT_MSG_DELSETELEM = 12, 13, 14
NFT_MSG_GETGEN, NFTA_GEN_ID = 16, 1
# NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE, NFTA_SET_TABLE, NFTA_SET_ELEM_LIST_TABLE
NFTA_TABLE = 1
NFTA_CHAIN_NAME, NFTA_CHAIN_HOOK, NFTA_CHAIN_POLICY, NFTA_CHAIN_TYPE = 3, 4, 5, 7
NFTA_HOOK_HOOKNUM, NFTA_HOOK_PRIORITY = 1, 2
NFTA_RULE_CHAIN, NFTA_RULE_HANDLE, NFTA_RULE_EXPRESSIONS, NFTA_RULE_USERDATA = 2, 3, 4, 7
NFTA_SET_NAME, NFTA_SET_FLAGS, NFTA_SET_ID, NFTA_SET_USERDATA = 2, 3, 10, 13
NFTA_SET_KEY_TYPE, NFTA_SET_KEY_LEN, NFTA_SET_DATA_TYPE, NFTA_SET_DATA_LEN = 4, 5, 6, 7
NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_ELEMENTS = 2, 3
NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_DATA, NFTA_SET_ELEM_FLAGS, NFTA_SET_ELEM_USERDATA = 1, 2, 3, 6
NFTA_LIST_ELEM = 1
NFTA_EXPR_NAME, NFTA_EXPR_DATA = 1, 2
NFTA_DATA_VALUE, NFTA_DATA_VERDICT = 1, 2
NFTA_VERDICT_CODE, NFTA_VERDICT_CHAIN = 1, 2
NFTA_BITWISE_OP = 6
NFT_SET_INTERVAL, NFT_SET_MAP, NFT_SET_ELEM_INTERVAL_END = 0x4, 0x8, 0x1
NFT_DATA_VERDICT = 0xFFFFFF00
NFT_FIB_RESULT_ADDRTYPE, NFTA_FIB_F_DADDR = 3, 0x2
NF_NAT_RANGE_MAP_IPS, NF_NAT_RANGE_PROTO_SPECIFIED = 0x1, 0x2
UDATA_SET_KEYBYTEORDER, UDATA_SET_DATABYTEORDER = 0, 1
UDATA_COMMENT, UDATA_SET_ELEM_FLAGS, SET_ELEM_F_INTERVAL_OPEN = 0, 1, 1
# In bytes; nft refuses longer ones where it reads its own listing (NFTNL_UDATA_COMMENT_MAXLEN).
COMMENT_MAXLEN = 128

# Registers: that of the verdict, and the first for values; `registers` has the others.
VERDICT, REG = 0, 1
# Priorities of base chains in ip and ip6 (include/uapi/linux/netfilter_ipv4.h).
RAW, MANGLE, DSTNAT, FILTER, SRCNAT = -300, -150, -100, 0, 100
# Flags of masquerade and nat.
RANDOM, PERSISTENT, FULLY_RANDOM = 0x4, 0x8, 0x10
# Bits of `ct state` and of `ct status` (include/uapi/linux/netfilter/nf_conntrack_common.h).
INVALID, ESTABLISHED, RELATED, NEW = 0x1, 0x2, 0x4, 0x8
SNATTED, DNATTED = 0x10, 0x20
# Values of `meta l4proto`, of `fib daddr type` (RTN_LOCAL) and of `meta iiftype` (ARPHRD_ETHER).
TCP, UDP, SCTP = b"\x06", b"\x11", b"\x84"
LOCAL, ETHER = U32.pack(2), U16.pack(1)

_FAMILIES = {"ip": 2, "ip6": 10, "bridge": 7}
_HOOKS = ("prerouting", "input", "forward", "output", "postrouting")
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
}
_NFGENMSG = Struct(">BBH")
_BE16, _BE32, _BE64 = Struct(">H"), Struct(">I"), Struct(">Q")
_ATTRIBUTE, _I32 = Struct("=HH"), Struct("=i")
# Batches beyond this many bytes get a larger send buffer; the usual one has some 200 KiB.
_LARGE = 1 << 17


class Element(Record):
    """An element of a set or map.

    `data` is b"" in a set, the bytes of the value in a map, and in a verdict map a verdict
    in nft's words, such as "accept" or "jump isolation". `last` is for interval sets: the
    element stands for the keys from `key` to `last`, both included.
    """

    key: bytes
    data: bytes | str = b""
    comment: str = ""
    last: bytes = b""


class Rule(Record):
    """A rule of a chain. `expressions` are what `add_rule` was given, joined."""

    handle: int
    comment: str
    expressions: bytes


# --- asking the kernel


def open_socket() -> Socket:
    """A socket for all that is here, in the namespace where it was opened. KernelRefused."""
    try:
        return Socket(NETLINK_NETFILTER)
    except OSError as error:
        raise _unavailable(error.errno or EIO) from None


def probe(socket: Socket) -> None:
    """Raise KernelRefused unless the kernel has nf_tables and lets us change it."""
    try:
        _generation(socket)
    except KernelRefused as error:
        raise _unavailable(error.errno) from None


def available() -> bool:
    """Whether the kernel has nf_tables. Raises KernelRefused where we may not use it."""
    try:
        probe(open_socket())
    except KernelRefused as error:
        if error.errno == EOPNOTSUPP:
            return False
        raise
    return True


def _unavailable(errno: int) -> KernelRefused:
    """Why there is no nf_tables. EINVAL is nfnetlink's answer for a subsystem that it lacks."""
    if errno == EPERM:
        return KernelRefused(
            errno,
            "nftables: the kernel does not permit it",
            details="CAP_NET_ADMIN is needed, in the user namespace that owns the network's",
        )
    return KernelRefused(
        EOPNOTSUPP,
        f"nftables: the kernel does not have it ({strerror(errno)})",
        details="it needs nf_tables: CONFIG_NF_TABLES, or its module (modprobe nf_tables)",
    )


def commit(socket: Socket, requests: "Sequence[Request]") -> None:
    """Have all requests take effect at once, or none of them.

    Raises KernelRefused for the first request that failed. The kernel goes on after it
    (nfnetlink_rcv_batch), then answers each that failed, in order, and the last, which alone
    asks for an answer. What stopped the batch as a whole is an answer to its beginning.
    """
    if not requests:
        return
    last = requests[-1]
    batch = [_BEGIN, *requests[:-1], last.replace(flags=last.flags | NLM_F_ACK), _END]
    first = socket._sequence + 1
    socket._sequence += len(batch)
    data = b"".join(encode(request, first + index) for index, request in enumerate(batch))
    if len(data) > _LARGE:
        socket._socket.setsockopt(SOL_SOCKET, SO_SNDBUFFORCE, 2 * len(data))
    socket._socket.send(data)
    failure = KernelRefused(EIO, "cannot change nftables: no answer")
    failed, answered = False, False
    # The kernel has worked and answered when send returns. All is read, even where the receive
    # buffer (ENOBUFS) had no room for every failure: a full one would take no further answer.
    socket._socket.setblocking(False)
    while True:
        try:
            for kind, flags, sequence, body in socket._receive():
                index = sequence - first
                if kind != NLMSG_ERROR or not 0 <= index < len(batch):
                    continue
                answered = True
                errno = -_I32.unpack_from(body)[0]
                if errno and not failed:
                    failed, failure = True, _refused(errno, batch[index], flags, body)
        except BlockingIOError:
            break
        except OSError as error:
            if error.errno != ENOBUFS:
                raise
    socket._socket.setblocking(True)
    if failed or not answered:
        raise failure


def _dump(socket: Socket, request: Request) -> list[bytes]:
    """The messages of a dump, taken again until no transaction ended meanwhile.

    The kernel marks interrupted dumps (NLM_F_DUMP_INTR), but not those of elements.
    """
    after = _generation(socket)
    while True:
        before, found = after, socket.dump(request)
        after = _generation(socket)
        if after == before:
            return found


def _generation(socket: Socket) -> bytes:
    """What every transaction in the namespace changes."""
    return attributes(socket.request(_GETGEN)[0], _NFGENMSG.size)[NFTA_GEN_ID]


def _find(socket: Socket, request: Request) -> bytes | None:
    """The answer to a request for something, None if there is no such thing."""
    try:
        return socket.request(request)[0]
    except KernelRefused as error:
        if error.errno == ENOENT:
            return None
        probe(socket)
        raise


# --- attributes


def _request(
    kind: int, flags: int, family: str, table: str, what: str, body: bytes = b""
) -> Request:
    body = _NFGENMSG.pack(_FAMILIES[family], 0, 0) + string(NFTA_TABLE, table) + body
    return Request(NFNL_SUBSYS_NFTABLES << 8 | kind, flags, body, f"{what} table {family} {table}")


_BATCH = _NFGENMSG.pack(0, 0, NFNL_SUBSYS_NFTABLES)
_BEGIN = Request(NFNL_MSG_BATCH_BEGIN, 0, _BATCH, "change nftables")
_END = Request(NFNL_MSG_BATCH_END, 0, _BATCH, "change nftables")
_GETGEN = Request(
    NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN, NLM_F_ACK, bytes(_NFGENMSG.size), "list nftables"
)


def _be32(kind: int, value: int) -> bytes:
    return attribute(kind, _BE32.pack(value & 0xFFFFFFFF))


def _list(payload: bytes) -> list[bytes]:
    """The payloads of the attributes of a list."""
    found = []
    at = 0
    while at + 4 <= len(payload):
        length = max(4, _ATTRIBUTE.unpack_from(payload, at)[0])
        found.append(payload[at + 4 : at + length])
        at += length + (-length % 4)
    return found


def _udata(kind: int, value: bytes) -> bytes:
    return bytes((kind, len(value))) + value


def comment(text: str) -> str:
    """A comment that nft can list and read back: no double quotes, at most 128 bytes."""
    data = text.replace('"', "'").encode()[:COMMENT_MAXLEN]
    return data.decode("utf-8", "ignore")


def _comment(text: str) -> bytes:
    """A comment as userdata. nft shows it in quotes as it is: it should have none itself."""
    value = text.encode()
    if len(value) > COMMENT_MAXLEN:
        raise ValueError(f'a comment has at most {COMMENT_MAXLEN} bytes, not "{text}"')
    return _udata(UDATA_COMMENT, value + b"\0") if text else b""


def _comment_in(userdata: bytes) -> str:
    at = 0
    while at + 2 <= len(userdata):
        end = at + 2 + userdata[at + 1]
        if userdata[at] == UDATA_COMMENT:
            return text_of(userdata[at + 2 : end])
        at = end
    return ""


def _value(value: bytes) -> bytes:
    return attribute(NFTA_DATA_VALUE, value)


def _verdict(text: str) -> bytes:
    word, _, chain = text.partition(" ")
    code = _be32(NFTA_VERDICT_CODE, _VERDICTS[word])
    return nested(NFTA_DATA_VERDICT, code, string(NFTA_VERDICT_CHAIN, chain) if chain else b"")


def _verdict_in(payload: bytes) -> str:
    found = attributes(payload)
    code = _BE32.unpack(found[NFTA_VERDICT_CODE])[0]
    words = [word for word, number in _VERDICTS.items() if number & 0xFFFFFFFF == code]
    if NFTA_VERDICT_CHAIN in found:
        words.append(text_of(found[NFTA_VERDICT_CHAIN]))
    return " ".join(words)


# --- tables and chains


def add_table(family: str, table: str) -> Request:
    """Make a table of family "ip", "ip6" or "bridge", if there is none."""
    return _request(NFT_MSG_NEWTABLE, NLM_F_CREATE, family, table, "add")


def delete_table(family: str, table: str) -> Request:
    """Delete a table and everything in it."""
    return _request(NFT_MSG_DELTABLE, 0, family, table, "delete")


def table_exists(socket: Socket, family: str, table: str) -> bool:
    """Whether there is a table of that family and name."""
    request = _request(NFT_MSG_GETTABLE, NLM_F_ACK, family, table, "find")
    return _find(socket, request) is not None


def add_chain(family: str, table: str, chain: str) -> Request:
    """Make a chain to jump to, if there is none of that name."""
    name = string(NFTA_CHAIN_NAME, chain)
    what = f'add chain "{chain}" to'
    return _request(NFT_MSG_NEWCHAIN, NLM_F_CREATE, family, table, what, name)


def add_base_chain(
    family: str, table: str, chain: str, *, kind: str, hook: str, priority: int, policy: str
) -> Request:
    """Make a chain that packets come to at a hook; of one that is there, set the policy.

    `kind` is nft's type: "filter", "nat" or "route"; `hook` is "prerouting", "input",
    "forward", "output" or "postrouting", `policy` "accept" or "drop". Chains with lower
    priority come first.
    """
    point = _be32(NFTA_HOOK_HOOKNUM, _HOOKS.index(hook)), _be32(NFTA_HOOK_PRIORITY, priority)
    body = nested(NFTA_CHAIN_HOOK, *point) + _be32(NFTA_CHAIN_POLICY, _VERDICTS[policy])
    request = add_chain(family, table, chain)
    return request.replace(body=request.body + body + string(NFTA_CHAIN_TYPE, kind))


def delete_chain(family: str, table: str, chain: str) -> Request:
    """Delete a chain with its rules; EBUSY if a rule or an element still jumps to it."""
    name = string(NFTA_CHAIN_NAME, chain)
    return _request(NFT_MSG_DELCHAIN, 0, family, table, f'delete chain "{chain}" of', name)


def chain_exists(socket: Socket, family: str, table: str, chain: str) -> bool:
    """Whether there is a chain of that name in a table."""
    name = string(NFTA_CHAIN_NAME, chain)
    what = f'find chain "{chain}" of'
    request = _request(NFT_MSG_GETCHAIN, NLM_F_ACK, family, table, what, name)
    return _find(socket, request) is not None


# --- rules


def add_rule(
    family: str, table: str, chain: str, expressions: "Iterable[bytes]", comment: str = ""
) -> Request:
    """Append a rule to a chain, whether it has the same one already or not."""
    body = string(NFTA_RULE_CHAIN, chain) + nested(NFTA_RULE_EXPRESSIONS, *expressions)
    if comment:
        body += attribute(NFTA_RULE_USERDATA, _comment(comment))
    what = f'add a rule to chain "{chain}" of'
    return _request(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, family, table, what, body)


def delete_rule(family: str, table: str, chain: str, handle: int) -> Request:
    """Delete a rule by its handle."""
    body = string(NFTA_RULE_CHAIN, chain) + attribute(NFTA_RULE_HANDLE, _BE64.pack(handle))
    what = f'delete rule {handle} of chain "{chain}" of'
    return _request(NFT_MSG_DELRULE, 0, family, table, what, body)


def flush_chain(family: str, table: str, chain: str) -> Request:
    """Delete every rule of a chain."""
    name = string(NFTA_RULE_CHAIN, chain)
    return _request(NFT_MSG_DELRULE, 0, family, table, f'flush chain "{chain}" of', name)


def rules(socket: Socket, family: str, table: str, chain: str) -> list[Rule]:
    """The rules of a chain, in order; none if there is no such chain."""
    name = string(NFTA_RULE_CHAIN, chain)
    what = f'list chain "{chain}" of'
    found = []
    for message in _dump(socket, _request(NFT_MSG_GETRULE, NLM_F_DUMP, family, table, what, name)):
        rule = attributes(message, _NFGENMSG.size)
        expressions = _list(rule.get(NFTA_RULE_EXPRESSIONS, b""))
        found.append(
            Rule(
                handle=_BE64.unpack(rule[NFTA_RULE_HANDLE])[0],
                comment=_comment_in(rule.get(NFTA_RULE_USERDATA, b"")),
                expressions=b"".join(_as_sent(expression) for expression in expressions),
            )
        )
    return found


def _as_sent(expression: bytes) -> bytes:
    """A dumped expression as it is encoded here, without what the kernel adds to it."""
    found = attributes(expression)
    name = text_of(found[NFTA_EXPR_NAME])
    data = attributes(found.get(NFTA_EXPR_DATA, b""))
    if name == "counter":
        data = {}  # what it has counted
    elif name == "bitwise":
        data.pop(NFTA_BITWISE_OP, None)  # since Linux 5.6; shifts have other attributes too
    return _expression(name, *(attribute(kind, data[kind]) for kind in sorted(data)))


# --- expressions


def _expression(name: str, *data: bytes) -> bytes:
    return nested(NFTA_LIST_ELEM, string(NFTA_EXPR_NAME, name), nested(NFTA_EXPR_DATA, *data))


def meta(key: str, reg: int = REG) -> bytes:
    """Load "iifname", "oifname" (16 bytes), "l4proto", "nfproto" (1), "mark" or "iiftype"."""
    return _expression("meta", _be32(1, reg), _be32(2, _META[key]))


def set_meta_mark(reg: int = REG) -> bytes:
    """Set the packet's mark to the value in a register."""
    return _expression("meta", _be32(2, _META["mark"]), _be32(3, reg))


def ct(key: str, reg: int = REG) -> bytes:
    """Load "state", "status" or "mark" of the packet's connection, each 4 bytes in host order."""
    return _expression("ct", _be32(1, reg), _be32(2, _CT[key]))


def set_ct_mark(reg: int = REG) -> bytes:
    """Set the connection's mark to the value in a register."""
    return _expression("ct", _be32(2, _CT["mark"]), _be32(4, reg))


def payload(field: str, reg: int = REG) -> bytes:
    """Load a field of the packet, such as "ip saddr", "ip6 daddr", "th dport", "ether saddr".

    Where a packet has no such header, the rule ends. nft needs `meta("iiftype")` compared
    with ETHER before it calls "ether saddr" by that name in ip and ip6.
    """
    header, offset, length = _PAYLOAD[field]
    where = _be32(2, header), _be32(3, offset), _be32(4, length)
    return _expression("payload", _be32(1, reg), *where)


def fib_daddr_type(reg: int = REG) -> bytes:
    """Load what the routes take the destination for, 4 bytes: LOCAL is the host's own."""
    result = _be32(2, NFT_FIB_RESULT_ADDRTYPE), _be32(3, NFTA_FIB_F_DADDR)
    return _expression("fib", _be32(1, reg), *result)


def cmp(value: bytes, reg: int = REG, *, equal: bool = True) -> bytes:
    """Go on only if a register equals the value, or differs from it."""
    return _expression("cmp", _be32(1, reg), _be32(2, not equal), nested(3, _value(value)))


def bitwise(mask: bytes, reg: int = REG) -> bytes:
    """Clear those bits of a register that the mask does not have."""
    data = nested(4, _value(mask)), nested(5, _value(bytes(len(mask))))
    return _expression("bitwise", _be32(1, reg), _be32(2, reg), _be32(3, len(mask)), *data)


def any_of(bits: int, reg: int = REG) -> bytes:
    """Go on only if a register with a state, a status or a mark has one of the bits."""
    return bitwise(U32.pack(bits), reg) + cmp(bytes(4), reg, equal=False)


def lookup(name: str, reg: int = REG, *, into: int | None = None, inverted: bool = False) -> bytes:
    """Go on only if a set or map has the key that begins in a register, or has it not.

    `into` is the register that a map's value goes into, VERDICT for a verdict map's.
    """
    value = b"" if into is None else _be32(3, into)
    return _expression("lookup", string(1, name), _be32(2, reg), value, _be32(5, inverted))


def immediate(value: bytes, reg: int = REG) -> bytes:
    """Load a value."""
    return _expression("immediate", _be32(1, reg), nested(2, _value(value)))


def verdict(text: str) -> bytes:
    """End with "accept", "drop" or "return", or go on with "jump CHAIN" or "goto CHAIN"."""
    return _expression("immediate", _be32(1, VERDICT), nested(2, _verdict(text)))


def counter() -> bytes:
    """Count the packets and bytes that come here."""
    return _expression("counter")


def masquerade(flags: int = 0) -> bytes:
    """Give the connection the address of the link that it leaves by; flags are RANDOM, …"""
    return _expression("masq", _be32(1, flags) if flags else b"")


def dnat(family: str, address: int = REG, port: int = 0, *, flags: int = 0) -> bytes:
    """Have the connection go to the address, and the port, in registers; flags are RANDOM, …"""
    return _nat(1, family, address, port, flags)


def snat(family: str, address: int = REG, port: int = 0, *, flags: int = 0) -> bytes:
    """Have the connection come from the address, and the port, in registers."""
    return _nat(0, family, address, port, flags)


def _nat(kind: int, family: str, address: int, port: int, flags: int) -> bytes:
    data = [_be32(1, kind), _be32(2, _FAMILIES[family]), _be32(3, address), _be32(4, address)]
    flags |= NF_NAT_RANGE_MAP_IPS
    if port:
        data += [_be32(5, port), _be32(6, port)]
        flags |= NF_NAT_RANGE_PROTO_SPECIFIED
    return _expression("nat", *data, _be32(7, flags))


# --- values: single ones, and concatenations, whose fields fill whole slots


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


# --- sets, maps and their elements


def add_set(
    family: str, table: str, name: str, key: str, *, data: str = "", interval: bool = False
) -> Request:
    """Make a set, or with `data` a map, if there is none of that name.

    `key` and `data` are types as nft writes them: those of _TYPES, and concatenations of
    them, such as "inet_proto . inet_service"; `data` may be "verdict". The elements of an
    interval set are intervals of one big-endian type.
    """
    flags = (NFT_SET_INTERVAL if interval else 0) | (NFT_SET_MAP if data else 0)
    number, length, order = _type(key)
    types = _be32(NFTA_SET_KEY_TYPE, number) + _be32(NFTA_SET_KEY_LEN, length)
    # The kernel keeps this for nft, which prints keys wrongly without it.
    userdata = _udata(UDATA_SET_KEYBYTEORDER, U32.pack(order))
    if data:
        number, length, order = (NFT_DATA_VERDICT, 0, 0) if data == "verdict" else _type(data)
        types += _be32(NFTA_SET_DATA_TYPE, number) + _be32(NFTA_SET_DATA_LEN, length)
        userdata += _udata(UDATA_SET_DATABYTEORDER, U32.pack(order))
    # The kernel wants an ID, by which a rule of the same batch might refer to the set.
    body = string(NFTA_SET_NAME, name) + _be32(NFTA_SET_FLAGS, flags) + types
    body += _be32(NFTA_SET_ID, 1) + attribute(NFTA_SET_USERDATA, userdata)
    what = f'add {"map" if data else "set"} "{name}" to'
    return _request(NFT_MSG_NEWSET, NLM_F_CREATE, family, table, what, body)


def _type(types: str) -> tuple[int, int, int]:
    """Number, length and byte order; a concatenation's number has 6 bits for each field's."""
    names = types.split(" . ")
    if len(names) == 1:
        return _TYPES[types]
    number = length = 0
    for name in names:
        number = number << 6 | _TYPES[name][0]
        length += _padded(_TYPES[name][1])
    return number, length, 0


def delete_set(family: str, table: str, name: str) -> Request:
    """Delete a set or map with its elements; EBUSY if a rule refers to it."""
    body = string(NFTA_SET_NAME, name)
    return _request(NFT_MSG_DELSET, 0, family, table, f'delete set "{name}" of', body)


def add_elements(
    family: str, table: str, name: str, elements: "Sequence[Element]", *, exclusive: bool = False
) -> Request:
    """Add elements to a set or map.

    One that is there with the same data is no error, unless `exclusive` asks for EEXIST;
    with other data it is one: EEXIST, before Linux 5.9 EBUSY. An error does not say which of
    a request's elements it is about, and a request holds at most 64 KiB of them.
    """
    flags = NLM_F_CREATE | (NLM_F_EXCL if exclusive else 0)
    what = f'add {_keys(elements)} to set "{name}" of'
    body = _elements(name, elements)
    return _request(NFT_MSG_NEWSETELEM, flags, family, table, what, body)


def delete_elements(family: str, table: str, name: str, elements: "Sequence[Element]") -> Request:
    """Delete elements by their keys; ENOENT if there is no such element."""
    what = f'delete {_keys(elements)} from set "{name}" of'
    body = _elements(name, elements)
    return _request(NFT_MSG_DELSETELEM, 0, family, table, what, body)


def _keys(elements: "Sequence[Element]") -> str:
    more = f" and {len(elements) - 1} more" if len(elements) > 1 else ""
    return elements[0].key.hex() + more if elements else "nothing"


def _elements(name: str, elements: "Iterable[Element]") -> bytes:
    body = nested(NFTA_SET_ELEM_LIST_ELEMENTS, *map(_element, elements))
    return string(NFTA_SET_ELEM_LIST_SET, name) + body


def _element(element: Element) -> bytes:
    """An element; an interval is two, its first key and the end, which is past its last."""
    key, data, last = element.key, element.data, element.last
    userdata = _comment(element.comment)
    end = b""
    if last == b"\xff" * len(key):
        userdata += _udata(UDATA_SET_ELEM_FLAGS, U32.pack(SET_ELEM_F_INTERVAL_OPEN))
    elif last:
        past = nested(NFTA_SET_ELEM_KEY, _value(_next(last, 1)))
        flags = _be32(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END)
        end = nested(NFTA_LIST_ELEM, past, flags)
    parts = nested(NFTA_SET_ELEM_KEY, _value(key))
    if data:
        parts += nested(
            NFTA_SET_ELEM_DATA, _value(data) if isinstance(data, bytes) else _verdict(data)
        )
    if userdata:
        parts += attribute(NFTA_SET_ELEM_USERDATA, userdata)
    return nested(NFTA_LIST_ELEM, parts) + end


def _next(key: bytes, step: int) -> bytes:
    return (int.from_bytes(key, "big") + step).to_bytes(len(key), "big")


def find_element(socket: Socket, family: str, table: str, name: str, key: bytes) -> Element | None:
    """The element of that key, None if there is no such element, set or table.

    In an interval set, the interval that has the key, without its `last`.
    """
    what = f'find {key.hex()} in set "{name}" of'
    body = _elements(name, (Element(key),))
    request = _request(NFT_MSG_GETSETELEM, NLM_F_ACK, family, table, what, body)
    found = _parse(_find(socket, request) or b"")
    return found[0][0] if found else None


def elements(
    socket: Socket, family: str, table: str, name: str, *, interval: bool = False
) -> list[Element]:
    """The elements of a set or map, none if there is no such set or table.

    Those of an interval set come in the order of their keys.
    """
    body = string(NFTA_SET_ELEM_LIST_SET, name)
    what = f'list set "{name}" of'
    request = _request(NFT_MSG_GETSETELEM, NLM_F_DUMP, family, table, what, body)
    try:
        messages = _dump(socket, request)
    except KernelRefused as error:
        if error.errno == ENOENT:
            return []
        probe(socket)
        raise
    found = [each for message in messages for each in _parse(message)]
    return _intervals(found) if interval else [element for element, _ in found]


def _parse(message: bytes) -> list[tuple[Element, bool]]:
    """The elements in a message, and whether each is the end of an interval."""
    found = []
    listed = attributes(message, _NFGENMSG.size).get(NFTA_SET_ELEM_LIST_ELEMENTS, b"")
    for parts in map(attributes, _list(listed)):
        data = attributes(parts.get(NFTA_SET_ELEM_DATA, b""))
        value: bytes | str = data.get(NFTA_DATA_VALUE, b"")
        if NFTA_DATA_VERDICT in data:
            value = _verdict_in(data[NFTA_DATA_VERDICT])
        key = attributes(parts[NFTA_SET_ELEM_KEY])[NFTA_DATA_VALUE]
        element = Element(key, value, _comment_in(parts.get(NFTA_SET_ELEM_USERDATA, b"")))
        flags = _BE32.unpack(parts.get(NFTA_SET_ELEM_FLAGS, bytes(4)))[0]
        found.append((element, bool(flags & NFT_SET_ELEM_INTERVAL_END)))
    return found


def _intervals(found: list[tuple[Element, bool]]) -> list[Element]:
    """Intervals from their starts and ends; one without an end reaches to the last key.

    nft also puts an end without a start at key 0.
    """
    found.sort(key=lambda each: (each[0].key, not each[1]))
    intervals: list[Element] = []
    for element, is_end in found:
        if not is_end:
            intervals.append(element.replace(last=b"\xff" * len(element.key)))
        elif intervals:
            intervals[-1] = intervals[-1].replace(last=_next(element.key, -1))
    return intervals
