"""nf_tables: tables, chains, rules, sets and maps, changed in transactions.

Numbers are from include/uapi/linux/netfilter/{nf_tables,nfnetlink}.h. What rules and elements
are made of is in cnm_core/kernel/expressions.py.
"""

from _socket import MSG_DONTWAIT
from _struct import Struct
from errno import EIO, ENOBUFS, ENOENT, EOPNOTSUPP, EPERM, EPROTONOSUPPORT
from posix import strerror

from cnm_core.errors import KernelRefused
from cnm_core.kernel import expressions as ex
from cnm_core.kernel.netlink import (
    NLM_F_ACK,
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLMSG_ERROR,
    U32,
    Request,
    Socket,
    _refused,
    attribute,
    attributes,
    encode,
    nested,
    string,
)
from cnm_core.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

NETLINK_NETFILTER = 12
NFNL_SUBSYS_NFTABLES, NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END = 10, 0x10, 0x11

NFT_MSG_NEWTABLE, NFT_MSG_GETTABLE, NFT_MSG_DELTABLE = 0, 1, 2
NFT_MSG_NEWCHAIN, NFT_MSG_GETCHAIN, NFT_MSG_DELCHAIN = 3, 4, 5
NFT_MSG_NEWRULE, NFT_MSG_GETRULE, NFT_MSG_DELRULE = 6, 7, 8
NFT_MSG_NEWSET = 9
NFT_MSG_NEWSETELEM, NFT_MSG_GETSETELEM, NFT_MSG_DELSETELEM = 12, 13, 14
NFT_MSG_GETGEN, NFTA_GEN_ID = 16, 1
# NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE, NFTA_SET_TABLE, NFTA_SET_ELEM_LIST_TABLE
NFTA_TABLE = 1
NFTA_CHAIN_NAME, NFTA_CHAIN_HOOK, NFTA_CHAIN_POLICY = 3, 4, 5
NFTA_CHAIN_USE, NFTA_CHAIN_TYPE = 6, 7
NFTA_HOOK_HOOKNUM, NFTA_HOOK_PRIORITY = 1, 2
NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS, NFTA_RULE_USERDATA = 2, 4, 7
NFTA_SET_NAME, NFTA_SET_FLAGS, NFTA_SET_ID, NFTA_SET_USERDATA = 2, 3, 10, 13
NFTA_SET_KEY_TYPE, NFTA_SET_KEY_LEN, NFTA_SET_DATA_TYPE, NFTA_SET_DATA_LEN = 4, 5, 6, 7
NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_ELEMENTS = 2, 3
NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_DATA, NFTA_SET_ELEM_FLAGS, NFTA_SET_ELEM_USERDATA = 1, 2, 3, 6
NFT_SET_INTERVAL, NFT_SET_MAP, NFT_SET_ELEM_INTERVAL_END = 0x4, 0x8, 0x1
# Priorities of base chains in ip and ip6 (include/uapi/linux/netfilter_ipv4.h).
RAW, MANGLE, DSTNAT, FILTER, SRCNAT = -300, -150, -100, 0, 100
_POLICIES = {"drop": 0, "accept": 1}
_HOOKS = ("prerouting", "input", "forward", "output", "postrouting")
_NFGENMSG = Struct(">BBH")
_BE16, _BE32 = Struct(">H"), Struct(">I")
_ATTRIBUTE, _I32 = Struct("=HH"), Struct("=i")


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

    comment: str
    expressions: bytes


# --- asking the kernel


def open_socket() -> Socket:
    """A socket for all that is here, in the namespace where it was opened. KernelRefused."""
    try:
        return Socket(NETLINK_NETFILTER)
    except KernelRefused as error:
        if error.errno not in (EPERM, EPROTONOSUPPORT):
            raise
        raise _unavailable(error.errno) from None


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
    socket.send(data)
    failure = KernelRefused(EIO, "cannot change nftables: no answer")
    failed, answered = False, False
    # The kernel has worked and answered when send returns. All is read, even where the receive
    # buffer (ENOBUFS) had no room for every failure: a full one would take no further answer.
    while True:
        try:
            for kind, flags, sequence, body in socket._receive(MSG_DONTWAIT):
                index = sequence - first
                if kind != NLMSG_ERROR or not 0 <= index < len(batch):
                    continue
                answered = True
                errno = -_I32.unpack_from(body)[0]
                if errno and not failed:
                    failed, failure = True, _refused(errno, batch[index], flags, body)
        except BlockingIOError:
            break
        except KernelRefused as error:
            if error.errno != ENOBUFS:
                raise
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
    body = _NFGENMSG.pack(ex.FAMILIES[family], 0, 0) + string(NFTA_TABLE, table) + body
    return Request(NFNL_SUBSYS_NFTABLES << 8 | kind, flags, body, f"{what} table {family} {table}")


_BATCH = _NFGENMSG.pack(0, 0, NFNL_SUBSYS_NFTABLES)
_BEGIN = Request(NFNL_MSG_BATCH_BEGIN, 0, _BATCH, "change nftables")
_END = Request(NFNL_MSG_BATCH_END, 0, _BATCH, "change nftables")
_GETGEN = Request(
    NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN, NLM_F_ACK, bytes(_NFGENMSG.size), "list nftables"
)


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
    point = ex.be32(NFTA_HOOK_HOOKNUM, _HOOKS.index(hook)), ex.be32(NFTA_HOOK_PRIORITY, priority)
    body = nested(NFTA_CHAIN_HOOK, *point) + ex.be32(NFTA_CHAIN_POLICY, _POLICIES[policy])
    request = add_chain(family, table, chain)
    return request.replace(body=request.body + body + string(NFTA_CHAIN_TYPE, kind))


def delete_chain(family: str, table: str, chain: str) -> Request:
    """Delete a chain with its rules; EBUSY if a rule or an element still jumps to it."""
    name = string(NFTA_CHAIN_NAME, chain)
    return _request(NFT_MSG_DELCHAIN, 0, family, table, f'delete chain "{chain}" of', name)


def chain_uses(socket: Socket, family: str, table: str, chains: "Iterable[str]") -> dict[str, int]:
    """How many rules each chain has and how many jumps lead to it, added up.

    Chains that are not there are left out. Takes one question, whatever others have.
    """
    requests = {
        chain: _request(
            NFT_MSG_GETCHAIN,
            NLM_F_ACK,
            family,
            table,
            f'find chain "{chain}" of',
            string(NFTA_CHAIN_NAME, chain),
        )
        for chain in chains
    }
    answers: Sequence[bytes | None]
    try:
        answers = socket.request(*requests.values())
    except KernelRefused:  # one is missing: ask for each, to see which
        answers = [_find(socket, request) for request in requests.values()]
    return {
        chain: _BE32.unpack(attributes(answer, _NFGENMSG.size)[NFTA_CHAIN_USE])[0]
        for chain, answer in zip(requests, answers, strict=True)
        if answer
    }


# --- rules


def add_rule(
    family: str, table: str, chain: str, expressions: "Iterable[bytes]", comment: str = ""
) -> Request:
    """Append a rule to a chain, whether it has the same one already or not."""
    body = string(NFTA_RULE_CHAIN, chain) + nested(NFTA_RULE_EXPRESSIONS, *expressions)
    if comment:
        body += attribute(NFTA_RULE_USERDATA, ex.comment_data(comment))
    what = f'add a rule to chain "{chain}" of'
    return _request(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, family, table, what, body)


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
        expressions = ex.list_in(rule.get(NFTA_RULE_EXPRESSIONS, b""))
        found.append(
            Rule(
                comment=ex.comment_in(rule.get(NFTA_RULE_USERDATA, b"")),
                expressions=b"".join(map(ex.as_sent, expressions)),
            )
        )
    return found


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
    number, length, order = ex.type_of(key)
    types = ex.be32(NFTA_SET_KEY_TYPE, number) + ex.be32(NFTA_SET_KEY_LEN, length)
    # The kernel keeps this for nft, which prints keys wrongly without it.
    data_types = ex.userdata(ex.UDATA_SET_KEYBYTEORDER, U32.pack(order))
    if data:
        number, length, order = (
            (ex.NFT_DATA_VERDICT, 0, 0) if data == "verdict" else ex.type_of(data)
        )
        types += ex.be32(NFTA_SET_DATA_TYPE, number) + ex.be32(NFTA_SET_DATA_LEN, length)
        data_types += ex.userdata(ex.UDATA_SET_DATABYTEORDER, U32.pack(order))
    # The kernel wants an ID, by which a rule of the same batch might refer to the set.
    body = string(NFTA_SET_NAME, name) + ex.be32(NFTA_SET_FLAGS, flags) + types
    body += ex.be32(NFTA_SET_ID, 1) + attribute(NFTA_SET_USERDATA, data_types)
    what = f'add {"map" if data else "set"} "{name}" to'
    return _request(NFT_MSG_NEWSET, NLM_F_CREATE, family, table, what, body)


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
    extra = ex.comment_data(element.comment)
    end = b""
    if last == b"\xff" * len(key):
        extra += ex.userdata(ex.UDATA_SET_ELEM_FLAGS, U32.pack(ex.SET_ELEM_F_INTERVAL_OPEN))
    elif last:
        past = nested(NFTA_SET_ELEM_KEY, ex.value_data(_next(last, 1)))
        flags = ex.be32(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END)
        end = nested(ex.NFTA_LIST_ELEM, past, flags)
    parts = nested(NFTA_SET_ELEM_KEY, ex.value_data(key))
    if data:
        parts += nested(
            NFTA_SET_ELEM_DATA,
            ex.value_data(data) if isinstance(data, bytes) else ex.verdict_data(data),
        )
    if extra:
        parts += attribute(NFTA_SET_ELEM_USERDATA, extra)
    return nested(ex.NFTA_LIST_ELEM, parts) + end


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

    While the kernel moves a set to a larger or smaller hash table, each message of a listing
    skips as many elements as were told before it, in an order that has changed
    (nft_rhash_walk, net/netfilter/nft_set_hash.c): as many come twice as are left out. The
    listing is then taken again.
    """
    body = string(NFTA_SET_ELEM_LIST_SET, name)
    what = f'list set "{name}" of'
    request = _request(NFT_MSG_GETSETELEM, NLM_F_DUMP, family, table, what, body)
    while True:
        try:
            messages = _dump(socket, request)
        except KernelRefused as error:
            if error.errno == ENOENT:
                return []
            probe(socket)
            raise
        found = [each for message in messages for each in _parse(message)]
        if len({(element.key, is_end) for element, is_end in found}) == len(found):
            break
    return _intervals(found) if interval else [element for element, _ in found]


def _parse(message: bytes) -> list[tuple[Element, bool]]:
    """The elements in a message, and whether each is the end of an interval."""
    found = []
    listed = attributes(message, _NFGENMSG.size).get(NFTA_SET_ELEM_LIST_ELEMENTS, b"")
    for parts in map(attributes, ex.list_in(listed)):
        data = attributes(parts.get(NFTA_SET_ELEM_DATA, b""))
        value: bytes | str = data.get(ex.NFTA_DATA_VALUE, b"")
        if ex.NFTA_DATA_VERDICT in data:
            value = ex.verdict_in(data[ex.NFTA_DATA_VERDICT])
        key = attributes(parts[NFTA_SET_ELEM_KEY])[ex.NFTA_DATA_VALUE]
        element = Element(key, value, ex.comment_in(parts.get(NFTA_SET_ELEM_USERDATA, b"")))
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
