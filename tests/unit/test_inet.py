"""Addresses against the standard library's ipaddress, and Ethernet addresses against netaddr."""

import ipaddress
import re
from ipaddress import ip_address, ip_interface, ip_network

import netaddr
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from cnm_core import inet
from cnm_core.inet import Address, Span

ips = st.ip_addresses()
interfaces = ips.flatmap(
    lambda ip: st.integers(0, ip.max_prefixlen).map(lambda prefix: ip_interface((ip, prefix)))
)
# Close to what the three forms of text look like, and seldom one of them.
noise = st.text("0123456789abcdefgABCDEF.:/-+_ \tx%\0٣", max_size=24)
macs = st.binary(min_size=6, max_size=6)


@st.composite
def damaged(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> str:
    """A text with one character put in, and perhaps one left out."""
    text = draw(texts)
    at = draw(st.integers(0, len(text)))
    return text[:at] + draw(noise.filter(bool))[0] + text[at + draw(st.integers(0, 1)) :]


def _address(of: ipaddress.IPv4Interface | ipaddress.IPv6Interface) -> Address:
    return Address(of.packed, of.network.prefixlen)


@given(ips)
def test_ip_round_trip(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """Every spelling of an address is read; one is written, which is an address of its own."""
    for text in (str(ip), ip.exploded, ip.exploded.upper()):
        assert inet.parse_ip(text) == ip.packed
    assert ip_address(inet.format_ip(ip.packed)) == ip
    assert inet.to_ip(inet.to_int(ip.packed), len(ip.packed)) == ip.packed
    assert inet.to_int(ip.packed) == int(ip)


@given(noise | st.text() | damaged(ips.map(str)))
@example("::ffff:010.1.0.1")
@example("1.2.3")
@example("0x7f.0.0.1")
def test_ip_from_any_text(text: str) -> None:
    """What ipaddress refuses is refused, and zones, and the message has the text."""
    try:
        assume("%" not in text)
        expected = ip_address(text).packed
    except ValueError:
        with pytest.raises(ValueError, match="must be an IP address") as caught:
            inet.parse_ip(text)
        assert str(caught.value).endswith(f'got "{text}"')
    else:
        assert inet.parse_ip(text) == expected


@pytest.mark.parametrize("text", ["fe80::1%eth0", "fe80::1%", "10.1.0.1%lo"])
def test_ip_has_no_zone(text: str) -> None:
    """A zone is a host's affair: no configuration can mean it."""
    with pytest.raises(ValueError, match="must be an IP address"):
        inet.parse_ip(text)


@given(interfaces)
def test_address(interface: ipaddress.IPv4Interface | ipaddress.IPv6Interface) -> None:
    """CIDR notation, and what follows from the prefix length."""
    address = inet.parse_address(str(interface))
    assert address == _address(interface)
    assert ip_interface(str(address)) == interface
    assert address.version == interface.version
    assert address.network == Address(
        interface.network.network_address.packed, interface.network.prefixlen
    )
    assert address.last == interface.network.broadcast_address.packed


@given(noise | damaged(interfaces.map(str)))
@example("10.1.0.0/٢٤")
@example("10.1.0.0/+24")
@example("10.1.0.0/2_4")
@example("10.1.0.0/24\n")
@example("10.1.0.0/255.255.0.0")
def test_address_from_any_text(text: str) -> None:
    """An address and a decimal prefix length of its family, and nothing else."""
    assume("%" not in text)
    length = text.partition("/")[2]
    try:
        if not (length.isascii() and length.isdecimal()):
            raise ValueError(length)
        expected = _address(ip_interface(text))
    except ValueError:
        with pytest.raises(ValueError, match=r"^must ") as caught:
            inet.parse_address(text)
        assert str(caught.value).endswith(f'got "{text}"')
    else:
        assert inet.parse_address(text) == expected


@given(interfaces)
def test_subnet(interface: ipaddress.IPv4Interface | ipaddress.IPv6Interface) -> None:
    """Host bits are refused, with the subnet that was perhaps meant."""
    meant = str(interface.network)
    assert inet.parse_subnet(meant) == _address(ip_interface(meant))
    if interface.ip != interface.network.network_address:
        with pytest.raises(ValueError, match="no host bits set") as caught:
            inet.parse_subnet(str(interface))
        suggested = str(caught.value).rpartition("did you mean ")[2].rstrip("?")
        assert ip_interface(suggested) == ip_interface(meant)


@given(interfaces, ips)
def test_membership(
    interface: ipaddress.IPv4Interface | ipaddress.IPv6Interface,
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    """An address is in the subnets of its own family that have its first bits."""
    assert (ip.packed in _address(interface)) == (ip in ip_network(interface.network))
    assert interface.ip.packed in _address(interface)
    assert interface.network.broadcast_address.packed in _address(interface)


@given(interfaces, ips)
def test_span(
    interface: ipaddress.IPv4Interface | ipaddress.IPv6Interface,
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    """One address, a whole subnet, or all from one address to another of its family."""
    subnet = interface.network
    first, last = subnet.network_address, subnet.broadcast_address
    assert inet.parse_span(str(ip)) == Span(ip.packed, ip.packed)
    assert inet.parse_span(str(subnet)) == Span(first.packed, last.packed)
    assert inet.parse_span(f"{first}-{last}") == Span(first.packed, last.packed)
    text = f"{interface.ip}-{ip}"
    if ip.version != interface.version or int(ip) < int(interface.ip):
        with pytest.raises(ValueError, match="from a lower to a higher address") as caught:
            inet.parse_span(text)
        assert str(caught.value).endswith(f'got "{text}"')
    else:
        assert inet.parse_span(text) == Span(interface.ip.packed, ip.packed)


@given(noise | damaged(interfaces.map(lambda each: f"{each.ip}-{each.network[-1]}")))
def test_span_from_any_text(text: str) -> None:
    """What is no span is refused with the text; what is one holds its own ends."""
    try:
        span = inet.parse_span(text)
    except ValueError as error:
        assert str(error).startswith("must ")
        assert f'got "{text}"' in str(error)
    else:
        assert inet.parse_span(str(span)) == span


@given(macs, st.sampled_from([netaddr.mac_unix_expanded, netaddr.mac_eui48]))
def test_mac(mac: bytes, notation: type) -> None:
    """Colons and hyphens, any case; groups and the all-zero address are nobody's own."""
    text = str(netaddr.EUI(mac.hex(), dialect=notation))
    assert inet.format_mac(mac) == str(netaddr.EUI(mac.hex(), dialect=netaddr.mac_unix_expanded))
    for spelling in (text.lower(), text.upper()):
        if mac[0] & 1 or not any(mac):
            with pytest.raises(ValueError, match="must be the MAC address of one station"):
                inet.parse_mac(spelling)
        else:
            assert inet.parse_mac(spelling) == mac


@given(noise | damaged(macs.map(inet.format_mac)))
@example("     02420a010005")
@example("02420a010005-----")
@example("02:42-0a:01-00:05")
@example("02:42:0a:01:00:0٥")
def test_mac_from_any_text(text: str) -> None:
    """Six pairs of hexadecimal digits between five separators of one kind."""
    if re.fullmatch(r"[0-9a-f]{2}([:-])(?:[0-9a-f]{2}\1){4}[0-9a-f]{2}", text, re.I | re.A):
        expected = netaddr.EUI(text).packed
        assume(not expected[0] & 1 and any(expected))
        assert inet.parse_mac(text) == expected
    else:
        with pytest.raises(ValueError, match="must be a MAC address") as caught:
            inet.parse_mac(text)
        assert str(caught.value).endswith(f'got "{text}"')
