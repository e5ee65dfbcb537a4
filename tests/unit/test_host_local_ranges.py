"""Range sets of host-local: what a configuration gives out, and which are refused."""

import re
from functools import cache
from ipaddress import ip_address, ip_network
from itertools import combinations, groupby
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnm_core.config.host_local import host_local_config
from cnm_core.errors import InvalidNetworkConfig
from cnm_core.inet import format_ip
from cnm_core.ipam.host_local import Range, range_sets

# Small ones that lie close together, so that every address can be looked at.
SUBNETS = {
    4: [f"10.1.0.{start}/{prefix}" for prefix in (27, 28, 29, 30, 31, 32) for start in (0, 32)],
    6: [f"fd00::{start:x}/{prefix}" for prefix in (123, 124, 126, 127, 128) for start in (0, 32)],
}


def _sets(document: dict[str, Any]) -> tuple[tuple[Range, ...], ...]:
    return range_sets(host_local_config(document, "ipam"))


def _only(**members: Any) -> Range:
    ((found,),) = _sets({"ranges": [[members]]})
    return found


def _span(of: Range) -> tuple[str, str, str]:
    """First, last and gateway."""
    first, _, last = str(of).partition("-")
    return first, last, format_ip(of.gateway) if of.gateway else ""


def _given(of: Range) -> set[int]:
    """Every address that a range gives, as numbers."""
    spans = list(of.spans(of.first, of.last))
    assert spans == sorted(spans)
    return {number for first, last in spans for number in range(first, last + 1)}


@pytest.mark.parametrize(
    ("members", "span"),
    [
        ({"subnet": "10.1.0.0/24"}, ("10.1.0.1", "10.1.0.254", "10.1.0.1")),
        ({"subnet": "10.1.0.0/30"}, ("10.1.0.1", "10.1.0.2", "10.1.0.1")),
        ({"subnet": "fd00::/126"}, ("fd00::1", "fd00::3", "fd00::1")),
        (
            {"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.10", "rangeEnd": "10.1.0.20"},
            ("10.1.0.10", "10.1.0.20", "10.1.0.1"),
        ),
        (
            {"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.0", "rangeEnd": "10.1.0.255"},
            ("10.1.0.1", "10.1.0.254", "10.1.0.1"),
        ),
        (
            {"subnet": "10.1.0.0/24", "gateway": "10.1.0.254"},
            ("10.1.0.1", "10.1.0.254", "10.1.0.254"),
        ),
        ({"subnet": "128.0.0.0/1"}, ("128.0.0.1", "255.255.255.254", "128.0.0.1")),
        ({"subnet": "10.1.0.0/31"}, ("10.1.0.0", "10.1.0.1", "10.1.0.0")),
        ({"subnet": "fd00::/127", "gateway": "fd00::1"}, ("fd00::", "fd00::1", "fd00::1")),
        ({"subnet": "10.1.0.9/32"}, ("10.1.0.9", "10.1.0.9", "")),
        (
            {"subnet": "10.1.0.9/32", "gateway": "169.254.1.1"},
            ("10.1.0.9", "10.1.0.9", "169.254.1.1"),
        ),
        (
            {"subnet": "10.1.0.0/24", "ipRange": "10.1.0.16/28"},
            ("10.1.0.16", "10.1.0.31", "10.1.0.1"),
        ),
        (
            {"subnet": "10.1.0.0/24", "ipRange": "10.1.0.0/28", "rangeEnd": "10.1.0.9"},
            ("10.1.0.1", "10.1.0.9", "10.1.0.1"),
        ),
        ({"subnet": "fd00::/32"}, ("fd00::1", "fd00:0:ffff:ffff:ffff:ffff:ffff:ffff", "fd00::1")),
    ],
)
def test_defaults(members: dict[str, Any], span: tuple[str, str, str]) -> None:
    """A range is its subnet without network and broadcast address; the gateway is its first."""
    assert _span(_only(**members)) == span
    assert _sets(members) == _sets({"ranges": [[members]]})


def test_short_form_comes_first() -> None:
    """`subnet` beside `ranges` is one more range set, before the others."""
    both = {"subnet": "10.1.0.0/24", "ranges": [[{"subnet": "fd00::/64"}]]}
    assert [str(each.subnet) for (each,) in _sets(both)] == ["10.1.0.0/24", "fd00::/64"]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "ipam.ranges: is missing"),
        ({"ranges": []}, "ipam.ranges: is missing"),
        ({"ranges": [[{"subnet": "10.1.0.0/24"}], []]}, "ipam.ranges[1]: must have at least one"),
        (
            {"subnet": "10.1.0.0/31", "rangeEnd": "10.1.0.0"},
            "ipam: has no address to give out between 10.1.0.0-10.1.0.0",
        ),
        (
            {"ranges": [[{"subnet": "fd00::/128", "gateway": "fd00::"}]]},
            "ipam.ranges[0][0]: has no address to give out between fd00::-fd00::",
        ),
        (
            {"subnet": "10.1.0.0/32", "gateway": "fd00::1"},
            "ipam.gateway: must be in 10.1.0.0/32, got fd00::1",
        ),
        ({"subnet": "0.0.0.0/24"}, "ipam.subnet: containers cannot have addresses of 0.0.0.0/24"),
        ({"subnet": "127.1.0.0/16"}, "ipam.subnet: containers cannot have addresses of 127.1."),
        ({"subnet": "239.0.0.0/24"}, "ipam.subnet: containers cannot have addresses of 239."),
        ({"subnet": "::/64"}, "ipam.subnet: containers cannot have addresses of ::/64"),
        (
            {"ranges": [[{"subnet": "::ffff:10.1.0.0/120"}]]},
            "ipam.ranges[0][0].subnet: containers cannot have addresses of ::ffff:10.1.0.0/120",
        ),
        ({"subnet": "ff05::/64"}, "ipam.subnet: containers cannot have addresses of ff05::/64"),
        (
            {"subnet": "10.1.0.0/24", "ipRange": "10.1.0.0/16"},
            "ipam.ipRange: must be in 10.1.0.0/24, got 10.1.0.0/16",
        ),
        (
            {"subnet": "10.1.0.0/24", "ipRange": "10.1.0.0/28", "rangeStart": "10.1.0.16"},
            "ipam: has no address to give out between 10.1.0.16-10.1.0.15",
        ),
        (
            {"subnet": "10.1.0.0/24", "exclude": ["10.1.0.9", "10.1.0.9-10.1.1.0"]},
            "ipam.exclude[1]: must be in 10.1.0.0/24, got 10.1.0.9-10.1.1.0",
        ),
        (
            {"subnet": "10.1.0.0/24", "auxAddresses": {"router": "10.2.0.9"}},
            "ipam.auxAddresses.router: must be in 10.1.0.0/24, got 10.2.0.9",
        ),
        (
            {"subnet": "10.1.0.0/29", "exclude": ["10.1.0.2-10.1.0.6"]},
            "ipam: has no address to give out between 10.1.0.1-10.1.0.6",
        ),
        (
            {"exclude": ["10.1.0.9"], "ranges": [[{"subnet": "10.1.0.0/24"}]]},
            "ipam.exclude: is about ipam.subnet, which is missing, got 10.1.0.9-10.1.0.9",
        ),
        ({"subnet": "10.1.0.0/24", "rangeStart": "10.2.0.1"}, "ipam.rangeStart: must be in 10.1."),
        ({"subnet": "10.1.0.0/24", "rangeEnd": "fd00::1"}, "ipam.rangeEnd: must be in 10.1."),
        ({"subnet": "10.1.0.0/24", "gateway": "10.1.1.1"}, "ipam.gateway: must be in 10.1.0.0/24"),
        (
            {"ranges": [[{"subnet": "10.1.0.0/24"}, {"subnet": "fd00::/64"}]]},
            "ipam.ranges[0]: must not mix IPv4 and IPv6",
        ),
        (
            {"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9", "rangeEnd": "10.1.0.8"},
            "ipam: has no address to give out between 10.1.0.9-10.1.0.8",
        ),
        (
            {"subnet": "10.1.0.0/24", "rangeEnd": "10.1.0.1"},
            "ipam: has no address to give out between 10.1.0.1-10.1.0.1",
        ),
        (
            {"subnet": "10.1.0.0/24", "ranges": [[{"subnet": "10.1.0.0/16"}]]},
            "ipam.ranges: 10.1.0.1-10.1.0.254 and 10.1.0.1-10.1.255.254 overlap",
        ),
    ],
)
def test_refused(document: dict[str, Any], message: str) -> None:
    """An error names the key at fault, wherever the range stands."""
    with pytest.raises(InvalidNetworkConfig, match=f"^{re.escape(message)}"):
        _sets(document)


@cache
def _inside(subnet: str) -> st.SearchStrategy[str]:
    """An address of a small subnet."""
    return st.sampled_from([str(ip) for ip in ip_network(subnet)])


@st.composite
def ranges(draw: st.DrawFn, version: int) -> dict[str, Any]:
    """A range with any ends and gateway in its subnet, or elsewhere."""
    subnet = draw(st.sampled_from(SUBNETS[version]))
    network = ip_network(subnet)
    inside = _inside(subnet)
    ips = st.none() | inside | inside | st.sampled_from(["10.1.0.40", "fd00::28"])
    chosen = {key: draw(ips) for key in ("rangeStart", "rangeEnd", "gateway")}
    inner = st.sampled_from(
        [*map(str, network.subnets(min(2, network.max_prefixlen - network.prefixlen)))]
    )
    pairs = st.tuples(inside, inside).map(lambda pair: "-".join(sorted(pair, key=ip_address)))
    more = {
        "ipRange": draw(st.none() | inner),
        "exclude": draw(st.none() | st.lists(inside | inner | pairs, max_size=4)),
        "auxAddresses": draw(st.none() | st.dictionaries(st.sampled_from("ab"), inside)),
    }
    return {"subnet": subnet} | {
        key: value for key, value in (chosen | more).items() if value is not None
    }


any_range = st.sampled_from([4, 6]).flatmap(ranges)
valid_range = any_range.filter(lambda members: bool(_expected(members)))


def _expected(members: dict[str, Any]) -> set[int]:
    """The addresses of a range as numbers; none where it is to be refused."""
    subnet = ip_network(members["subnet"])
    chosen = {
        key: ip_address(members[key])
        for key in ("rangeStart", "rangeEnd", "gateway")
        if key in members
    }
    elsewhere = [key for key, ip in chosen.items() if ip not in subnet]
    single = subnet.num_addresses == 1
    if elsewhere and not (single and elsewhere == ["gateway"]):
        return set()
    if single and elsewhere and chosen["gateway"].version != subnet.version:
        return set()
    hosts = set(map(int, subnet.hosts()))
    first = int(chosen.get("rangeStart", subnet[0]))
    last = int(chosen.get("rangeEnd", subnet[-1]))
    inner = ip_network(members.get("ipRange", members["subnet"]))
    hosts &= set(range(max(first, int(inner[0])), min(last, int(inner[-1])) + 1))
    if "gateway" in chosen or not single:
        hosts.discard(int(chosen.get("gateway", min(subnet.hosts()))))
    for text in members.get("exclude", ()):
        hosts -= _excluded(text)
    return hosts - {int(ip_address(ip)) for ip in members.get("auxAddresses", {}).values()}


def _excluded(text: str) -> set[int]:
    if "-" in text:
        first, last = map(ip_address, text.split("-"))
        return set(range(int(first), int(last) + 1))
    return set(map(int, ip_network(text)))


@given(any_range)
def test_range(members: dict[str, Any]) -> None:
    """A range has the hosts of its subnet from start to end, and more than the gateway."""
    expected = _expected(members)
    if not expected:
        with pytest.raises(InvalidNetworkConfig, match=r"^ipam\.ranges\[0\]\[0\]"):
            _only(**members)
    else:
        found = _only(**members)
        assert _given(found) == expected
        subnet = ip_network(members["subnet"])
        first = "" if subnet.num_addresses == 1 else str(next(iter(subnet.hosts())))
        assert _span(found)[2] == members.get("gateway", first)


def _whole(members: dict[str, Any]) -> range:
    """The addresses of a range from first to last, also those that are never given."""
    found = _only(**members)
    return range(found.first, found.last + 1)


def _share(one: range, other: range) -> bool:
    """Whether an address is in both; numbers of IPv4 addresses are below those of IPv6 here."""
    return max(one.start, other.start) < min(one.stop, other.stop)


@given(st.lists(valid_range, min_size=2, max_size=4))
def test_overlaps(members: list[dict[str, Any]]) -> None:
    """No address is in two ranges, of one set or of two."""
    families = groupby(members, lambda each: ip_network(each["subnet"]).version)
    document = {"ranges": [list(each) for _, each in families]}
    spans = [_whole(each) for each in members]
    if any(_share(one, other) for one, other in combinations(spans, 2)):
        with pytest.raises(InvalidNetworkConfig, match=r"^ipam\.ranges: .* overlap$"):
            _sets(document)
    else:
        assert [len(each) for each in _sets(document)] == [len(each) for each in document["ranges"]]
