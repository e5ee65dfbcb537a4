"""Results of each version: what they have room for comes back as it went in."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnm_core.cni.invocation import VERSIONS
from cnm_core.cni.result import OLD, from_document, to_document
from cnm_core.errors import DecodingFailure, InvalidNetworkConfig
from cnm_core.inet import Address
from cnm_core.model import Attachment, Dns, Interface, Lease, Route

NEWEST = VERSIONS[-1]
KEYS = ["cniVersion", "interfaces", "ips", "routes", "dns", "ip4", "ip6", "ip", "name", "address"]

texts = st.text(max_size=8)
lists = st.lists(texts, max_size=3).map(tuple)
numbers = st.none() | st.integers(0, 2**32 - 1)
dns = st.builds(Dns, lists, texts, lists, lists)
interfaces = st.builds(Interface, texts, texts, st.none() | st.integers(1, 65535), texts)


@st.composite
def of_a_family(draw: st.DrawFn) -> tuple[Address, bytes | None]:
    """An address, and perhaps another one of the same family."""
    length = draw(st.sampled_from([4, 16]))
    ips = st.binary(min_size=length, max_size=length)
    return Address(draw(ips), draw(st.integers(0, length * 8))), draw(st.none() | ips)


leases = of_a_family().map(lambda pair: Lease(*pair))
routes = st.builds(
    lambda pair, rest: Route(pair[0].network, pair[1], *rest),
    of_a_family(),
    st.tuples(*[numbers] * 5),
)


@st.composite
def attachments(draw: st.DrawFn) -> Attachment:
    """Any attachment."""
    found = draw(st.lists(leases, max_size=3).map(tuple))
    indexes = draw(st.tuples(*[st.none() | st.integers(0, 2)] * len(found)))
    return Attachment(
        interfaces=draw(st.lists(interfaces, max_size=3).map(tuple)),
        leases=found,
        lease_interfaces=indexes,
        routes=draw(st.lists(routes, max_size=3).map(tuple)),
        dns=draw(dns),
    )


def _seen_through(attachment: Attachment, version: str) -> Attachment:
    """What a version has room for."""
    if version == NEWEST:
        return attachment
    plain = tuple(Route(each.destination, each.gateway) for each in attachment.routes)
    if version not in OLD:
        links = tuple(each.replace(mtu=None) for each in attachment.interfaces)
        return attachment.replace(interfaces=links, routes=plain)
    ordered = tuple(sorted(attachment.leases, key=lambda lease: lease.address.version))
    families = [lease.address.version for lease in ordered]
    return Attachment(
        leases=ordered,
        lease_interfaces=(None,) * len(ordered),
        routes=tuple(
            route for family in families for route in plain if route.destination.version == family
        ),
        dns=attachment.dns,
    )


@pytest.mark.parametrize("version", VERSIONS)
@given(attachments())
def test_round_trip(version: str, attachment: Attachment) -> None:
    """A result is read as what it was made from, as far as its version has room for it."""
    families = [lease.address.version for lease in attachment.leases]
    if version in OLD and len(families) > len(set(families)):
        with pytest.raises(InvalidNetworkConfig, match=f"cniVersion {version} has room for one"):
            to_document(attachment, version)
        return
    document = json.loads(json.dumps(to_document(attachment, version)))
    assert document["cniVersion"] == version
    assert from_document(document, NEWEST) == _seen_through(attachment, version)
    assert from_document({**document, "cniVersion": ""}, version) == from_document(document, "")


@pytest.mark.parametrize("version", VERSIONS)
def test_empty(version: str) -> None:
    """Before 1.0.0 a result has `dns` always; nothing else is there without a reason."""
    document = to_document(Attachment(), version)
    assert document == {"cniVersion": version} | ({"dns": {}} if version[0] == "0" else {})
    assert from_document({}, version) == Attachment()


def test_leases_without_interfaces() -> None:
    """The addresses of an IPAM plugin say nothing of interfaces."""
    given_only = Attachment(leases=(Lease(Address(b"\x0a\1\0\2", 24)),))
    assert to_document(given_only, NEWEST)["ips"] == [{"address": "10.1.0.2/24"}]


@pytest.mark.parametrize("version", OLD)
def test_routes_of_a_family_without_an_address(version: str) -> None:
    """Before 0.3.0 a route stands with the address of its family, so without one nowhere."""
    attachment = Attachment(routes=(Route(Address(bytes(4), 0)),))
    assert to_document(attachment, version) == {"cniVersion": version, "dns": {}}


def test_of_others() -> None:
    """Host bits in a destination mean its network; null and "" are absent; more is ignored."""
    document = {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "eth0", "mac": None, "sandbox": "", "mtu": 0, "pciID": "x"}],
        "ips": [{"address": "10.1.0.2/24", "gateway": "", "interface": None}],
        "routes": [{"dst": "10.2.0.1/16", "gw": None, "mtu": None}],
        "dns": None,
        "vendor": 1,
    }
    assert from_document(document, NEWEST) == Attachment(
        interfaces=(Interface("eth0"),),
        leases=(Lease(Address(b"\x0a\1\0\2", 24)),),
        lease_interfaces=(None,),
        routes=(Route(Address(b"\x0a\2\0\0", 16)),),
    )


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "expected an object, got []"),
        ({"cniVersion": 1}, "expected a string, got 1"),
        ({"cniVersion": "9.9.9"}, 'cniVersion "9.9.9" is not supported'),
        ({"interfaces": {}}, "expected a list, got {}"),
        ({"interfaces": [{}]}, "no 'name'"),
        ({"interfaces": [{"name": 1}]}, "expected a string, got 1"),
        ({"ips": [{}]}, "no 'address'"),
        ({"ips": [{"address": "10.1.0.2"}]}, 'address in CIDR notation, got "10.1.0.2"'),
        ({"ips": [{"address": "10.1.0.2/24", "gateway": "x"}]}, 'must be an IP address, got "x"'),
        ({"ips": [{"address": "10.1.0.2/24", "interface": "0"}]}, 'a whole number, got "0"'),
        ({"routes": [{"gw": "10.1.0.1"}]}, "no 'dst'"),
        ({"routes": [{"dst": "::/0", "mtu": True}]}, "expected a whole number, got true"),
        ({"dns": [1]}, "expected an object, got [1]"),
        ({"dns": {"search": "a.test"}}, 'expected a list, got "a.test"'),
        ({"cniVersion": "0.2.0", "ip4": {}}, "no 'ip'"),
        ({"cniVersion": "0.2.0", "ip6": []}, "expected an object, got []"),
    ],
)
def test_nonsense(document: Any, message: str) -> None:
    """A result that makes no sense is a decoding failure that says why."""
    with pytest.raises(DecodingFailure) as caught:
        from_document(document, NEWEST)
    assert caught.value.msg.startswith("a result makes no sense: ")
    assert message in caught.value.msg


nonsense = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["", "10.1.0.2/24", *VERSIONS]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner),
)


@given(nonsense)
def test_anything(document: Any) -> None:
    """Whatever another plugin prints, it is an attachment or a decoding failure."""
    try:
        assert isinstance(from_document(document, NEWEST), Attachment)
    except DecodingFailure:
        pass
