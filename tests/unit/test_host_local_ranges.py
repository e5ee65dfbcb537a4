"""Range sets of host-local: what a configuration gives out, and which are refused."""

import re
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
    4: [f"10.1.0.{start}/{prefix}" for prefix in (27, 28, 29, 30) for start in (0, 32)],
    6: [f"fd00::{start:x}/{prefix}" for prefix in (123, 124, 125, 126) for start in (0, 32)],
}


def _sets(document: dict[str, Any]) -> tuple[tuple[Range, ...], ...]:
    return range_sets(host_local_config(document, "ipam"))


def _only(**members: str) -> Range:
    ((found,),) = _sets({"ranges": [[members]]})
    return found


def _span(of: Range) -> tuple[str, str, str]:
    """First, last and gateway."""
    first, last = (ip_address(number) for number in (of.first, of.last))
    return str(first), str(last), format_ip(of.gateway)


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
        ({"subnet": "0.0.0.0/0"}, ("0.0.0.1", "255.255.255.254", "0.0.0.1")),
    ],
)
def test_defaults(members: dict[str, str], span: tuple[str, str, str]) -> None:
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
        ({"subnet": "10.1.0.0/31"}, "ipam.subnet: must have room"),
        ({"ranges": [[{"subnet": "10.1.0.0/32"}]]}, "ipam.ranges[0][0].subnet: must have room"),
        ({"ranges": [[{"subnet": "fd00::/127"}]]}, "ipam.ranges[0][0].subnet: must have room"),
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


@st.composite
def ranges(draw: st.DrawFn, version: int) -> dict[str, str]:
    """A range with any ends and gateway in its subnet, or elsewhere."""
    subnet = draw(st.sampled_from(SUBNETS[version]))
    inside = st.sampled_from([str(ip) for ip in ip_network(subnet)])
    ips = st.none() | inside | inside | st.sampled_from(["10.1.0.40", "fd00::28"])
    chosen = {key: draw(ips) for key in ("rangeStart", "rangeEnd", "gateway")}
    return {"subnet": subnet} | {key: ip for key, ip in chosen.items() if ip is not None}


any_range = st.sampled_from([4, 6]).flatmap(ranges)
valid_range = any_range.filter(lambda members: bool(_expected(members)))


def _expected(members: dict[str, str]) -> set[int]:
    """The addresses of a range as numbers; none where it is to be refused."""
    subnet = ip_network(members["subnet"])
    chosen = {key: ip_address(ip) for key, ip in members.items() if key != "subnet"}
    if any(ip not in subnet for ip in chosen.values()):
        return set()
    hosts = list(map(int, subnet.hosts()))
    first = int(chosen.get("rangeStart", subnet[0]))
    last = int(chosen.get("rangeEnd", subnet[-1]))
    usable = {host for host in hosts if first <= host <= last}
    return usable if usable - {int(chosen.get("gateway", subnet[1]))} else set()


@given(any_range)
def test_range(members: dict[str, str]) -> None:
    """A range has the hosts of its subnet from start to end, and more than the gateway."""
    expected = _expected(members)
    if not expected:
        with pytest.raises(InvalidNetworkConfig, match=r"^ipam\.ranges\[0\]\[0\]"):
            _only(**members)
    else:
        found = _only(**members)
        assert set(range(found.first, found.last + 1)) == expected
        assert format_ip(found.gateway) == members.get(
            "gateway", str(ip_network(members["subnet"])[1])
        )


@given(st.lists(valid_range, min_size=2, max_size=4))
def test_overlaps(members: list[dict[str, str]]) -> None:
    """No address is in two ranges, of one set or of two."""
    families = groupby(members, lambda each: ip_network(each["subnet"]).version)
    document = {"ranges": [list(each) for _, each in families]}
    if any(_expected(one) & _expected(other) for one, other in combinations(members, 2)):
        with pytest.raises(InvalidNetworkConfig, match=r"^ipam\.ranges: .* overlap$"):
            _sets(document)
    else:
        assert [len(each) for each in _sets(document)] == [len(each) for each in document["ranges"]]
