"""Our messages about VLANs against pyroute2's message classes, byte for byte and back."""

from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink import NLM_F_ACK, rtnl
from pyroute2.netlink.rtnl.ifinfmsg import IFF_UP, ifinfmsg

from cnm_core.kernel import netlink, vlan
from cnm_core.kernel.vlan import PVID, UNTAGGED
from tests.unit.test_netlink import NEW, indexes, names, nest, same

AF_BRIDGE = 7
SELF = 2
RANGE = {"range_begin": 0x8, "range_end": 0x10}

vids = st.integers(1, 4094)
members = st.dictionaries(vids | st.integers(10, 14), st.sampled_from([0, UNTAGGED]), max_size=9)


@st.composite
def memberships(draw: st.DrawFn) -> dict[int, int]:
    """The VLANs of a port, of which one at most takes what comes in untagged."""
    drawn = draw(members)
    for vid in draw(st.sets(st.sampled_from(sorted(drawn)), max_size=1)) if drawn else ():
        drawn[vid] |= PVID
    return drawn


def _entries(of: dict[int, int]) -> list[tuple[str, dict[str, Any]]]:
    """What pyroute2 is to write: an entry for each VLAN, two for VLANs that adjoin."""
    entries = []
    for first, last, flags in vlan.ranges(of):
        if first == last:
            entries.append({"flags": flags, "vid": first})
        else:
            entries.append({"flags": flags | RANGE["range_begin"], "vid": first})
            entries.append({"flags": flags | RANGE["range_end"], "vid": last})
    return [("IFLA_BRIDGE_VLAN_INFO", entry) for entry in entries]


def _written(of: dict[int, int], index: int, *, own: bool = False) -> Any:
    """pyroute2's message about the VLANs of a port."""
    message = ifinfmsg()
    flags: list[Any] = [("IFLA_BRIDGE_VLAN_FLAGS", {"value": SELF})] if own else []
    message |= {"family": AF_BRIDGE, "index": index}
    message["attrs"] = [("IFLA_AF_SPEC", {"attrs": flags + _entries(of)})]
    message.encode()
    return message


@given(memberships(), indexes, names, st.booleans())
def test_add(of: dict[int, int], index: int, name: str, own: bool) -> None:
    """A change of a port's VLANs is what pyroute2 writes for it."""
    request = vlan.add(index, name, of, own=own)
    assert (request.kind, request.flags) == (rtnl.RTM_SETLINK, NLM_F_ACK)
    assert request.body == bytes(_written(of, index, own=own).data)[16:]


@given(st.sets(vids | st.integers(10, 14), max_size=9), indexes, names, st.booleans())
def test_remove(of: set[int], index: int, name: str, own: bool) -> None:
    """Neither is a removal another."""
    request = vlan.remove(index, name, of, own=own)
    assert (request.kind, request.flags) == (rtnl.RTM_DELLINK, NLM_F_ACK)
    assert request.body == bytes(_written(dict.fromkeys(of, 0), index, own=own).data)[16:]


@given(memberships())
def test_ranges(of: dict[int, int]) -> None:
    """They are the same VLANs, in order, and as few as can be."""
    ranges = vlan.ranges(of)
    told = {vid: flags for first, last, flags in ranges for vid in range(first, last + 1)}
    assert told == of
    assert list(told) == sorted(of)
    for (_, last, flags), (first, _, others) in pairwise(ranges):
        assert first > last + 1 or flags != others or flags & PVID
    assert all(first == last for first, last, flags in ranges if flags & PVID)


class _Kernel:
    """Answers a dump with messages that pyroute2 wrote."""

    def __init__(self, messages: list[bytes]) -> None:
        self._messages = messages
        self.asked: list[netlink.Request] = []

    def dump(self, request: netlink.Request) -> list[bytes]:
        self.asked.append(request)
        return self._messages


@given(st.dictionaries(indexes, memberships(), min_size=1, max_size=4), st.data())
def test_members_of(ports: dict[int, dict[int, int]], data: st.DataObject) -> None:
    """What pyroute2 wrote about the ports that are asked for is read, by one dump."""
    messages = [bytes(_written(of, index).data)[16:] for index, of in ports.items()]
    asked = data.draw(st.lists(st.sampled_from(sorted(ports)), unique=True))
    kernel = _Kernel(messages)
    found = vlan.members_of(kernel, *asked, 0)  # type: ignore[arg-type]
    assert found == [*(ports[index] for index in asked), {}]
    (request,) = kernel.asked
    attributes = nest(("IFLA_EXT_MASK", 4))
    same(request, ifinfmsg, rtnl.RTM_GETLINK, 0x300, family=AF_BRIDGE, **attributes)


@given(indexes, names)
def test_set_filtering(index: int, name: str) -> None:
    """Filtering is switched on."""
    data = nest(("IFLA_BR_VLAN_FILTERING", 1))
    info = nest(("IFLA_INFO_KIND", "bridge"), ("IFLA_INFO_DATA", data))
    attributes = nest(("IFLA_LINKINFO", info))
    request = vlan.set_filtering(index, name)
    same(request, ifinfmsg, rtnl.RTM_NEWLINK, NLM_F_ACK, index=index, **attributes)


@given(names, indexes, vids)
def test_create(name: str, parent: int, vid: int) -> None:
    """A VLAN link that is up."""
    info = nest(("IFLA_INFO_KIND", "vlan"), ("IFLA_INFO_DATA", nest(("IFLA_VLAN_ID", vid))))
    attributes = nest(("IFLA_IFNAME", name), ("IFLA_LINK", parent), ("IFLA_LINKINFO", info))
    request = vlan.create(name, parent, vid)
    same(request, ifinfmsg, rtnl.RTM_NEWLINK, NEW, flags=IFF_UP, change=IFF_UP, **attributes)


@given(st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=9))), st.integers(0, 3))
def test_repeated(pairs: list[tuple[int, bytes]], wanted: int) -> None:
    """Every attribute of a kind, in order."""
    data = b"".join(netlink.attribute(kind, payload) for kind, payload in pairs)
    expected = [payload for kind, payload in pairs if kind == wanted]
    assert netlink.repeated(data, wanted) == expected
    for cut in range(len(data)):
        assert all(each in data for each in netlink.repeated(data[:cut], wanted))
