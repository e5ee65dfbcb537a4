"""nf_tables, by what nft lists and by what packets do."""

import json
import os
import socket as sockets
from collections.abc import Callable, Iterator, Sequence
from errno import EBUSY, EEXIST, ENOENT, EPERM
from pathlib import Path
from typing import Any

import pytest

from cnm_core.errors import KernelRefused
from cnm_core.inet import parse_address, parse_ip
from cnm_core.kernel import expressions as ex
from cnm_core.kernel import nftables as nft
from cnm_core.kernel.netlink import Request, Socket
from cnm_core.kernel.nftables import Element
from tests import cni
from tests.iproute import HOST, Netns, run

MakeNetns = Callable[[], Netns]

PORT_KEY = "inet_proto . inet_service"
PORT_DATA = {"ip": "ipv4_addr . inet_service", "ip6": "ipv6_addr . inet_service"}


@pytest.fixture
def socket(node: None) -> Iterator[Socket]:
    """A socket in a network namespace that has no tables, and has none afterwards."""
    opened = nft.open_socket()
    yield opened
    opened.close()
    run("nft", "flush", "ruleset")


def _listing() -> str:
    return run("nft", "list", "ruleset").replace("\t", "    ")


def _objects(kind: str) -> list[dict[str, Any]]:
    listed = json.loads(run("nft", "-j", "list", "ruleset"))["nftables"]
    return [each[kind] for each in listed if kind in each]


def _subnet(cidr: str, data: bytes | str = b"", comment: str = "") -> Element:
    subnet = parse_address(cidr)
    return Element(subnet.ip, data, comment, subnet.last)


def _port(protocol: bytes, port: int, ip: str, to: int, comment: str = "") -> Element:
    key = ex.concatenate(protocol, ex.service(port))
    return Element(key, ex.concatenate(parse_ip(ip), ex.service(to)), comment)


def _to_published(family: str) -> list[bytes]:
    """Lead a port of the host to where the map "ports" says."""
    protocol, port = ex.registers(PORT_KEY)
    to_ip, to_port = ex.registers(PORT_DATA[family])
    return [
        ex.fib_daddr_type(),
        ex.cmp(ex.LOCAL),
        ex.meta("l4proto", protocol),
        ex.payload("th dport", port),
        ex.lookup("ports", protocol, into=to_ip),
        ex.dnat(family, to_ip, to_port),
    ]


def _masqueraded(family: str, subnet: str, bridge: str) -> list[bytes]:
    """Masquerade what leaves a subnet, but not for its own bridge."""
    network = parse_address(subnet)
    ones = (1 << 8 * len(network.ip)) - 1
    mask = (ones ^ (ones >> network.prefix)).to_bytes(len(network.ip), "big")
    return [
        ex.payload(f"{family} saddr"),
        ex.bitwise(mask),
        ex.cmp(network.ip),
        ex.meta("oifname"),
        ex.cmp(ex.ifname(bridge), equal=False),
        ex.masquerade(),
    ]


def _base(family: str, hook: str, kind: str = "nat", priority: int = 0) -> Request:
    return nft.add_base_chain(
        family, "cnm", hook, kind=kind, hook=hook, priority=priority, policy="accept"
    )


# --- what nft lists


def _ip() -> list[Request]:
    """Every kind of set, map, chain, element and expression of a table for IPv4."""
    ipv4, protocol, port = ex.registers("ipv4_addr . inet_proto . inet_service")
    to_ip, to_port = ex.registers("ipv4_addr . inet_service")
    ether, name = ex.registers("ether_addr . ifname")
    first, last = parse_ip("10.9.0.5"), parse_ip("10.9.0.9")
    rules = [
        ("prerouting", _to_published("ip"), "published ports"),
        (
            "prerouting",
            [
                ex.payload("ip daddr", ipv4),
                ex.meta("l4proto", protocol),
                ex.payload("th dport", port),
                ex.lookup("address_ports", ipv4, into=to_ip),
                ex.dnat("ip", to_ip, to_port),
            ],
            "",
        ),
        (
            "prerouting",
            [
                ex.meta("l4proto"),
                ex.cmp(ex.TCP),
                ex.payload("th dport"),
                ex.cmp(ex.service(80)),
                ex.immediate(parse_ip("10.1.0.3")),
                ex.dnat("ip"),
            ],
            "",
        ),
        ("postrouting", _masqueraded("ip", "10.1.0.0/24", "br-blue"), "network blue"),
        ("postrouting", [ex.masquerade(ex.FULLY_RANDOM)], ""),
        (
            "postrouting",
            [ex.immediate(parse_ip("192.0.2.1")), ex.snat("ip", flags=ex.PERSISTENT)],
            "",
        ),
        ("forward", [ex.payload("ip saddr"), ex.lookup("networks", into=ex.VERDICT)], ""),
        ("forward", [ex.meta("iifname"), ex.lookup("bridges", into=ex.VERDICT)], ""),
        (
            "forward",
            [
                ex.payload("ip saddr"),
                ex.lookup("trusted"),
                ex.payload("ip daddr"),
                ex.lookup("trusted", inverted=True),
                ex.counter(),
                ex.verdict("accept"),
            ],
            "",
        ),
        (
            "forward",
            [ex.ct("state"), ex.any_of(ex.ESTABLISHED | ex.RELATED), ex.verdict("accept")],
            "",
        ),
        ("forward", [ex.ct("status"), ex.any_of(ex.DNATTED), ex.verdict("return")], ""),
        (
            "forward",
            [
                ex.ct("mark"),
                ex.bitwise(ex.mark(0x1000)),
                ex.cmp(ex.mark(0x1000)),
                ex.verdict("drop"),
            ],
            "",
        ),
        (
            "forward",
            [
                ex.meta("iiftype"),
                ex.cmp(ex.ETHER),
                ex.payload("ether saddr", ether),
                ex.meta("iifname", name),
                ex.lookup("spoofed", ether),
                ex.verdict("drop"),
            ],
            "",
        ),
        (
            "forward",
            [ex.payload("th sport"), ex.lookup("services"), ex.verdict("goto blue")],
            "",
        ),
        ("blue", [ex.meta("oifname"), ex.cmp(ex.ifname("eth0")), ex.verdict("jump red")], ""),
        ("blue", [ex.verdict("return")], "the end"),
    ]
    return [
        nft.add_table("ip", "cnm"),
        nft.add_set("ip", "cnm", "ports", PORT_KEY, data=PORT_DATA["ip"]),
        nft.add_set("ip", "cnm", "address_ports", f"ipv4_addr . {PORT_KEY}", data=PORT_DATA["ip"]),
        nft.add_set("ip", "cnm", "networks", "ipv4_addr", data="verdict", interval=True),
        nft.add_set("ip", "cnm", "bridges", "ifname", data="verdict"),
        nft.add_set("ip", "cnm", "marks", "ifname", data="mark"),
        nft.add_set("ip", "cnm", "trusted", "ipv4_addr", interval=True),
        nft.add_set("ip", "cnm", "spoofed", "ether_addr . ifname"),
        nft.add_set("ip", "cnm", "services", "inet_service", interval=True),
        nft.add_set("ip", "cnm", "protocols", "inet_proto"),
        nft.add_chain("ip", "cnm", "blue"),
        nft.add_chain("ip", "cnm", "red"),
        _base("ip", "prerouting", priority=nft.DSTNAT),
        _base("ip", "postrouting", priority=nft.SRCNAT),
        nft.add_base_chain(
            "ip",
            "cnm",
            "forward",
            kind="filter",
            hook="forward",
            priority=nft.FILTER,
            policy="drop",
        ),
        *(nft.add_rule("ip", "cnm", chain, body, comment) for chain, body, comment in rules),
        nft.add_elements(
            "ip",
            "cnm",
            "ports",
            [
                _port(ex.TCP, 8080, "10.1.0.2", 80, "pod-1 eth0"),
                _port(ex.UDP, 53, "10.1.0.3", 53),
            ],
        ),
        nft.add_elements(
            "ip",
            "cnm",
            "address_ports",
            [
                Element(
                    ex.concatenate(parse_ip("192.0.2.1"), ex.SCTP, ex.service(9)),
                    ex.concatenate(parse_ip("10.1.0.2"), ex.service(99)),
                    "pod-1 eth0",
                )
            ],
        ),
        nft.add_elements(
            "ip",
            "cnm",
            "networks",
            [_subnet("10.1.0.0/24", "jump blue", "blue"), _subnet("10.1.1.0/24", "goto red")],
        ),
        nft.add_elements(
            "ip",
            "cnm",
            "bridges",
            [
                Element(ex.ifname("br-blue"), "jump blue", "blue"),
                Element(ex.ifname("a-link-of-15-by"), "accept"),
            ],
        ),
        nft.add_elements("ip", "cnm", "marks", [Element(ex.ifname("eth0"), ex.mark(0x10))]),
        nft.add_elements(
            "ip",
            "cnm",
            "trusted",
            [Element(first, comment="few", last=last), _subnet("240.0.0.0/4")],
        ),
        nft.add_elements(
            "ip",
            "cnm",
            "spoofed",
            [Element(ex.concatenate(b"\2\x42\0\0\0\1", ex.ifname("veth1")), comment="pod-1")],
        ),
        nft.add_elements("ip", "cnm", "services", [Element(ex.service(80), last=ex.service(443))]),
        nft.add_elements("ip", "cnm", "protocols", [Element(ex.TCP), Element(ex.UDP)]),
    ]


IP = """\
table ip cnm {
    map ports {
        type inet_proto . inet_service : ipv4_addr . inet_service
        elements = { udp . 53 : 10.1.0.3 . 53,
                 tcp . 8080 comment "pod-1 eth0" : 10.1.0.2 . 80 }
    }

    map address_ports {
        type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service
        elements = { 192.0.2.1 . sctp . 9 comment "pod-1 eth0" : 10.1.0.2 . 99 }
    }

    map networks {
        type ipv4_addr : verdict
        flags interval
        elements = { 10.1.0.0/24 comment "blue" : jump blue, 10.1.1.0/24 : goto red }
    }

    map bridges {
        type ifname : verdict
        elements = { "br-blue" comment "blue" : jump blue,
                 "a-link-of-15-by" : accept }
    }

    map marks {
        type ifname : mark
        elements = { "eth0" : 0x00000010 }
    }

    set trusted {
        type ipv4_addr
        flags interval
        elements = { 10.9.0.5-10.9.0.9 comment "few", 240.0.0.0/4 }
    }

    set spoofed {
        type ether_addr . ifname
        elements = { 02:42:00:00:00:01 . "veth1" comment "pod-1" }
    }

    set services {
        type inet_service
        flags interval
        elements = { 80-443 }
    }

    set protocols {
        type inet_proto
        elements = { tcp, udp }
    }

    chain blue {
        oifname "eth0" jump red
        return comment "the end"
    }

    chain red {
    }

    chain prerouting {
        type nat hook prerouting priority dstnat; policy accept;
        fib daddr type local dnat ip to meta l4proto . th dport map @ports comment "published ports"
        dnat ip to ip daddr . meta l4proto . th dport map @address_ports
        tcp dport 80 dnat to 10.1.0.3
    }

    chain postrouting {
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr 10.1.0.0/24 oifname != "br-blue" masquerade comment "network blue"
        masquerade fully-random
        snat to 192.0.2.1 persistent
    }

    chain forward {
        type filter hook forward priority filter; policy drop;
        ip saddr vmap @networks
        iifname vmap @bridges
        ip saddr @trusted ip daddr != @trusted counter packets 0 bytes 0 accept
        ct state established,related accept
        ct status dnat return
        ct mark & 0x00001000 == 0x00001000 drop
        ether saddr . iifname @spoofed drop
        th sport @services goto blue
    }
}
"""


def _ip6() -> list[Request]:
    return [
        nft.add_table("ip6", "cnm"),
        nft.add_set("ip6", "cnm", "ports", PORT_KEY, data=PORT_DATA["ip6"]),
        nft.add_set("ip6", "cnm", "networks", "ipv6_addr", data="verdict", interval=True),
        nft.add_chain("ip6", "cnm", "blue"),
        _base("ip6", "prerouting", priority=nft.DSTNAT),
        _base("ip6", "postrouting", priority=nft.SRCNAT),
        nft.add_rule("ip6", "cnm", "prerouting", _to_published("ip6")),
        nft.add_rule("ip6", "cnm", "postrouting", _masqueraded("ip6", "fd00:1::/64", "br-blue")),
        nft.add_rule(
            "ip6",
            "cnm",
            "postrouting",
            [ex.payload("ip6 saddr"), ex.lookup("networks", into=ex.VERDICT)],
        ),
        nft.add_rule(
            "ip6",
            "cnm",
            "blue",
            [
                ex.payload("ip6 daddr"),
                ex.cmp(parse_ip("fd00:1::9")),
                ex.immediate(parse_ip("2001:db8::1")),
                ex.snat("ip6"),
            ],
        ),
        nft.add_elements(
            "ip6", "cnm", "ports", [_port(ex.TCP, 8080, "fd00:1::2", 80, "pod-1 eth0")]
        ),
        nft.add_elements("ip6", "cnm", "networks", [_subnet("fd00:1::/64", "jump blue", "blue")]),
    ]


IP6 = """\
table ip6 cnm {
    map ports {
        type inet_proto . inet_service : ipv6_addr . inet_service
        elements = { tcp . 8080 comment "pod-1 eth0" : fd00:1::2 . 80 }
    }

    map networks {
        type ipv6_addr : verdict
        flags interval
        elements = { fd00:1::/64 comment "blue" : jump blue }
    }

    chain blue {
        ip6 daddr fd00:1::9 snat to 2001:db8::1
    }

    chain prerouting {
        type nat hook prerouting priority dstnat; policy accept;
        fib daddr type local dnat ip6 to meta l4proto . th dport map @ports
    }

    chain postrouting {
        type nat hook postrouting priority srcnat; policy accept;
        ip6 saddr fd00:1::/64 oifname != "br-blue" masquerade
        ip6 saddr vmap @networks
    }
}
"""


def _bridge() -> list[Request]:
    ether, name = ex.registers("ether_addr . ifname")
    return [
        nft.add_table("bridge", "cnm"),
        nft.add_set("bridge", "cnm", "own", "ether_addr . ifname"),
        _base("bridge", "forward", kind="filter", priority=-200),
        nft.add_rule(
            "bridge",
            "cnm",
            "forward",
            [
                ex.payload("ether saddr", ether),
                ex.meta("iifname", name),
                ex.lookup("own", ether, inverted=True),
                ex.verdict("drop"),
            ],
            "no other MAC address",
        ),
        nft.add_elements(
            "bridge",
            "cnm",
            "own",
            [Element(ex.concatenate(b"\2\x42\0\0\0\1", ex.ifname("veth1")), comment="pod-1")],
        ),
    ]


BRIDGE = """\
table bridge cnm {
    set own {
        type ether_addr . ifname
        elements = { 02:42:00:00:00:01 . "veth1" comment "pod-1" }
    }

    chain forward {
        type filter hook forward priority filter; policy accept;
        ether saddr . iifname != @own drop comment "no other MAC address"
    }
}
"""

LISTINGS = [("ip", _ip, IP), ("ip6", _ip6, IP6), ("bridge", _bridge, BRIDGE)]
CHAINS = ("blue", "prerouting", "postrouting", "forward")


def _sorted(listing: str) -> list[str]:
    """The words of a listing: elements are listed in the order of a seeded hash."""
    return sorted(listing.replace(",", " ").split())


@pytest.mark.parametrize(("family", "build", "text"), LISTINGS)
def test_listing(
    socket: Socket, family: str, build: Callable[[], list[Request]], text: str
) -> None:
    """nft shows what a human would have written."""
    nft.commit(socket, build())
    listing = _listing()
    print(listing)
    assert _sorted(listing) == _sorted(text)
    without = [line for line in text.splitlines() if "elements" not in line and " . " not in line]
    assert [line for line in without if line not in listing.splitlines()] == []


def _contents(socket: Socket, family: str) -> dict[str, Any]:
    """Everything that we read of a table."""
    sets = [(each["name"], "flags" in each) for kind in ("set", "map") for each in _objects(kind)]
    found: dict[str, Any] = {
        chain: [
            (rule.comment, rule.expressions) for rule in nft.rules(socket, family, "cnm", chain)
        ]
        for chain in CHAINS
    }
    for name, interval in sets:
        listed = nft.elements(socket, family, "cnm", name, interval=interval)
        found[name] = sorted(listed, key=lambda element: element.key)
    return found


@pytest.mark.parametrize(("family", "build", "text"), LISTINGS)
def test_nft_encodes_the_same(
    socket: Socket, tmp_path: Path, family: str, build: Callable[[], list[Request]], text: str
) -> None:
    """What nft makes of the text reads as what we made, but for masks of whole bytes."""
    nft.commit(socket, build())
    ours = _contents(socket, family)
    run("nft", "flush", "ruleset")
    (tmp_path / "ruleset").write_text(text)
    run("nft", "-f", str(tmp_path / "ruleset"))
    theirs = _contents(socket, family)
    if ours.get("postrouting"):
        # "ip saddr 10.1.0.0/24": nft loads three bytes and compares them, without a mask.
        assert ours["postrouting"].pop(0)[0] == theirs["postrouting"].pop(0)[0]
    assert ours == theirs


def test_readable_by_json(socket: Socket) -> None:
    """Comments and verdicts are where programs look for them."""
    nft.commit(socket, _ip())
    maps = {each["name"]: each for each in _objects("map")}
    assert maps["networks"]["elem"][0] == [
        {"elem": {"val": {"prefix": {"addr": "10.1.0.0", "len": 24}}, "comment": "blue"}},
        {"jump": {"target": "blue"}},
    ]
    assert maps["ports"]["type"] == ["inet_proto", "inet_service"]
    assert {each.get("comment") for each in _objects("rule")} == {
        None,
        "published ports",
        "network blue",
        "the end",
    }


# --- tables, chains and rules


def test_existence(socket: Socket) -> None:
    """Tables and chains come, stay when they are added again, and go."""
    assert not nft.table_exists(socket, "ip", "cnm")
    assert nft.chain_uses(socket, "ip", "cnm", ["blue"]) == {}
    build = [nft.add_table("ip", "cnm"), nft.add_chain("ip", "cnm", "blue")]
    for _ in range(2):
        nft.commit(socket, build)
        assert nft.table_exists(socket, "ip", "cnm")
        assert not nft.table_exists(socket, "ip6", "cnm")
        assert nft.chain_uses(socket, "ip", "cnm", ["red", "blue"]) == {"blue": 0}
    nft.commit(socket, [nft.delete_chain("ip", "cnm", "blue")])
    assert nft.chain_uses(socket, "ip", "cnm", ["blue"]) == {}
    nft.commit(socket, [nft.delete_table("ip", "cnm")])
    assert not nft.table_exists(socket, "ip", "cnm")


def test_uses_of_chains(socket: Socket) -> None:
    """Rules in a chain count, and so do jumps to it from rules and from elements."""
    drop = [ex.verdict("drop")]
    jump = Element(ex.ifname("br0"), "jump blue")
    build = [
        nft.add_table("ip", "cnm"),
        *(nft.add_chain("ip", "cnm", chain) for chain in ("blue", "red")),
        nft.add_set("ip", "cnm", "bridges", "ifname", data="verdict"),
        nft.add_elements("ip", "cnm", "bridges", [jump]),
        nft.add_rule("ip", "cnm", "red", [ex.verdict("jump blue")]),
        *(nft.add_rule("ip", "cnm", "blue", drop) for _ in range(3)),
    ]
    nft.commit(socket, build)
    assert nft.chain_uses(socket, "ip", "cnm", ["blue", "red"]) == {"blue": 5, "red": 1}
    nft.commit(socket, [nft.flush_chain("ip", "cnm", "blue")])
    assert nft.chain_uses(socket, "ip", "cnm", ["blue", "red"]) == {"blue": 2, "red": 1}


def test_all_again(socket: Socket) -> None:
    """Everything but rules may be added again as it is."""
    for build in (_ip, _ip6, _bridge):
        nft.commit(socket, build())
    before = _listing()
    again = [each for build in (_ip, _ip6, _bridge) for each in build()]
    nft.commit(socket, [each for each in again if not each.what.startswith("add a rule")])
    assert _sorted(_listing()) == _sorted(before)


def test_policy(socket: Socket) -> None:
    """A base chain that is added again takes the new policy."""
    for policy in ("accept", "drop"):
        chain = nft.add_base_chain(
            "ip", "cnm", "in", kind="filter", hook="input", priority=5, policy=policy
        )
        nft.commit(socket, [nft.add_table("ip", "cnm"), chain])
        listed = _objects("chain")[0]
        assert (listed["hook"], listed["prio"], listed["policy"]) == ("input", 5, policy)


@pytest.mark.parametrize(("family", "build", "text"), LISTINGS)
def test_rules_as_sent(
    socket: Socket, family: str, build: Callable[[], list[Request]], text: str
) -> None:
    """What is read back is equal to what was sent, comment included."""
    requests = build()
    nft.commit(socket, requests)
    found = [rule for chain in CHAINS for rule in nft.rules(socket, family, "cnm", chain)]
    assert len(found) == sum(each.what.startswith("add a rule") for each in requests)
    for rule in found:
        same = [
            each
            for chain in CHAINS
            for each in requests
            if each.body
            == nft.add_rule(family, "cnm", chain, [rule.expressions], rule.comment).body
        ]
        assert len(same) == 1


def test_counter_as_sent(socket: Socket) -> None:
    """A counter that has counted is still the same rule."""
    rule = [ex.counter(), ex.verdict("accept")]
    chain = _base("ip", "output", kind="filter")
    nft.commit(
        socket, [nft.add_table("ip", "cnm"), chain, nft.add_rule("ip", "cnm", "output", rule)]
    )
    assert HOST.reaches("127.0.0.1")
    assert "packets 0 " not in _listing()
    assert nft.rules(socket, "ip", "cnm", "output")[0].expressions == b"".join(rule)


def test_deleting_rules(socket: Socket) -> None:
    """All rules of a chain go by a flush, those of others stay."""
    build = [nft.add_table("ip", "cnm"), *(nft.add_chain("ip", "cnm", name) for name in "ab")]
    for name in "ab":
        build += [nft.add_rule("ip", "cnm", name, [ex.counter()], text) for text in "xyz"]
    nft.commit(socket, build)
    assert [rule.comment for rule in nft.rules(socket, "ip", "cnm", "a")] == ["x", "y", "z"]
    nft.commit(socket, [nft.flush_chain("ip", "cnm", "a")])
    assert nft.rules(socket, "ip", "cnm", "a") == []
    assert len(nft.rules(socket, "ip", "cnm", "b")) == 3


def test_rules_of_nothing(socket: Socket) -> None:
    """A chain or table that is not there has no rules."""
    assert nft.rules(socket, "ip", "cnm", "a") == []
    nft.commit(socket, [nft.add_table("ip", "cnm")])
    assert nft.rules(socket, "ip", "cnm", "a") == []


def test_deleting_a_chain(socket: Socket) -> None:
    """A chain goes with its rules, in the batch that removes the last jump to it."""
    jump = Element(ex.ifname("br-blue"), "jump blue")
    build = [
        nft.add_table("ip", "cnm"),
        nft.add_chain("ip", "cnm", "blue"),
        nft.add_rule("ip", "cnm", "blue", [ex.verdict("accept")]),
        nft.add_set("ip", "cnm", "bridges", "ifname", data="verdict"),
        nft.add_elements("ip", "cnm", "bridges", [jump]),
    ]
    nft.commit(socket, build)
    delete = nft.delete_chain("ip", "cnm", "blue")
    with pytest.raises(KernelRefused) as refused:
        nft.commit(socket, [delete])
    assert refused.value.errno == EBUSY
    nft.commit(socket, [nft.delete_elements("ip", "cnm", "bridges", [jump]), delete])
    assert nft.chain_uses(socket, "ip", "cnm", ["blue"]) == {}


# --- elements

HASHED = [
    ("inet_service", "", [Element(ex.service(number), b"", str(number)) for number in (1, 65535)]),
    (PORT_KEY, PORT_DATA["ip"], [_port(ex.TCP, 1, "10.1.0.2", 2), _port(ex.UDP, 1, "::", 2)]),
    ("ifname", "verdict", [Element(ex.ifname(name), f"jump {name}") for name in "ab"]),
    ("ifname", "verdict", [Element(ex.ifname("a"), "goto a", "x"), Element(bytes(16), "drop")]),
    ("ether_addr . ifname", "", [Element(bytes(24)), Element(bytes(range(6)) + bytes(18))]),
    ("ipv6_addr", "mark", [Element(bytes(16), ex.mark(1)), Element(bytes(15) + b"\1", bytes(4))]),
]
RANGES = [
    ("ipv4_addr", "", [_subnet("10.0.0.0/8"), _subnet("11.0.0.0/8"), _subnet("192.0.2.1/32")]),
    ("ipv4_addr", "verdict", [_subnet("0.0.0.0/1", "drop"), _subnet("128.0.0.0/1", "accept", "x")]),
    ("ipv6_addr", "verdict", [_subnet("fd00::/8", "jump a"), _subnet("fe00::/9", "goto b", "x")]),
    ("inet_service", "", [Element(ex.service(1), last=ex.service(9), comment="few")]),
]


def _with_set(key: str, data: str, *, interval: bool) -> list[Request]:
    return [
        nft.add_table("ip", "cnm"),
        *(nft.add_chain("ip", "cnm", name) for name in "ab"),
        nft.add_set("ip", "cnm", "keys", key, data=data, interval=interval),
    ]


def _round_trip(
    socket: Socket, key: str, data: str, elements: Sequence[Element], *, interval: bool
) -> None:
    def listed() -> list[Element]:
        found = nft.elements(socket, "ip", "cnm", "keys", interval=interval)
        return sorted(found, key=lambda element: element.key)

    def find(element: Element) -> Element | None:
        return nft.find_element(socket, "ip", "cnm", "keys", element.last or element.key)

    elements = sorted(elements, key=lambda element: element.key)
    first, *others = elements
    add = nft.add_elements("ip", "cnm", "keys", elements)
    delete = nft.delete_elements("ip", "cnm", "keys", [first])
    nft.commit(socket, [*_with_set(key, data, interval=interval), add])
    assert listed() == elements
    assert [find(element) for element in elements] == [
        element.replace(last=b"") for element in elements
    ]
    nft.commit(socket, [delete])
    assert listed() == others
    assert find(first) is None
    with pytest.raises(KernelRefused) as refused:
        nft.commit(socket, [delete])
    assert refused.value.errno == ENOENT
    assert 'from set "keys" of table ip cnm' in refused.value.msg
    nft.commit(socket, [add])
    assert listed() == elements


@pytest.mark.parametrize(("key", "data", "elements"), HASHED)
def test_elements(socket: Socket, key: str, data: str, elements: list[Element]) -> None:
    """Elements of all types can be added, found, listed and deleted."""
    if any(len(element.data) == 20 for element in elements):
        elements = elements[:1]
    _round_trip(socket, key, data, elements, interval=False)


@pytest.mark.parametrize(("key", "data", "elements"), RANGES)
def test_intervals(socket: Socket, key: str, data: str, elements: list[Element]) -> None:
    """Also intervals, adjacent ones and those that end with the last key."""
    _round_trip(socket, key, data, elements, interval=True)


def test_intervals_by_nft(socket: Socket) -> None:
    """We delete what nft has added, and the other way round."""
    nft.commit(socket, _with_set("ipv4_addr", "", interval=True))
    nft.commit(socket, [nft.add_elements("ip", "cnm", "keys", [_subnet("10.2.0.0/24")])])
    run("nft", "add element ip cnm keys { 10.0.0.0/24, 10.0.2.0/24, 240.0.0.0/4 }")
    subnets = [_subnet(each) for each in ("10.0.0.0/24", "10.0.2.0/24", "10.2.0.0/24")]
    subnets.append(_subnet("240.0.0.0/4"))
    assert nft.elements(socket, "ip", "cnm", "keys", interval=True) == subnets
    run("nft", "delete element ip cnm keys { 10.2.0.0/24 }")
    nft.commit(socket, [nft.delete_elements("ip", "cnm", "keys", [subnets[1], subnets[3]])])
    assert nft.elements(socket, "ip", "cnm", "keys", interval=True) == subnets[:1]


def test_finding_nothing(socket: Socket) -> None:
    """No table, no set, no element."""
    key = ex.service(80)
    assert nft.find_element(socket, "ip", "cnm", "keys", key) is None
    nft.commit(socket, [nft.add_table("ip", "cnm")])
    assert nft.find_element(socket, "ip", "cnm", "keys", key) is None
    nft.commit(socket, _with_set("inet_service", "", interval=False))
    assert nft.find_element(socket, "ip", "cnm", "keys", key) is None
    assert nft.elements(socket, "ip", "cnm", "keys") == []
    assert nft.elements(socket, "ip", "cnm", "others") == []
    assert nft.elements(socket, "ip6", "cnm", "keys") == []


def test_adding_again(socket: Socket) -> None:
    """The same element may be added again; not with other data, nor exclusively."""
    element = _port(ex.TCP, 80, "10.1.0.2", 80, "pod-1")
    add = nft.add_elements("ip", "cnm", "keys", [element])
    nft.commit(socket, [*_with_set(PORT_KEY, PORT_DATA["ip"], interval=False), add, add])
    other = _port(ex.TCP, 80, "10.1.0.3", 80, "pod-2")
    for request in (
        nft.add_elements("ip", "cnm", "keys", [other]),
        nft.add_elements("ip", "cnm", "keys", [element], exclusive=True),
    ):
        with pytest.raises(KernelRefused) as refused:
            nft.commit(socket, [request])
        assert refused.value.errno == EEXIST
    assert nft.elements(socket, "ip", "cnm", "keys") == [element]


def test_longest_comment(socket: Socket, tmp_path: Path) -> None:
    """nft lists the longest comment, and reads it again."""
    comment = "ü" * (ex.COMMENT_MAXLEN // 2)
    element = Element(ex.service(80), comment=comment)
    build = [
        *_with_set("inet_service", "", interval=False),
        nft.add_elements("ip", "cnm", "keys", [element]),
        nft.add_rule("ip", "cnm", "a", [ex.counter()], comment),
    ]
    nft.commit(socket, build)
    (tmp_path / "ruleset").write_text(run("nft", "list", "ruleset"))
    run("nft", "flush", "ruleset")
    run("nft", "-f", str(tmp_path / "ruleset"))
    assert nft.elements(socket, "ip", "cnm", "keys") == [element]
    assert nft.rules(socket, "ip", "cnm", "a")[0].comment == comment


# --- batches

FAILURES = [
    (nft.add_chain("ip", "nowhere", "a"), ENOENT, 'add chain "a" to table ip nowhere'),
    (nft.delete_chain("ip", "cnm", "b"), ENOENT, 'delete chain "b" of table ip cnm'),
    (
        nft.add_rule("ip", "cnm", "a", [ex.meta("iifname"), ex.lookup("none")]),
        ENOENT,
        'add a rule to chain "a" of table ip cnm',
    ),
    (
        nft.delete_elements("ip", "cnm", "keys", [Element(ex.service(80))]),
        ENOENT,
        'delete 0050 from set "keys" of table ip cnm',
    ),
]


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize(("request_of", "errno", "what"), FAILURES)
def test_all_or_nothing(
    socket: Socket, request_of: Request, errno: int, what: str, at: int
) -> None:
    """A failure anywhere is named and leaves everything as it was."""
    build = [
        nft.add_table("ip", "cnm"),
        nft.add_chain("ip", "cnm", "a"),
        nft.add_set("ip", "cnm", "keys", "inet_service"),
    ]
    nft.commit(socket, build)
    before = _listing()
    batch = [nft.add_chain("ip", "cnm", "new"), nft.add_table("ip6", "cnm")]
    batch.insert(at, request_of)
    with pytest.raises(KernelRefused) as refused:
        nft.commit(socket, batch)
    assert refused.value.errno == errno
    assert refused.value.msg == f"cannot {what}: {os.strerror(errno)}"
    assert _listing() == before


def test_first_of_failures(socket: Socket) -> None:
    """Of several failures the first is named, and the socket is good for more."""
    batch = [nft.add_table("ip", "cnm"), *(request for request, _, _ in FAILURES)]
    with pytest.raises(KernelRefused, match='add chain "a" to table ip nowhere'):
        nft.commit(socket, batch)
    nft.commit(socket, batch[:1])
    assert nft.table_exists(socket, "ip", "cnm")


def test_empty_batch(socket: Socket) -> None:
    """Nothing to do is done."""
    nft.commit(socket, [])


def test_more_failures_than_fit(socket: Socket) -> None:
    """Also where the answers overflow the receive buffer, and after that."""
    nft.commit(socket, _with_set("inet_service", "", interval=False))
    delete = [
        nft.delete_elements("ip", "cnm", "keys", [Element(ex.service(port))])
        for port in range(1, 5000)
    ]
    with pytest.raises(KernelRefused, match='delete 0001 from set "keys"') as refused:
        nft.commit(socket, delete)
    assert refused.value.errno == ENOENT
    with pytest.raises(KernelRefused, match='delete 0002 from set "keys"'):
        nft.commit(socket, delete[1:3])
    assert nft.elements(socket, "ip", "cnm", "keys") == []


@pytest.mark.parametrize("together", [1, 250])
def test_large_batch(socket: Socket, together: int) -> None:
    """Thousands of ports at once: more than a socket sends by default."""
    ports = [_port(ex.TCP, port, "10.1.0.2", port, "x" * 64) for port in range(1, 5001)]
    groups = [ports[at : at + together] for at in range(0, len(ports), together)]
    adding = [nft.add_elements("ip", "cnm", "keys", group) for group in groups]
    nft.commit(socket, [*_with_set(PORT_KEY, PORT_DATA["ip"], interval=False), *adding])
    found = nft.elements(socket, "ip", "cnm", "keys")
    assert sorted(found, key=lambda element: element.key) == ports
    nft.commit(socket, [nft.delete_elements("ip", "cnm", "keys", group) for group in groups])
    assert nft.elements(socket, "ip", "cnm", "keys") == []


def test_without_privileges(node: None) -> None:
    """What stops the whole batch is said too."""
    os.seteuid(65534)
    try:
        socket = nft.open_socket()
        with pytest.raises(KernelRefused, match=r"^cannot change nftables: ") as refused:
            nft.commit(socket, [nft.add_table("ip", "cnm")])
        socket.close()
    finally:
        os.seteuid(0)
    assert refused.value.errno == EPERM


class Disturbed(Socket):
    """A socket that does something once, after a number of answers, one if not said."""

    disturb: Callable[[], None] | None = None
    after = 1

    def _receive(self, flags: int = 0) -> Iterator[tuple[int, int, int, bytes]]:
        yield from super()._receive(flags)
        self.after -= 1
        if self.disturb is not None and self.after <= 0:
            disturb, self.disturb = self.disturb, None
            disturb()


def test_change_while_listing(socket: Socket) -> None:
    """A listing is of one moment: it is taken again if something changes meanwhile."""
    old = [_port(ex.TCP, port, "10.1.0.2", port, "x" * 64) for port in range(1, 2001)]
    new = [_port(ex.UDP, port, "10.1.0.2", port, "x" * 64) for port in range(1, 2001)]
    build = _with_set(PORT_KEY, PORT_DATA["ip"], interval=False)
    build += [nft.add_elements("ip", "cnm", "keys", [element]) for element in old]
    rules = [nft.add_rule("ip", "cnm", "a", [ex.counter()], f"{'x' * 99} {n}") for n in range(999)]
    nft.commit(socket, build + rules)

    def change() -> None:
        exchange = [nft.delete_elements("ip", "cnm", "keys", [each]) for each in old]
        exchange += [nft.add_elements("ip", "cnm", "keys", [each]) for each in new]
        nft.commit(socket, [*exchange, nft.flush_chain("ip", "cnm", "a")])

    disturbed = Disturbed(nft.NETLINK_NETFILTER)
    disturbed.disturb = change
    found = nft.elements(disturbed, "ip", "cnm", "keys")
    assert sorted(found, key=lambda element: element.key) == new
    nft.commit(socket, rules)
    disturbed.disturb = lambda: nft.commit(socket, [nft.flush_chain("ip", "cnm", "a")])
    assert nft.rules(disturbed, "ip", "cnm", "a") == []
    disturbed.close()


def test_larger_table_while_listing(socket: Socket) -> None:
    """A listing is whole though the kernel moves the set to another hash table meanwhile.

    A batch that fails grows the table, and changes nothing else: no transaction ends.
    """
    ports = [_port(ex.TCP, port, "10.1.0.2", port, "") for port in range(1, 20001)]
    there, more = ports[:2000], ports[2000:]
    build = _with_set(PORT_KEY, PORT_DATA["ip"], interval=False)
    nft.commit(socket, [*build, *(nft.add_elements("ip", "cnm", "keys", [p]) for p in there)])
    generations = []

    def grow() -> None:
        adding = [nft.add_elements("ip", "cnm", "keys", [port]) for port in more]
        with pytest.raises(KernelRefused, match="nowhere"):
            nft.commit(socket, [*adding, nft.delete_table("ip", "nowhere")])
        generations.append(nft._generation(socket))

    generations.append(nft._generation(socket))
    disturbed = Disturbed(nft.NETLINK_NETFILTER)
    disturbed.after, disturbed.disturb = 3, grow  # the generation is two answers
    found = nft.elements(disturbed, "ip", "cnm", "keys")
    assert sorted(found, key=lambda element: element.key) == there
    assert generations[0] == generations[1]
    disturbed.close()


# --- packets

HOST_SIDE = {"ip": "10.1.0.1", "ip6": "fd00:1::1"}
CONTAINER = {"ip": "10.1.0.2", "ip6": "fd00:1::2"}
SUBNET = {"ip": "10.1.0.0/24", "ip6": "fd00:1::/64"}
UPLINK = {"ip": "192.0.2.1", "ip6": "2001:db8::1"}
OUTSIDE = {"ip": "192.0.2.2", "ip6": "2001:db8::2"}
LENGTH = {"ip": 24, "ip6": 64}
KINDS = {ex.TCP: sockets.SOCK_STREAM, ex.UDP: sockets.SOCK_DGRAM}


@pytest.fixture
def router(socket: Socket, netns: MakeNetns) -> tuple[Netns, Netns]:
    """A container, whose gateway the host is, and an outside, which has no way to it."""
    container, outside = netns(), netns()
    for link, far, ours, theirs in (
        ("blue0", container, HOST_SIDE, CONTAINER),
        ("uplink", outside, UPLINK, OUTSIDE),
    ):
        HOST.ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", far.name)
        for family, length in LENGTH.items():
            flags = ["nodad"] if family == "ip6" else []
            HOST.ip("addr", "add", f"{ours[family]}/{length}", "dev", link, *flags)
            far.ip("addr", "add", f"{theirs[family]}/{length}", "dev", "eth0", *flags)
        HOST.ip("link", "set", link, "up")
        far.ip("link", "set", "eth0", "up")
    for gateway in HOST_SIDE.values():
        container.ip("route", "add", "default", "via", gateway)
    for path in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        Path("/proc/sys/net", path).write_text("1")
    # An address of IPv6 may be in use a moment after it is added (addrconf_dad_work).
    for far, gateways in ((container, HOST_SIDE), (outside, UPLINK)):
        assert all(far.reaches(each, seconds=cni.PATIENCE) for each in gateways.values())
    return container, outside


def _conversation(
    protocol: bytes, client: Netns, to: tuple[str, int], server: Netns, at: tuple[str, int]
) -> tuple[str, bytes]:
    """From where the server sees the client come, and what the client gets back."""
    family = sockets.AF_INET6 if ":" in to[0] else sockets.AF_INET
    with server.entered():
        listening = sockets.socket(family, KINDS[protocol])
    with client.entered():
        near = sockets.socket(family, KINDS[protocol])
    with listening, near:
        for each in (listening, near):
            each.settimeout(cni.PATIENCE)
        listening.setsockopt(sockets.SOL_SOCKET, sockets.SO_REUSEADDR, 1)
        listening.bind(at)
        if protocol == ex.TCP:
            listening.listen()
            near.connect(to)
            far, peer = listening.accept()
            with far:
                far.settimeout(cni.PATIENCE)
                near.sendall(b"ping")
                far.sendall(far.recv(4) + b"-pong")
                return peer[0], near.recv(9, sockets.MSG_WAITALL)
        near.connect(to)
        near.send(b"ping")
        data, peer = listening.recvfrom(100)
        listening.sendto(data + b"-pong", peer)
        return peer[0], near.recv(100)


@pytest.mark.parametrize("protocol", [ex.TCP, ex.UDP], ids=["tcp", "udp"])
@pytest.mark.parametrize("family", ["ip", "ip6"])
def test_nat(socket: Socket, router: tuple[Netns, Netns], family: str, protocol: bytes) -> None:
    """A published port leads to the container, and what leaves it has the host's address."""
    container, outside = router
    element = _port(protocol, 8080, CONTAINER[family], 80, "pod-1")
    requests = [
        nft.add_table(family, "cnm"),
        nft.add_set(family, "cnm", "ports", PORT_KEY, data=PORT_DATA[family]),
        _base(family, "prerouting", priority=nft.DSTNAT),
        _base(family, "postrouting", priority=nft.SRCNAT),
        nft.add_rule(family, "cnm", "prerouting", _to_published(family)),
        nft.add_rule(family, "cnm", "postrouting", _masqueraded(family, SUBNET[family], "blue0")),
        nft.add_elements(family, "cnm", "ports", [element]),
    ]
    nft.commit(socket, requests)
    inward = _conversation(
        protocol, outside, (UPLINK[family], 8080), container, (CONTAINER[family], 80)
    )
    assert inward == (OUTSIDE[family], b"ping-pong")
    outward = _conversation(
        protocol, container, (OUTSIDE[family], 9000), outside, (OUTSIDE[family], 9000)
    )
    assert outward == (UPLINK[family], b"ping-pong")
    nft.commit(socket, [nft.delete_elements(family, "cnm", "ports", [element])])
    if protocol == ex.TCP:
        with pytest.raises(ConnectionRefusedError):
            _conversation(
                protocol, outside, (UPLINK[family], 8080), container, (CONTAINER[family], 80)
            )


def test_verdicts(socket: Socket, router: tuple[Netns, Netns]) -> None:
    """A verdict map decides by interface, a connection's state comes before it."""
    container, _ = router
    bridges = nft.add_set("ip", "cnm", "bridges", "ifname", data="verdict")
    forward = [ex.meta("iifname"), ex.lookup("bridges", into=ex.VERDICT)]
    nat = _base("ip", "postrouting", priority=nft.SRCNAT)
    masquerade = nft.add_rule("ip", "cnm", "postrouting", _masqueraded("ip", SUBNET["ip"], "blue0"))
    nft.commit(
        socket,
        [
            nft.add_table("ip", "cnm"),
            nat,
            masquerade,
            bridges,
            nft.add_chain("ip", "cnm", "blue"),
            nft.add_rule("ip", "cnm", "blue", [ex.verdict("drop")]),
            _base("ip", "forward", kind="filter"),
            nft.add_rule("ip", "cnm", "forward", forward),
        ],
    )
    assert container.reaches(OUTSIDE["ip"])
    jump = Element(ex.ifname("blue0"), "jump blue")
    nft.commit(socket, [nft.add_elements("ip", "cnm", "bridges", [jump])])
    assert not container.reaches(OUTSIDE["ip"], seconds=1)
