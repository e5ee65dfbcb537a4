"""VXLAN and neighbour messages against pyroute2's, and the entries of endpoints."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg

from cnm_core.inet import format_ip, format_mac
from cnm_core.kernel import neighbour, netlink, vxlan
from cnm_core.kernel.neighbour import Row
from cnm_core.kernel.vxlan import Vxlan
from cnm_core.store.entries import mac_of

macs = st.binary(min_size=6, max_size=6)
ips = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)
indexes = st.integers(1, 2**31 - 1)


@given(indexes, macs, ips, st.sampled_from(["neighbour", "vtep", "port"]))
def test_row(index: int, mac: bytes, ip: bytes, kind: str) -> None:
    """pyroute2 reads the entry that was meant."""
    row = Row(index, mac)
    if kind == "neighbour":
        row = Row(index, mac, ip)
    elif kind == "vtep":
        row = Row(index, mac, vtep=ip)
    message = ndmsg(netlink.encode(neighbour.replace(row), 1))
    message.decode()
    assert message["ifindex"] == index
    assert message.get_attr("NDA_LLADDR") == format_mac(mac)
    if kind == "port":
        assert message.get_attr("NDA_DST") is None
        assert (message["state"], message["flags"]) == (0x40, 0x44)
    else:
        assert bytes(neighbour._body(row)).find(ip) > 0
        assert message["flags"] == (0 if kind == "neighbour" else 0x02)
        assert message["state"] & 0x80


def test_copies_for_everybody() -> None:
    """An entry for everybody is added beside those of other hosts; it takes no one's place."""
    rows = [Row(7, neighbour.EVERYBODY, vtep=bytes([10, 0, 0, number])) for number in (1, 2)]
    for row in rows:
        message = ndmsg(netlink.encode(neighbour.replace(row), 1))
        message.decode()
        assert message["header"]["flags"] & 0xF00 == 0xC00  # NLM_F_CREATE | NLM_F_APPEND
    assert rows[0].key != rows[1].key


@given(macs, st.integers(68, 65535), indexes, ips, st.integers(1, 2**24 - 1), st.integers(1, 65535))
def test_create(mac: bytes, mtu: int, master: int, local: bytes, vni: int, port: int) -> None:
    """pyroute2 reads the device that was meant."""
    request = vxlan.create("vx-001001", mac, mtu, master, Vxlan(vni, port, local))
    message = ifinfmsg(netlink.encode(request, 1))
    message.decode()
    assert message.get_attr("IFLA_IFNAME") == "vx-001001"
    assert message.get_attr("IFLA_ADDRESS") == format_mac(mac)
    assert (message.get_attr("IFLA_MTU"), message.get_attr("IFLA_MASTER")) == (mtu, master)
    info = message.get_attr("IFLA_LINKINFO")
    assert info.get_attr("IFLA_INFO_KIND") == "vxlan"
    data = info.get_attr("IFLA_INFO_DATA")
    assert data.get_attr("IFLA_VXLAN_ID") == vni
    assert data.get_attr("IFLA_VXLAN_PORT") == port
    assert data.get_attr("IFLA_VXLAN_LEARNING") == 0
    name = "IFLA_VXLAN_LOCAL" if len(local) == 4 else "IFLA_VXLAN_LOCAL6"
    assert data.get_attr(name) == format_ip(local)


@pytest.mark.parametrize(
    ("texts", "mac"),
    [
        (["10.7.0.2"], "02:42:0a:07:00:02"),
        (["fd00::1:2", "10.7.0.2"], "02:42:0a:07:00:02"),
        (["fd00::102:304"], "02:46:01:02:03:04"),
    ],
)
def test_mac_of(texts: list[str], mac: str) -> None:
    """A MAC address follows from the IPv4 address, else from the end of the IPv6 one."""
    from cnm_core.inet import parse_ip

    assert format_mac(mac_of(tuple(map(parse_ip, texts)))) == mac
