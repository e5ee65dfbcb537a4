"""VXLAN packets of our networks are taken from members of their cluster only.

A VXLAN device takes whatever comes to its port with its VNI, from anybody and at any address of
the host (vxlan_rcv, drivers/net/vxlan/vxlan_core.c). Two tables of ours, ``ip cnm-overlay`` and
``ip6 cnm-overlay``, each there while a network has its VTEPs in that family, drop

- what comes to one of our networks and not from a member's VTEP to ours;
- what says that it is from a member and comes by a link that neither has the address it is
  sent to nor leads back to the member: a container of this host may send with any source;
- what this host would forward to a member's VTEP and is no member's: masqueraded, a
  container's packet would be this host's.

What others have on the same port is left alone: it has other VNIs. The sets are

- ``networks``: port and VNI of the networks on this host
- ``members``: port, VNI, a VTEP that the network's packets may come from, and our own
- ``vteps``: port and the former VTEP of ``members``
"""

from errno import ENOENT

from cnm_core.errors import KernelRefused, TryAgainLater
from cnm_core.inet import format_ip
from cnm_core.kernel import expressions as ex
from cnm_core.kernel import nftables as nft
from cnm_core.kernel.nftables import Element
from cnm_core.model import Drift

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from cnm_core.kernel.netlink import Request
    from cnm_core.kernel.vxlan import Vxlan

    Keys = dict[str, set[bytes]]

TABLE = "cnm-overlay"
_ADDRESS = {"ip": "ipv4_addr", "ip6": "ipv6_addr"}
_NETWORK = "inet_service . mark"
_NETWORK_LENGTH = 8  # bytes
_SETS = ("networks", "members", "vteps")
# How many rules each chain has and how many jumps lead to it, added up.
_HOOKS = ("prerouting", "input", "forward")
_UDP = (ex.meta("l4proto"), ex.cmp(ex.UDP))
_USES = {"prerouting": 1, "input": 1, "guarded": 3, "forward": 1, "passing": 3}
_ATTEMPTS = 10
# Elements in one request, which holds at most 64 KiB of them.
_BATCH = 200


class Guard:
    """The two tables, over one socket."""

    def __init__(self) -> None:
        self._socket = nft.open_socket()

    def stands(self, device: "Vxlan") -> bool:
        """Whether a network's packets are looked at, whoever its members are."""
        family, key = _family(device), _network(device)
        found = nft.find_element(self._socket, family, TABLE, "networks", key)
        return found is not None and not self._broken(family)

    def admit(self, device: "Vxlan", network: str, vteps: "Collection[bytes]") -> int:
        """Have a network's packets taken from these VTEPs only; how many had to change.

        Raises KernelRefused, TryAgainLater.
        """
        own = _network(device)
        members = _members(device, vteps)

        def wanted(present: "Keys") -> tuple[set[bytes], set[bytes]]:
            others = {key for key in present["members"] if not key.startswith(own)}
            return present["networks"] | {own}, others | members

        return self._change(_family(device), wanted, network)

    def forget(self, device: "Vxlan") -> None:
        """Look at a network's packets no more; a table that has no network goes."""
        family, own = _family(device), _network(device)

        def wanted(present: "Keys") -> tuple[set[bytes], set[bytes]]:
            members = {key for key in present["members"] if not key.startswith(own)}
            return present["networks"] - {own}, members

        if nft.table_exists(self._socket, family, TABLE):
            self._change(family, wanted, "")

    def has_others(self, devices: "Collection[Vxlan]") -> bool:
        """Whether there is a network that is none of these devices'."""
        return any(
            self._keys(family)["networks"]
            - {_network(each) for each in devices if _family(each) == family}
            for family in _ADDRESS
        )

    def keep(self, devices: "Collection[Vxlan]") -> None:
        """Forget every network that is none of these devices'; a table with none goes."""
        for family in _ADDRESS:
            known = {_network(each) for each in devices if _family(each) == family}

            def wanted(present: "Keys", known: set[bytes] = known) -> tuple[set[bytes], set[bytes]]:
                members = {key for key in present["members"] if key[:_NETWORK_LENGTH] in known}
                return present["networks"] & known, members

            if nft.table_exists(self._socket, family, TABLE):
                self._change(family, wanted, "")

    def drift(
        self, device: "Vxlan", vteps: "Collection[bytes]", new: "Collection[bytes]" = ()
    ) -> list[Drift]:
        """Rules and elements that are missing, and members that are none any more.

        Those of `new` may be missing.
        """
        family, own = _family(device), _network(device)
        what = f"nftables table {family} {TABLE}"
        found = []
        for chain, rules in _rules(family).items():
            count = len(nft.rules(self._socket, family, TABLE, chain))
            if count != len(rules):
                expected = f"{len(rules)} rules"
                found.append(Drift(f"chain {chain} of {what}", expected, f"{count} rules"))
        present = self._keys(family)
        if own not in present["networks"]:
            found.append(Drift(f"set networks of {what}", f"VNI {device.vni}", "no such element"))
        members = {key for key in present["members"] if key.startswith(own)}
        wanted = _members(device, vteps)
        for key in sorted(wanted - _members(device, new)):
            vtep = format_ip(_vtep_in(key))
            if key not in members:
                found.append(Drift(f"set members of {what}", vtep, "no such element"))
            if _port_and_vtep(key) not in present["vteps"]:
                found.append(Drift(f"set vteps of {what}", vtep, "no such element"))
        for key in sorted(members - wanted):
            vtep = format_ip(_vtep_in(key))
            found.append(Drift(f"set members of {what}", "members only", vtep))
        return found

    def _change(
        self,
        family: str,
        wanted: "Callable[[Keys], tuple[set[bytes], set[bytes]]]",
        network: str,
    ) -> int:
        """Have the networks and members that are wanted in view of those that are there."""
        for _ in range(_ATTEMPTS):
            broken = self._broken(family)
            present = self._keys(family)
            networks, members = wanted(present)
            if not networks:
                requests, changes = [nft.delete_table(family, TABLE)], 0
            else:
                keys = {
                    "networks": networks,
                    "members": members,
                    "vteps": set(map(_port_and_vtep, members)),
                }
                requests, changes = _difference(family, present, keys, network)
                requests = [*(_base(family) if broken else ()), *requests]
            try:
                nft.commit(self._socket, requests)
            except KernelRefused as error:
                if error.errno != ENOENT:
                    raise
                if networks:
                    continue  # somebody else took the table, or one of the elements, meanwhile
            return changes + broken
        raise TryAgainLater(f"nftables table {TABLE} is being changed by too many at once")

    def _broken(self, family: str) -> bool:
        """Whether the table is not there, or has not all of its rules."""
        found = nft.chain_uses(self._socket, family, TABLE, _USES)
        return any(found.get(chain, 0) < least for chain, least in _USES.items())

    def _keys(self, family: str) -> "Keys":
        return {
            name: {each.key for each in nft.elements(self._socket, family, TABLE, name)}
            for name in _SETS
        }


def _family(device: "Vxlan") -> str:
    return "ip" if len(device.local) == 4 else "ip6"


def _network(device: "Vxlan") -> bytes:
    return ex.concatenate(ex.service(device.port), ex.mark(device.vni))


def _members(device: "Vxlan", vteps: "Collection[bytes]") -> set[bytes]:
    """The elements of `members`; a VTEP of the other family cannot send to this one."""
    size = len(device.local)
    return {_network(device) + vtep + device.local for vtep in vteps if len(vtep) == size}


def _port_and_vtep(member: bytes) -> bytes:
    """The element of `vteps` for one of `members`."""
    return member[:4] + _vtep_in(member)


def _vtep_in(member: bytes) -> bytes:
    """The VTEP that packets come from: the first of two addresses."""
    return member[_NETWORK_LENGTH : (_NETWORK_LENGTH + len(member)) // 2]


def _difference(
    family: str, present: "Keys", wanted: "Keys", network: str
) -> "tuple[list[Request], int]":
    """What makes the sets those that are wanted, and how many elements that is about."""
    requests: list[Request] = []
    changes = 0
    for name in _SETS:
        stale, missing = present[name] - wanted[name], wanted[name] - present[name]
        changes += len(stale) + len(missing)
        requests += _requests(nft.delete_elements, family, name, stale, "")
        requests += _requests(nft.add_elements, family, name, missing, network)
    return requests, changes


def _requests(
    change: "Callable[[str, str, str, list[Element]], Request]",
    family: str,
    name: str,
    keys: set[bytes],
    network: str,
) -> "list[Request]":
    elements = [Element(key, b"", ex.comment(network)) for key in sorted(keys)]
    batches = [elements[at : at + _BATCH] for at in range(0, len(elements), _BATCH)]
    return [change(family, TABLE, name, each) for each in batches]


def _base(family: str) -> "list[Request]":
    """The table with its sets and chains; whatever of it is there already is made anew."""
    address = _ADDRESS[family]
    requests = [
        nft.add_table(family, TABLE),
        nft.add_set(family, TABLE, "networks", _NETWORK),
        nft.add_set(family, TABLE, "members", f"{_NETWORK} . {address} . {address}"),
        nft.add_set(family, TABLE, "vteps", f"inet_service . {address}"),
    ]
    for chain, rules in _rules(family).items():
        request = nft.add_chain(family, TABLE, chain)
        if chain in _HOOKS:
            request = nft.add_base_chain(
                family, TABLE, chain, kind="filter", hook=chain, priority=nft.RAW, policy="accept"
            )
        requests += [request, nft.flush_chain(family, TABLE, chain)]
        requests += [nft.add_rule(family, TABLE, chain, rule) for rule in rules]
    return requests


def _rules(family: str) -> dict[str, list[list[bytes]]]:
    """The chains with their rules; those that are jumped to come first.

    At input, fragments have been put together (ip_local_deliver, ip6_input); before, the
    first one has the port. Before Linux 5.19 ways back are known at prerouting only
    (nft_fib_validate).
    """
    address = _ADDRESS[family]
    port, vni, source, to = ex.registers(f"{_NETWORK} . {address} . {address}")
    behind_port = ex.registers(f"inet_service . {address}")[1]
    to_network = [
        ex.payload("th dport", port),
        ex.payload("vxlan vni", vni),
        ex.bitwise(b"\0\xff\xff\xff", vni),
        ex.to_host_order(vni),
    ]
    from_vtep = [
        ex.payload("th dport", port),
        ex.payload(f"{family} saddr", behind_port),
        ex.lookup("vteps", port),
    ]
    return {
        "guarded": [
            [
                *to_network,
                ex.payload(f"{family} saddr", source),
                ex.payload(f"{family} daddr", to),
                ex.lookup("members", port),
                ex.verdict("return"),
            ],
            [ex.counter(), ex.verdict("drop")],
        ],
        "passing": [[*from_vtep, ex.verdict("return")], [ex.counter(), ex.verdict("drop")]],
        "prerouting": [
            [
                *(*_UDP, *from_vtep),
                *(ex.fib_daddr_type_here(), ex.cmp(ex.LOCAL, equal=False)),
                *(ex.fib_way_back(), ex.cmp(bytes(4))),
                *(ex.counter(), ex.verdict("drop")),
            ]
        ],
        "input": [[*_UDP, *to_network, ex.lookup("networks", port), ex.verdict("goto guarded")]],
        "forward": [
            [
                *_UDP,
                ex.payload("th dport", port),
                ex.payload(f"{family} daddr", behind_port),
                ex.lookup("vteps", port),
                ex.verdict("goto passing"),
            ]
        ],
    }
