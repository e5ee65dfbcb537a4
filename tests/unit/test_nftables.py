"""Our nf_tables encoder against pyroute2's message classes, and what it decodes again.

pyroute2 cannot encode `fib`, and its flags are names; the kernel tests have the rest.
"""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.nfnetlink import nftsocket

from cnm_core.kernel import expressions as ex
from cnm_core.kernel import nftables as nft
from cnm_core.kernel.netlink import Request, encode
from cnm_core.kernel.nftables import Element

SUBSYSTEM, NEW, APPEND = nftsocket.NFNL_SUBSYS_NFTABLES << 8, 0x400, 0x800
FAMILIES = {"ip": 2, "ip6": 10, "bridge": 7}
ADDRESS, OTHER = bytes((10, 1, 0, 2)), bytes((10, 1, 0, 255))


def _theirs(message: Any, kind: int, flags: int, family: str, attrs: list[Any]) -> bytes:
    message["header"].update(type=SUBSYSTEM | kind, flags=flags | 1, sequence_number=7)
    message.update(nfgen_family=FAMILIES[family], version=0, res_id=0, attrs=attrs)
    message.encode()
    return bytes(message.data)


def _ours(request: Request) -> bytes:
    return encode(request, 7)


def _nla(prefix: str, **values: Any) -> dict[str, Any]:
    """pyroute2's form of nested attributes."""
    return {"attrs": [(f"{prefix}_{name}", value) for name, value in values.items()]}


def _value(data: bytes) -> dict[str, Any]:
    return _nla("NFTA_DATA", VALUE=data)


def _verdict(code: int, **chain: str) -> dict[str, Any]:
    return _nla("NFTA_DATA", VERDICT=_nla("NFTA_VERDICT", CODE=code, **chain))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("request_of", "kind", "flags"),
    [(nft.add_table, nftsocket.NFT_MSG_NEWTABLE, NEW), (nft.delete_table, 2, 0)],
)
def test_tables(family: str, request_of: Any, kind: int, flags: int) -> None:
    """Tables are named."""
    theirs = nftsocket.nft_table_msg()
    expected = _theirs(theirs, kind, flags, family, [("NFTA_TABLE_NAME", "cnm")])
    assert _ours(request_of(family, "cnm")) == expected


@pytest.mark.parametrize(
    ("request_of", "kind", "flags"),
    [(nft.add_chain, nftsocket.NFT_MSG_NEWCHAIN, NEW), (nft.delete_chain, 5, 0)],
)
def test_chains(request_of: Any, kind: int, flags: int) -> None:
    """Chains are named."""
    attrs = [("NFTA_CHAIN_TABLE", "cnm"), ("NFTA_CHAIN_NAME", "blue")]
    expected = _theirs(nftsocket.nft_chain_msg(), kind, flags, "ip6", attrs)
    assert _ours(request_of("ip6", "cnm", "blue")) == expected


@pytest.mark.parametrize(
    ("kind", "hook", "number", "priority", "policy"),
    [("nat", "prerouting", 0, nft.DSTNAT, "accept"), ("filter", "forward", 2, 0, "drop")],
)
def test_base_chains(kind: str, hook: str, number: int, priority: int, policy: str) -> None:
    """A base chain has a hook with a signed priority, a policy and a type."""
    attrs = [
        ("NFTA_CHAIN_TABLE", "cnm"),
        ("NFTA_CHAIN_NAME", "base"),
        ("NFTA_CHAIN_HOOK", _nla("NFTA_HOOK", HOOKNUM=number, PRIORITY=priority)),
        ("NFTA_CHAIN_POLICY", int(policy == "accept")),
        ("NFTA_CHAIN_TYPE", kind),
    ]
    ours = nft.add_base_chain(
        "ip", "cnm", "base", kind=kind, hook=hook, priority=priority, policy=policy
    )
    assert _ours(ours) == _theirs(nftsocket.nft_chain_msg(), 3, NEW, "ip", attrs)


EXPRESSIONS: list[tuple[bytes, str, dict[str, Any]]] = [
    (ex.meta("iifname"), "meta", _nla("NFTA_META", DREG=1, KEY=6)),
    (ex.meta("oifname", 9), "meta", _nla("NFTA_META", DREG=9, KEY=7)),
    (ex.meta("l4proto"), "meta", _nla("NFTA_META", DREG=1, KEY=16)),
    (ex.meta("nfproto"), "meta", _nla("NFTA_META", DREG=1, KEY=15)),
    (ex.meta("mark"), "meta", _nla("NFTA_META", DREG=1, KEY=3)),
    (ex.ct("state"), "ct", _nla("NFTA_CT", DREG=1, KEY=0)),
    (ex.ct("status"), "ct", _nla("NFTA_CT", DREG=1, KEY=2)),
    (ex.ct("mark"), "ct", _nla("NFTA_CT", DREG=1, KEY=3)),
    (
        ex.payload("ip daddr"),
        "payload",
        _nla("NFTA_PAYLOAD", DREG=1, BASE=1, OFFSET=16, LEN=4),
    ),
    (
        ex.payload("ip6 saddr", 2),
        "payload",
        _nla("NFTA_PAYLOAD", DREG=2, BASE=1, OFFSET=8, LEN=16),
    ),
    (ex.payload("th dport", 9), "payload", _nla("NFTA_PAYLOAD", DREG=9, BASE=2, OFFSET=2, LEN=2)),
    (ex.payload("ether saddr"), "payload", _nla("NFTA_PAYLOAD", DREG=1, BASE=0, OFFSET=6, LEN=6)),
    (ex.cmp(ex.TCP), "cmp", _nla("NFTA_CMP", SREG=1, OP=0, DATA=_value(b"\6"))),
    (
        ex.cmp(ex.ifname("blue0"), 2, equal=False),
        "cmp",
        _nla("NFTA_CMP", SREG=2, OP=1, DATA=_value(b"blue0" + bytes(11))),
    ),
    (
        ex.bitwise(b"\xff\xff\xff\0"),
        "bitwise",
        _nla(
            "NFTA_BITWISE",
            SREG=1,
            DREG=1,
            LEN=4,
            MASK=_value(b"\xff\xff\xff\0"),
            XOR=_value(bytes(4)),
        ),
    ),
    (
        ex.to_host_order(9),
        "byteorder",
        _nla("NFTA_BYTEORDER", SREG=9, DREG=9, OP=0, LEN=4, SIZE=4),
    ),
    (
        ex.payload("vxlan vni", 9),
        "payload",
        _nla("NFTA_PAYLOAD", DREG=9, BASE=2, OFFSET=11, LEN=4),
    ),
    (ex.lookup("s"), "lookup", _nla("NFTA_LOOKUP", SET="s", SREG=1, FLAGS=[])),
    (
        ex.lookup("s", 2, inverted=True),
        "lookup",
        _nla("NFTA_LOOKUP", SET="s", SREG=2, FLAGS=["NFT_LOOKUP_F_INV"]),
    ),
    (ex.lookup("m", into=1), "lookup", _nla("NFTA_LOOKUP", SET="m", SREG=1, DREG=1, FLAGS=[])),
    (
        ex.lookup("v", into=ex.VERDICT),
        "lookup",
        _nla("NFTA_LOOKUP", SET="v", SREG=1, DREG=0, FLAGS=[]),
    ),
    (ex.immediate(ADDRESS), "immediate", _nla("NFTA_IMMEDIATE", DREG=1, DATA=_value(ADDRESS))),
    (ex.verdict("accept"), "immediate", _nla("NFTA_IMMEDIATE", DREG=0, DATA=_verdict(1))),
    (ex.verdict("drop"), "immediate", _nla("NFTA_IMMEDIATE", DREG=0, DATA=_verdict(0))),
    (ex.verdict("return"), "immediate", _nla("NFTA_IMMEDIATE", DREG=0, DATA=_verdict(-5))),
    (
        ex.verdict("jump blue"),
        "immediate",
        _nla("NFTA_IMMEDIATE", DREG=0, DATA=_verdict(-3, CHAIN="blue")),
    ),
    (
        ex.verdict("goto blue"),
        "immediate",
        _nla("NFTA_IMMEDIATE", DREG=0, DATA=_verdict(-4, CHAIN="blue")),
    ),
    (ex.counter(), "counter", _nla("NFTA_COUNTER")),
    (ex.masquerade(), "masq", _nla("NFTA_MASQ")),
    (
        ex.masquerade(ex.FULLY_RANDOM | ex.RANDOM),
        "masq",
        _nla("NFTA_MASQ", FLAGS=["NF_NAT_RANGE_PROTO_RANDOM", "NF_NAT_RANGE_PROTO_RANDOM_FULLY"]),
    ),
    (
        ex.dnat("ip6", 1, 2),
        "nat",
        _nla(
            "NFTA_NAT",
            TYPE=1,
            FAMILY=10,
            REG_ADDR_MIN=1,
            REG_ADDR_MAX=1,
            REG_PROTO_MIN=2,
            REG_PROTO_MAX=2,
            FLAGS=["NF_NAT_RANGE_MAP_IPS", "NF_NAT_RANGE_PROTO_SPECIFIED"],
        ),
    ),
    (
        ex.snat("ip", flags=ex.PERSISTENT),
        "nat",
        _nla(
            "NFTA_NAT",
            TYPE=0,
            FAMILY=2,
            REG_ADDR_MIN=1,
            REG_ADDR_MAX=1,
            FLAGS=["NF_NAT_RANGE_MAP_IPS", "NF_NAT_RANGE_PERSISTENT"],
        ),
    ),
]


@pytest.mark.parametrize(("expression", "name", "data"), EXPRESSIONS)
def test_expressions(expression: bytes, name: str, data: dict[str, Any]) -> None:
    """Each expression in a rule."""
    attrs = [
        ("NFTA_RULE_TABLE", "cnm"),
        ("NFTA_RULE_CHAIN", "blue"),
        ("NFTA_RULE_EXPRESSIONS", [_nla("NFTA_EXPR", NAME=name, DATA=data)]),
    ]
    expected = _theirs(nftsocket.nft_rule_msg(), 6, NEW | APPEND, "ip", attrs)
    assert _ours(nft.add_rule("ip", "cnm", "blue", [expression])) == expected


def test_any_of() -> None:
    """A mask, and a comparison with 0."""
    ours = ex.bitwise(b"\6\0\0\0") + ex.cmp(bytes(4), equal=False)
    assert ex.any_of(ex.ESTABLISHED | ex.RELATED) == ours


def test_rule_with_comment() -> None:
    """Several expressions, and userdata."""
    blue = ex.ifname("blue0")
    expressions = [
        _nla("NFTA_EXPR", NAME="meta", DATA=_nla("NFTA_META", DREG=1, KEY=6)),
        _nla("NFTA_EXPR", NAME="cmp", DATA=_nla("NFTA_CMP", SREG=1, OP=0, DATA=_value(blue))),
    ]
    attrs = [
        ("NFTA_RULE_TABLE", "cnm"),
        ("NFTA_RULE_CHAIN", "blue"),
        ("NFTA_RULE_EXPRESSIONS", expressions),
        ("NFTA_RULE_USERDATA", {"value": "network blüe"}),
    ]
    ours = nft.add_rule(
        "ip", "cnm", "blue", [ex.meta("iifname"), ex.cmp(blue)], comment="network blüe"
    )
    assert _ours(ours) == _theirs(nftsocket.nft_rule_msg(), 6, NEW | APPEND, "ip", attrs)


def test_deleting_rules() -> None:
    """All of a chain."""
    attrs: list[Any] = [("NFTA_RULE_TABLE", "cnm"), ("NFTA_RULE_CHAIN", "blue")]
    flush = _theirs(nftsocket.nft_rule_msg(), 8, 0, "ip", attrs)
    assert _ours(nft.flush_chain("ip", "cnm", "blue")) == flush


def _order(number: int) -> bytes:
    return bytes((number, 0, 0, 0))


@pytest.mark.parametrize(
    ("key", "number", "length", "order"),
    [
        ("ipv4_addr", 7, 4, 2),
        ("ipv6_addr", 8, 16, 2),
        ("ether_addr", 9, 6, 2),
        ("inet_proto", 12, 1, 0),
        ("inet_service", 13, 2, 2),
        ("mark", 19, 4, 1),
        ("ifname", 41, 16, 1),
        ("inet_proto . inet_service", 12 << 6 | 13, 8, 0),
        ("ipv4_addr . inet_proto . inet_service", 7 << 12 | 12 << 6 | 13, 12, 0),
        ("ether_addr . ifname", 9 << 6 | 41, 24, 0),
    ],
)
@pytest.mark.parametrize("interval", [False, True])
def test_sets(key: str, number: int, length: int, order: int, *, interval: bool) -> None:
    """Key types, their lengths, and the byte order that nft prints them by."""
    attrs = [
        ("NFTA_SET_TABLE", "cnm"),
        ("NFTA_SET_NAME", "keys"),
        ("NFTA_SET_FLAGS", ["NFT_SET_INTERVAL"] if interval else []),
        ("NFTA_SET_KEY_TYPE", number),
        ("NFTA_SET_KEY_LEN", length),
        ("NFTA_SET_ID", 1),
        ("NFTA_SET_USERDATA", [("NFTNL_UDATA_SET_KEYBYTEORDER", _order(order))]),
    ]
    expected = _theirs(nftsocket.nft_set_msg(), nftsocket.NFT_MSG_NEWSET, NEW, "ip", attrs)
    assert _ours(nft.add_set("ip", "cnm", "keys", key, interval=interval)) == expected


@pytest.mark.parametrize(
    ("data", "number", "length", "order"),
    [
        ("verdict", 0xFFFFFF00, 0, 0),
        ("ipv4_addr", 7, 4, 2),
        ("ipv6_addr . inet_service", 8 << 6 | 13, 20, 0),
    ],
)
def test_maps(data: str, number: int, length: int, order: int) -> None:
    """Data types."""
    orders = [
        ("NFTNL_UDATA_SET_KEYBYTEORDER", _order(1)),
        ("NFTNL_UDATA_SET_DATABYTEORDER", _order(order)),
    ]
    attrs = [
        ("NFTA_SET_TABLE", "cnm"),
        ("NFTA_SET_NAME", "map"),
        ("NFTA_SET_FLAGS", ["NFT_SET_MAP"]),
        ("NFTA_SET_KEY_TYPE", 41),
        ("NFTA_SET_KEY_LEN", 16),
        ("NFTA_SET_DATA_TYPE", number),
        ("NFTA_SET_DATA_LEN", length),
        ("NFTA_SET_ID", 1),
        ("NFTA_SET_USERDATA", orders),
    ]
    expected = _theirs(nftsocket.nft_set_msg(), nftsocket.NFT_MSG_NEWSET, NEW, "ip6", attrs)
    assert _ours(nft.add_set("ip6", "cnm", "map", "ifname", data=data)) == expected


def _end(key: bytes) -> dict[str, Any]:
    element: dict[str, Any] = _nla("NFTA_SET_ELEM", KEY=_value(key))
    element["attrs"].append(("NFTA_SET_ELEM_FLAGS", ["NFT_SET_ELEM_INTERVAL_END"]))
    return element


ELEMENTS: list[tuple[Element, list[dict[str, Any]]]] = [
    (Element(ADDRESS), [_nla("NFTA_SET_ELEM", KEY=_value(ADDRESS))]),
    (
        Element(ex.ifname("blue0"), "jump blue"),
        [
            _nla(
                "NFTA_SET_ELEM",
                KEY=_value(b"blue0" + bytes(11)),
                DATA=_verdict(-3, CHAIN="blue"),
            )
        ],
    ),
    (
        Element(
            ex.concatenate(ex.UDP, ex.service(53)),
            ex.concatenate(ADDRESS, ex.service(5353)),
            "wäre",
        ),
        [
            _nla(
                "NFTA_SET_ELEM",
                KEY=_value(b"\x11\0\0\0\0\x35\0\0"),
                DATA=_value(ADDRESS + b"\x14\xe9\0\0"),
                USERDATA=[("NFTNL_UDATA_SET_ELEM_COMMENT", "wäre".encode())],
            )
        ],
    ),
    (
        Element(ADDRESS, "drop", "few", OTHER),
        [
            _nla(
                "NFTA_SET_ELEM",
                KEY=_value(ADDRESS),
                DATA=_verdict(0),
                USERDATA=[("NFTNL_UDATA_SET_ELEM_COMMENT", b"few")],
            ),
            _end(bytes((10, 1, 1, 0))),
        ],
    ),
    (
        Element(ADDRESS, last=b"\xff" * 4),
        [
            _nla(
                "NFTA_SET_ELEM",
                KEY=_value(ADDRESS),
                USERDATA=[("NFTNL_UDATA_SET_ELEM_FLAGS", _order(1))],
            )
        ],
    ),
]


@pytest.fixture
def mended(monkeypatch: pytest.MonkeyPatch) -> None:
    """pyroute2 has the flags of elements as a map, which its encoder cannot number.

    Like nft, it numbers the elements of a list, which the kernel does not read; it dumps
    each as NFTA_LIST_ELEM, as the header has it.
    """
    element = nftsocket.nft_set_elem_list_msg.set_elem
    monkeypatch.setattr(element, "header_type", ex.NFTA_LIST_ELEM, raising=False)
    monkeypatch.setattr(element.set_elem_flags, "ops", ("NFT_SET_ELEM_INTERVAL_END",))


@pytest.mark.usefixtures("mended")
@pytest.mark.parametrize(("element", "attrs"), ELEMENTS)
def test_elements(element: Element, attrs: list[dict[str, Any]]) -> None:
    """Elements with data, verdicts, comments, and intervals."""
    body = [
        ("NFTA_SET_ELEM_LIST_TABLE", "cnm"),
        ("NFTA_SET_ELEM_LIST_SET", "keys"),
        ("NFTA_SET_ELEM_LIST_ELEMENTS", attrs),
    ]
    theirs = nftsocket.nft_set_elem_list_msg
    add = nft.add_elements("ip", "cnm", "keys", [element])
    assert _ours(add) == _theirs(theirs(), 12, NEW, "ip", body)
    add = nft.add_elements("ip", "cnm", "keys", [element], exclusive=True)
    assert _ours(add) == _theirs(theirs(), 12, NEW | 0x200, "ip", body)
    delete = nft.delete_elements("ip", "cnm", "keys", [element])
    assert _ours(delete) == _theirs(theirs(), 14, 0, "ip", body)


@pytest.mark.usefixtures("mended")
def test_several_elements() -> None:
    """All in one list."""
    body = [
        ("NFTA_SET_ELEM_LIST_TABLE", "cnm"),
        ("NFTA_SET_ELEM_LIST_SET", "keys"),
        ("NFTA_SET_ELEM_LIST_ELEMENTS", [each for _, attrs in ELEMENTS for each in attrs]),
    ]
    ours = nft.add_elements("ip", "cnm", "keys", [element for element, _ in ELEMENTS])
    assert _ours(ours) == _theirs(nftsocket.nft_set_elem_list_msg(), 12, NEW, "ip", body)


# --- words


def test_requests_in_words() -> None:
    """What an error is going to name."""
    element = Element(ex.service(80))
    assert [
        request.what
        for request in (
            nft.add_table("ip", "cnm"),
            nft.add_chain("ip6", "cnm", "blue"),
            nft.add_rule("ip", "cnm", "blue", []),
            nft.add_set("ip", "cnm", "ports", "inet_service", data="verdict"),
            nft.add_elements("ip", "cnm", "ports", [element]),
            nft.delete_elements("ip", "cnm", "ports", [element] * 2),
        )
    ] == [
        "add table ip cnm",
        'add chain "blue" to table ip6 cnm',
        'add a rule to chain "blue" of table ip cnm',
        'add map "ports" to table ip cnm',
        'add 0050 to set "ports" of table ip cnm',
        'delete 0050 and 1 more from set "ports" of table ip cnm',
    ]


def test_long_comment() -> None:
    """128 bytes, not characters, are what nft takes."""
    nft.add_elements("ip", "cnm", "keys", [Element(ADDRESS, comment="ü" * 64)])
    with pytest.raises(ValueError, match="at most 128 bytes"):
        nft.add_elements("ip", "cnm", "keys", [Element(ADDRESS, comment="ü" * 64 + "x")])
    with pytest.raises(ValueError, match="at most 128 bytes"):
        nft.add_rule("ip", "cnm", "blue", [], comment="x" * 129)


# --- values and elements, both ways

SIZES = {
    "ipv4_addr": 4,
    "ipv6_addr": 16,
    "ether_addr": 6,
    "inet_proto": 1,
    "inet_service": 2,
    "mark": 4,
    "ifname": 16,
}


@st.composite
def concatenations(draw: st.DrawFn) -> tuple[str, list[bytes]]:
    """Types, and a field of each; the kernel takes 64 bytes, nft five fields."""
    types = draw(st.lists(st.sampled_from(list(SIZES)), min_size=1, max_size=4))
    return " . ".join(types), [draw(st.binary(min_size=SIZES[t], max_size=SIZES[t])) for t in types]


@given(concatenations())
def test_concatenations(concatenation: tuple[str, list[bytes]]) -> None:
    """Fields fill slots of four bytes, where the registers of their type are."""
    types, fields = concatenation
    value = ex.concatenate(*fields)
    assert ex.fields(value, types) == fields
    slots = bytearray(64)
    for register, field in zip(ex.registers(types), fields, strict=True):
        at = 4 * (register - 8) if register >= 8 else 16 * (register - 1)
        assert not any(slots[at : at + len(field)])
        slots[at : at + len(field)] = field
    assert slots.startswith(value)
    if len(fields) == 1:
        assert value == fields[0]
    else:
        assert len(value) == sum(-(-len(field) // 4) * 4 for field in fields)


@pytest.mark.parametrize(
    ("types", "registers"),
    [
        ("ifname", (1,)),
        ("inet_proto . inet_service", (1, 9)),
        ("ipv4_addr . inet_proto . inet_service", (1, 9, 10)),
        ("ipv6_addr . inet_proto . inet_service", (1, 2, 13)),
        ("ether_addr . ifname", (1, 10)),
    ],
)
def test_registers(types: str, registers: tuple[int, ...]) -> None:
    """The numbers that nft uses, and the kernel dumps."""
    assert ex.registers(types) == registers


comments = st.text(
    st.characters(codec="utf-8", exclude_characters="\0"), max_size=ex.COMMENT_MAXLEN // 4
)
verdicts = st.sampled_from(["accept", "drop", "return", "continue", "jump a-b.c", "goto x"])


def _dumped(*elements: Element) -> list[tuple[Element, bool]]:
    """What is decoded from a message with the elements, as the kernel would dump them."""
    return nft._parse(nft.add_elements("ip", "cnm", "keys", elements).body)


@given(st.binary(min_size=1, max_size=64), st.binary(max_size=64) | verdicts, comments)
def test_decoding_elements(key: bytes, data: bytes | str, comment: str) -> None:
    """Whatever an element has comes back."""
    element = Element(key, data, comment)
    if key != b"\xff" * len(key):
        assert _dumped(element) == [(element, False)]


@st.composite
def intervals(draw: st.DrawFn) -> list[Element]:
    """Disjoint intervals of ports, adjacent ones among them, in order."""
    bounds = sorted(draw(st.sets(st.integers(0, 65535), max_size=12)))
    found = []
    for first, last in zip(bounds[::2], bounds[1::2], strict=False):
        found.append(Element(ex.service(first), "drop", str(first), ex.service(last)))
        if draw(st.booleans()) and last + 1 < 65536 and last + 1 not in bounds:
            found.append(Element(ex.service(last + 1), "accept", "", ex.service(last + 1)))
    return found


@given(intervals(), st.randoms(use_true_random=False), st.booleans())
def test_decoding_intervals(elements: list[Element], random: Any, by_nft: bool) -> None:
    """Starts and ends in any order, with nft's end at 0 or without, are the intervals again."""
    dumped = _dumped(*elements)
    if by_nft:
        dumped.append((Element(bytes(2)), True))
    random.shuffle(dumped)
    assert nft._intervals(dumped) == elements


@given(st.binary(max_size=64))
def test_damaged_lists(payload: bytes) -> None:
    """Lists and userdata of any bytes come to an end."""
    ex.list_in(payload)
    ex.comment_in(payload)
