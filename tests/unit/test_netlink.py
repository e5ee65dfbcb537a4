"""Our netlink messages against pyroute2's message classes, byte for byte and back."""

import copy
import socket
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink import NLA_F_NESTED, NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, rtnl
from pyroute2.netlink.rtnl.ifaddrmsg import IFA_F_NODAD, ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import IFF_PROMISC, IFF_UP, ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from cnm_core.errors import KernelRefused
from cnm_core.inet import Address, format_ip, format_mac
from cnm_core.kernel import address, link, netlink, route, upper, vlan
from cnm_core.kernel.netlink import Request
from cnm_core.model import Route

NEW = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
MAIN_TABLE = 254
FAMILIES = {4: socket.AF_INET, 16: socket.AF_INET6}

names = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=5)
uint32 = st.integers(0, 2**32 - 1)
indexes = st.integers(1, 2**31 - 1)
mtus = st.integers(1, 65535)
macs = st.binary(min_size=6, max_size=6)
aliases = st.text(st.characters(exclude_categories=["C"]), max_size=60)

Attributes = list[tuple[Any, ...]]


@st.composite
def of_one_family(draw: st.DrawFn, count: int) -> list[bytes]:
    """Some addresses of the same family."""
    length = draw(st.sampled_from([4, 16]))
    return [draw(st.binary(min_size=length, max_size=length)) for _ in range(count)]


@st.composite
def addresses(draw: st.DrawFn) -> Address:
    """Any address with its prefix length."""
    (ip,) = draw(of_one_family(1))
    return Address(ip, draw(st.integers(0, len(ip) * 8)))


@st.composite
def routes(draw: st.DrawFn) -> Route:
    """Any route, with and without each attribute."""
    ip, gateway = draw(of_one_family(2))
    return Route(
        Address(ip, draw(st.integers(0, len(ip) * 8))).network,
        draw(st.sampled_from([None, gateway])),
        *draw(st.tuples(*[st.none() | uint32] * 4)),
        scope=draw(st.none() | st.integers(0, 255)),
    )


def same(request: Request, message: type, kind: int, flags: int, /, **expected: Any) -> None:
    """Assert that a request is the message, and is read as what it was made from."""
    attributes = expected.pop("attrs", [])
    theirs = message()
    theirs["header"] |= {"type": kind, "flags": flags | NLM_F_REQUEST, "sequence_number": 7}
    theirs |= expected
    theirs["attrs"] = copy.deepcopy(attributes)  # which encoding changes
    theirs.encode()
    ours = netlink.encode(request, 7)
    assert ours == bytes(theirs.data)
    read = message(ours)
    read.decode()
    assert read["header"]["sequence_number"] == 7
    assert {field: read[field] for field in expected} == expected
    assert _read(read) == [_written(each) for each in attributes]


def _read(message: Any) -> list[Any]:
    return [
        (name, _read(value) if hasattr(value, "get") and value.get("attrs") else value)
        for name, value in message["attrs"]
    ]


def _written(attribute: tuple[Any, ...]) -> tuple[Any, ...]:
    name, value = attribute[:2]
    return name, [_written(each) for each in value["attrs"]] if isinstance(value, dict) else value


def nest(*attributes: tuple[Any, ...]) -> dict[str, Attributes]:
    """The value of an attribute that consists of attributes; those without value left out."""
    return {"attrs": [each for each in attributes if each[1] is not None]}


@given(names, macs, mtus | st.just(0))
def test_create_bridge(name: str, mac: bytes, mtu: int) -> None:
    """A bridge with its address from the beginning; MTU 0 is left out."""
    data = nest(("IFLA_BR_MCAST_SNOOPING", 0))
    attributes = nest(
        ("IFLA_IFNAME", name),
        ("IFLA_ADDRESS", format_mac(mac)),
        ("IFLA_MTU", mtu or None),
        (
            "IFLA_LINKINFO",
            nest(("IFLA_INFO_KIND", "bridge"), ("IFLA_INFO_DATA", data)),
        ),
    )
    request = link.create_bridge(name, mac, mtu)
    same(request, ifinfmsg, rtnl.RTM_NEWLINK, NEW, flags=IFF_UP, change=IFF_UP, **attributes)


@given(names, macs)
def test_create_bridge_that_filters(name: str, mac: bytes) -> None:
    """A bridge whose VLAN filtering is on from the beginning."""
    data = nest(("IFLA_BR_VLAN_FILTERING", 1), ("IFLA_BR_MCAST_SNOOPING", 0))
    attributes = nest(
        ("IFLA_IFNAME", name),
        ("IFLA_ADDRESS", format_mac(mac)),
        (
            "IFLA_LINKINFO",
            nest(("IFLA_INFO_KIND", "bridge"), ("IFLA_INFO_DATA", data)),
        ),
    )
    request = link.create_bridge(name, mac, 0, vlan.FILTERING)
    same(request, ifinfmsg, rtnl.RTM_NEWLINK, NEW, flags=IFF_UP, change=IFF_UP, **attributes)


@given(names, macs, mtus, indexes, names, macs, st.integers(0, 1 << 20))
def test_create_veth(
    name: str, mac: bytes, mtu: int, master: int, peer_name: str, peer_mac: bytes, netns: int
) -> None:
    """A pair whose peer is described inside, by a header and attributes of its own."""
    peer = nest(
        ("IFLA_IFNAME", peer_name),
        ("IFLA_ADDRESS", format_mac(peer_mac)),
        ("IFLA_MTU", mtu),
        ("IFLA_NET_NS_FD", netns),
    )
    kind = ("IFLA_INFO_KIND", "veth")
    attributes = nest(
        ("IFLA_IFNAME", name),
        ("IFLA_ADDRESS", format_mac(mac)),
        ("IFLA_MTU", mtu),
        ("IFLA_MASTER", master),
        ("IFLA_LINKINFO", nest(kind, ("IFLA_INFO_DATA", nest(("VETH_INFO_PEER", peer))))),
    )
    request = link.create_veth(
        name,
        mac=mac,
        mtu=mtu,
        master=master,
        peer_name=peer_name,
        peer_mac=peer_mac,
        peer_netns=netns,
    )
    same(request, ifinfmsg, rtnl.RTM_NEWLINK, NEW, **attributes)


def _upper(kind: str, data: Attributes, **first: Any) -> dict[str, Attributes]:
    """The attributes of a link on another: those of the link, and the kind's own."""
    known = ("IFLA_IFNAME", "IFLA_ADDRESS", "IFLA_MTU", "IFLA_LINK", "IFLA_NET_NS_FD")
    info = nest(("IFLA_INFO_KIND", kind), ("IFLA_INFO_DATA", nest(*data) if data else None))
    return nest(*((name, first.get(name)) for name in known), ("IFLA_LINKINFO", info))


modes = st.sampled_from(list(upper.MACVLAN_MODES))
namespaces = st.none() | st.integers(0, 1 << 20)


@given(names, indexes, modes, st.none() | macs, mtus | st.just(0), namespaces)
def test_create_macvlan(
    name: str, parent: int, mode: str, mac: bytes | None, mtu: int, netns: int | None
) -> None:
    """Everything in one message; what is not asked for is left out."""
    attributes = _upper(
        "macvlan",
        [("IFLA_MACVLAN_MODE", mode)],
        IFLA_IFNAME=name,
        IFLA_ADDRESS=format_mac(mac) if mac else None,
        IFLA_MTU=mtu or None,
        IFLA_LINK=parent,
        IFLA_NET_NS_FD=netns,
    )
    request = upper.create_macvlan(name, parent, mode=mode, queue=0, mac=mac, mtu=mtu, netns=netns)
    same(request, ifinfmsg, rtnl.RTM_NEWLINK, NEW, **attributes)


@given(names, indexes, modes, st.integers(1, 2**32 - 1))
def test_macvlan_and_its_queue(name: str, parent: int, mode: str, queue: int) -> None:
    """What pyroute2 does not know: the length of the queue, after the mode."""
    request = upper.create_macvlan(
        name, parent, mode=mode, queue=queue, mac=None, mtu=1500, netns=None
    )
    read = link.parse(request.body)
    assert (read.name, read.kind, read.parent) == (name, "macvlan", parent)
    assert upper.macvlan_mode(read) == mode
    assert list(netlink.attributes(read.data).items())[1] == (7, netlink.U32.pack(queue))


@pytest.mark.parametrize("mode", upper.IPVLAN_MODES)
@pytest.mark.parametrize("flag", upper.IPVLAN_FLAGS)
@given(names, indexes, mtus)
def test_create_ipvlan(mode: str, flag: str, name: str, parent: int, mtu: int) -> None:
    """Mode and flag, of which pyroute2 knows only the first."""
    request = upper.create_ipvlan(name, parent, mode=mode, flag=flag, mtu=mtu, netns=7)
    read = link.parse(request.body)
    assert (read.name, read.kind, read.parent, read.mtu) == (name, "ipvlan", parent, mtu)
    assert upper.ipvlan_mode(read) == (mode, flag)


@given(names)
def test_create_isolated(name: str) -> None:
    """A link that leads nowhere is up at once."""
    attributes = _upper("dummy", [], IFLA_IFNAME=name)
    expected = {"flags": IFF_UP, "change": IFF_UP} | attributes
    request = upper.create_isolated(name, "dummy")
    same(request, ifinfmsg, rtnl.RTM_NEWLINK, NEW, **expected)


@pytest.mark.parametrize(
    ("change", "flags", "mask"),
    [
        (link.set_up, IFF_UP, IFF_UP),
        (link.set_down, 0, IFF_UP),
        (link.set_promiscuous, IFF_PROMISC, IFF_PROMISC),
    ],
)
@given(indexes, names)
def test_flags(change: Any, flags: int, mask: int, index: int, name: str) -> None:
    """Each changes one flag, and leaves the others alone."""
    request = change(index, name)
    expected = {"index": index, "flags": flags, "change": mask}
    same(request, ifinfmsg, rtnl.RTM_NEWLINK, NLM_F_ACK, **expected)


@given(names, aliases)
def test_alias(name: str, alias: str) -> None:
    """A link by its name, and what is to be said of it."""
    attributes = nest(("IFLA_IFNAME", name), ("IFLA_IFALIAS", alias))
    same(link.set_alias(name, alias), ifinfmsg, rtnl.RTM_NEWLINK, NLM_F_ACK, **attributes)


@given(indexes, names, st.booleans(), st.booleans())
def test_port(index: int, name: str, hairpin: bool, isolated: bool) -> None:
    """Flags of a port, in the bridge's own family and with the mark of a nested attribute."""
    port = nest(("IFLA_BRPORT_MODE", int(hairpin)), ("IFLA_BRPORT_ISOLATED", int(isolated)))
    request = link.set_port(index, name, hairpin=hairpin, isolated=isolated)
    expected = {"family": socket.AF_BRIDGE, "index": index}
    attributes = nest(("IFLA_PROTINFO", port, NLA_F_NESTED))
    same(request, ifinfmsg, rtnl.RTM_SETLINK, NLM_F_ACK, **expected, **attributes)


@given(indexes, names)
def test_delete_and_get(index: int, name: str) -> None:
    """A link is deleted by its index and found by its name, without statistics."""
    same(link.delete(index, name), ifinfmsg, rtnl.RTM_DELLINK, NLM_F_ACK, index=index)
    attributes = nest(("IFLA_IFNAME", name), ("IFLA_EXT_MASK", link.RTEXT_FILTER_SKIP_STATS))
    same(link.get(name), ifinfmsg, rtnl.RTM_GETLINK, NLM_F_ACK, **attributes)


@given(indexes, addresses(), st.booleans())
def test_address(index: int, of: Address, dad: bool) -> None:
    """An address with its broadcast address; IPv6 without looking for duplicates."""
    ip, four = format_ip(of.ip), of.version == 4
    own = [("IFA_LOCAL", ip), ("IFA_ADDRESS", ip)]
    header = {"family": FAMILIES[len(of.ip)], "prefixlen": of.prefix, "index": index}
    broadcast = format_ip(of.last) if four and of.prefix < 31 else None
    same(
        address.add(index, of, dad=dad),
        ifaddrmsg,
        rtnl.RTM_NEWADDR,
        NEW,
        **header,
        flags=0 if four or dad else IFA_F_NODAD,
        **nest(*own, ("IFA_BROADCAST", broadcast)),
    )
    request = address.delete(index, of)
    same(request, ifaddrmsg, rtnl.RTM_DELADDR, NLM_F_ACK, **header, **nest(*own))


@given(indexes, routes())
def test_route(index: int, wanted: Route) -> None:
    """A route with what it has of gateway, metric, table and MTUs."""
    to, gateway = wanted.destination, wanted.gateway
    on_link = gateway is None and to.version == 4
    table = MAIN_TABLE if wanted.table is None else wanted.table
    metrics = nest(("RTAX_MTU", wanted.mtu), ("RTAX_ADVMSS", wanted.advmss))
    same(
        route.add(index, wanted),
        rtmsg,
        rtnl.RTM_NEWROUTE,
        NLM_F_ACK | NLM_F_CREATE,
        family=FAMILIES[len(to.ip)],
        dst_len=to.prefix,
        table=table if table < 256 else 0,
        proto=rtnl.rt_proto["boot"],
        scope=wanted.scope if wanted.scope is not None else rtnl.rt_scope["link"] * on_link,
        type=rtnl.rt_type["unicast"],
        **nest(
            ("RTA_DST", format_ip(to.ip) if to.prefix else None),
            ("RTA_OIF", index),
            ("RTA_GATEWAY", format_ip(gateway) if gateway else None),
            ("RTA_PRIORITY", wanted.priority),
            ("RTA_TABLE", table if table > 255 else None),
            ("RTA_METRICS", metrics if metrics["attrs"] else None),
        ),
    )


@given(
    index=indexes,
    name=names,
    flags=uint32,
    mac=st.none() | macs,
    mtu=mtus,
    master=st.none() | indexes,
    alias=st.none() | aliases,
    kind=st.none() | names,
    parent=st.none() | indexes,
    port=st.none() | st.tuples(st.booleans(), st.booleans()),
)
def test_parse(**of: Any) -> None:
    """A link as the kernel would report it, with and without each attribute."""
    hairpin, isolated = of["port"] or (False, False)
    port = nest(("IFLA_BRPORT_MODE", int(hairpin)), ("IFLA_BRPORT_ISOLATED", int(isolated)))
    info = nest(
        ("IFLA_INFO_KIND", of["kind"]),
        ("IFLA_INFO_SLAVE_KIND", "bridge" if of["port"] else None),
        ("IFLA_INFO_SLAVE_DATA", port if of["port"] else None),
    )
    message = ifinfmsg()
    message |= {"index": of["index"], "flags": of["flags"]} | nest(
        ("IFLA_IFNAME", of["name"]),
        ("IFLA_TXQLEN", 1000),
        ("IFLA_MTU", of["mtu"]),
        ("IFLA_ADDRESS", format_mac(of["mac"]) if of["mac"] else None),
        ("IFLA_LINK", of["parent"]),
        ("IFLA_MASTER", of["master"]),
        ("IFLA_IFALIAS", of["alias"]),
        ("IFLA_LINKINFO", info if info["attrs"] else None),
    )
    message.encode()
    found = link.parse(bytes(message.data)[16:])
    assert found.replace(port=b"") == link.Link(
        index=of["index"],
        name=of["name"],
        kind=of["kind"] or "",
        mac=of["mac"] or b"",
        mtu=of["mtu"],
        flags=of["flags"],
        master=of["master"] or 0,
        alias=of["alias"] or "",
        hairpin=hairpin,
        isolated=isolated,
        parent=of["parent"] or 0,
    )
    assert found.up == bool(of["flags"] & IFF_UP)


@given(addresses(), indexes)
def test_attributes(of: Address, index: int) -> None:
    """Attributes by their kinds, as pyroute2 writes them."""
    message = ifaddrmsg()
    attributes = nest(("IFA_LOCAL", format_ip(of.ip)), ("IFA_FLAGS", index))
    message |= {"family": FAMILIES[len(of.ip)]} | attributes
    message.encode()
    found = netlink.attributes(bytes(message.data), 16 + 8)
    assert found == {address.IFA_LOCAL: of.ip, address.IFA_FLAGS: netlink.U32.pack(index)}


@given(st.binary(), st.integers(0, 8))
def test_attributes_of_any_bytes(data: bytes, at: int) -> None:
    """Whatever the bytes, reading them ends, with pieces of them."""
    for kind, payload in netlink.attributes(data, at).items():
        assert 0 <= kind <= netlink.NLA_TYPE_MASK
        assert payload in data


@given(st.lists(st.tuples(st.integers(0, netlink.NLA_TYPE_MASK), st.binary(max_size=9))))
def test_attributes_round_trip(pairs: list[tuple[int, bytes]]) -> None:
    """What was written is read, with and without the mark of nested ones; of one kind the last."""
    data = b"".join(netlink.attribute(kind, payload) for kind, payload in pairs)
    assert len(data) % 4 == 0
    assert netlink.attributes(data) == dict(pairs)
    ((kind, inside),) = netlink.attributes(netlink.nested(NLA_F_NESTED | 5, data)).items()
    assert (kind, inside) == (5, data)


@pytest.mark.parametrize(("encode", "size"), [(netlink.u8, 1), (netlink.u16, 2), (netlink.u32, 4)])
def test_numbers(encode: Any, size: int) -> None:
    """Numbers are in host order, of the size of their name."""
    largest = 256**size - 1
    for value in (0, 1, largest):
        (payload,) = netlink.attributes(encode(3, value)).values()
        assert payload == value.to_bytes(size, sys.byteorder)


def test_a_message_without_a_header() -> None:
    """What is shorter than its own header ends the reading, which would go on for ever."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, far:
        kernel = netlink.Socket()
        kernel.close()
        kernel._socket = near
        far.send(bytes(20))
        with pytest.raises(KernelRefused):
            kernel.events()


def test_a_next_hop_without_a_length() -> None:
    """A route of several hops ends, whatever they say of their lengths."""
    hops = netlink.attribute(9, bytes(16))
    unicast = bytes([2, 24, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0])
    assert route._parse(unicast + hops, 5) is None
