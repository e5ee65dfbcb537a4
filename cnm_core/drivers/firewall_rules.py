"""The rules themselves, as data: what a chain has, and the requests that make it so."""

from cnm_core.inet import Address, format_ip, parse_ip, parse_subnet
from cnm_core.kernel import expressions as ex
from cnm_core.kernel import nftables as nft
from cnm_core.kernel.netlink import Request
from cnm_core.kernel.nftables import Element
from cnm_core.model import Policy

TABLE = "cnm"
ADDRESS = {"ip": "ipv4_addr", "ip6": "ipv6_addr"}
BY_SUBNET = ("networks", "forward_to")
# The verdict maps, and whether their keys are subnets.
JUMPS = {"networks": True, "forward_to": True, "forward_from": False}
_MULTICAST = {"ip": parse_subnet("224.0.0.0/4"), "ip6": parse_subnet("ff00::/8")}
_LOOPBACK = parse_subnet("127.0.0.0/8")
_LOOPBACK_6 = parse_ip("::1")
# What the comment of an element begins with that is there for published ports only.
_PORTS = "ports of "
_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")
# Base chains: type, hook and priority.
_HOOKS = {
    "raw": ("filter", "prerouting", nft.RAW),
    "prerouting": ("nat", "prerouting", nft.DSTNAT),
    "output": ("nat", "output", nft.DSTNAT),
    "forward": ("filter", "forward", nft.FILTER),
    "postrouting": ("nat", "postrouting", nft.SRCNAT),
}

# Rules of the base chains, and jumps to them, added up. The only rules of prerouting and output
# are jumps to published: that has them among its uses.
BASE_USES = {
    "ip": {"published": 4, "forward": 4, "postrouting": 2, "raw": 1},
    "ip6": {"published": 4, "forward": 4, "postrouting": 1},
}

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Rules = list[list[bytes]]


def words(policy: Policy) -> str:
    """A policy in words, which tell a changed one from that in the kernel."""
    nat = "routed"
    if policy.masquerade:
        nat = " ".join(["masquerade", *map(format_ip, policy.sources)])
    reach = "internal" if policy.internal else "isolated" if policy.isolated else "open"
    links = " and ".join(filter(None, (policy.bridge, policy.inner)))
    return ex.comment(f"{nat}, {reach}: {policy.network} on {links}")


def family_of(ip: bytes) -> str:
    """The family of the table that an address belongs to."""
    return "ip" if len(ip) == 4 else "ip6"


def nat_chain(policy: Policy) -> str:
    """The chain of a network, for what leaves its containers."""
    return f"nat-{policy.network}"


def nat_jump(policy: Policy) -> str:
    """The verdict that leads to it."""
    return f"goto {nat_chain(policy)}"


def _to_chain(policy: Policy) -> str:
    return f"to-{policy.network}"


def _from_chain(policy: Policy) -> str:
    """The chain of a bridge, whose name may have what the name of a chain may not."""
    safe = "".join(char if char in _WORD else f"_{ord(char):x}_" for char in policy.bridge)
    return f"from-{safe}"


def base(family: str) -> list[Request]:
    """The table with its maps and base chains; whatever of it is there already is made anew."""
    address = ADDRESS[family]
    value = f"{address} . inet_service"
    requests = [
        nft.add_table(family, TABLE),
        nft.add_set(family, TABLE, "networks", address, data="verdict", interval=True),
        nft.add_set(family, TABLE, "ports", "inet_proto . inet_service", data=value),
        nft.add_set(family, TABLE, "address_ports", _port_key(family), data=value),
        nft.add_set(family, TABLE, "forward_to", address, data="verdict", interval=True),
        nft.add_set(family, TABLE, "forward_from", "ifname", data="verdict"),
    ]
    for chain, rules in base_rules(family).items():
        request = nft.add_chain(family, TABLE, chain)
        if chain in _HOOKS:
            kind, hook, priority = _HOOKS[chain]
            request = nft.add_base_chain(
                family, TABLE, chain, kind=kind, hook=hook, priority=priority, policy="accept"
            )
        # Flushed, since somebody else may be making the same at the same time.
        requests += [request, nft.flush_chain(family, TABLE, chain)]
        requests += [nft.add_rule(family, TABLE, chain, rule) for rule in rules]
    return requests


def base_rules(family: str) -> "dict[str, Rules]":
    """Every chain that the table has by itself, with its rules; regular ones come first."""
    to_host = [ex.fib_daddr_type(), ex.cmp(ex.LOCAL), ex.verdict("jump published")]
    chains = {
        "published": _published(family),
        "prerouting": [to_host],
        "output": [to_host],
        "forward": [
            [ex.ct("state"), ex.any_of(ex.ESTABLISHED | ex.RELATED), ex.verdict("accept")],
            [ex.meta("iifname"), ex.lookup("forward_from", into=ex.VERDICT)],
            [*_is_published(), ex.verdict("accept")],
            [ex.payload(f"{family} daddr"), ex.lookup("forward_to", into=ex.VERDICT)],
        ],
        "postrouting": [[ex.payload(f"{family} saddr"), ex.lookup("networks", into=ex.VERDICT)]],
    }
    if family == "ip":
        # From 127.0.0.1 to a published port: the container cannot answer to that address.
        from_loopback = [*_in_subnet("ip saddr", _LOOPBACK), *_is_published(), ex.masquerade()]
        chains["postrouting"].insert(0, from_loopback)
        # Keep others from the host's own 127.0.0.0/8, which route_localnet would let in.
        not_lo = [ex.meta("iifname"), ex.cmp(ex.ifname("lo"), equal=False)]
        chains["raw"] = [[*not_lo, *_in_subnet("ip daddr", _LOOPBACK), ex.verdict("drop")]]
    else:
        # IPv6 has no route_localnet: an answer never gets back to ::1 (rt6_need_strict). Who
        # calls localhost is refused there at once, and tries 127.0.0.1.
        other = [ex.payload("ip6 daddr"), ex.cmp(_LOOPBACK_6, equal=False)]
        chains["output"] = [[*other, *to_host]]
    return chains


def _published(family: str) -> "Rules":
    """Destination NAT for what is sent to an address of the host, from outside or from itself."""
    ip, protocol, port = ex.registers(_port_key(family))
    to_ip, to_port = ex.registers(f"{ADDRESS[family]} . inet_service")
    own_protocol, own_port = ex.registers("inet_proto . inet_service")
    lead = ex.dnat(family, to_ip, to_port)
    return [
        [
            ex.payload(f"{family} daddr", ip),
            ex.meta("l4proto", protocol),
            ex.payload("th dport", port),
            ex.lookup("address_ports", ip, into=to_ip),
            lead,
        ],
        [
            ex.meta("l4proto", own_protocol),
            ex.payload("th dport", own_port),
            ex.lookup("ports", own_protocol, into=to_ip),
            lead,
        ],
    ]


def may_replace(element: Element, policy: Policy) -> bool:
    """Whether what leads to a subnet's chain is the policy's own, or that of ports only."""
    return element.data == nat_jump(policy) or element.comment.startswith(_PORTS)


def network(
    family: str, policy: Policy, subnet: Address, present: "Mapping[str, Sequence[Element]]"
) -> list[Request]:
    """The chains of a network and the elements that lead to them, made anew.

    `present` are the elements that maps have for the subnet, which go.
    """
    comment, last = words(policy), subnet.last
    to_subnet = {
        "networks": Element(subnet.ip, nat_jump(policy), comment, last=last),
        "forward_to": Element(subnet.ip, f"goto {_to_chain(policy)}", comment, last=last),
    }
    requests = [
        nft.delete_elements(family, TABLE, name, [each])
        for name, elements in present.items()
        for each in elements
    ]
    for chain, rules in network_rules(family, policy).items():
        requests += [nft.add_chain(family, TABLE, chain), nft.flush_chain(family, TABLE, chain)]
        requests += [nft.add_rule(family, TABLE, chain, rule) for rule in rules]
    requests.append(nft.add_elements(family, TABLE, "forward_from", [from_element(policy)]))
    requests += [nft.add_elements(family, TABLE, name, [each]) for name, each in to_subnet.items()]
    return requests


def from_element(policy: Policy) -> Element:
    """The element that leads what comes from a bridge to its chain."""
    return Element(ex.ifname(policy.bridge), f"jump {_from_chain(policy)}")


def network_rules(family: str, policy: Policy) -> "dict[str, Rules]":
    """The chains of a network, and of what is routed from its bridge."""
    return {
        nat_chain(policy): _nat(family, policy),
        _to_chain(policy): _forward(policy, "iifname", closed=policy.isolated or policy.internal),
        _from_chain(policy): _forward(policy, "oifname", closed=policy.internal),
    }


def network_uses(policy: Policy) -> dict[str, int]:
    """At least how many rules, and jumps to it, each chain of a network has, added up."""
    more = bool(policy.below) + bool(policy.inner)
    return {
        nat_chain(policy): (5 if policy.masquerade else 3) + more,
        _to_chain(policy): 3 + more if policy.isolated or policy.internal else 1,
        _from_chain(policy): 3 + more if policy.internal else 1,
    }


def without_network(
    family: str, policy: Policy, found: "dict[str, list[Element]]"
) -> list[Request]:
    """Take away what `network` made, of the elements that were found."""
    requests = []
    for name, elements in found.items():
        ours = [each for each in elements if is_of(each, policy)]
        requests.append(nft.delete_elements(family, TABLE, name, ours))
    return [*requests, *(nft.delete_chain(family, TABLE, chain) for chain in _chains(policy))]


def is_of(element: Element, policy: Policy) -> bool:
    """Whether an element leads to a chain of the policy's network."""
    return str(element.data).partition(" ")[2] in _chains(policy)


def _chains(policy: Policy) -> tuple[str, str, str]:
    return nat_chain(policy), _to_chain(policy), _from_chain(policy)


def turning_back(family: str, network: str, subnet: Address) -> list[Request]:
    """A chain that masquerades what a subnet sends to its own published ports."""
    chain = f"nat-{network}-{subnet.ip.hex()}"
    rule = [*_in_subnet(f"{family} daddr", subnet), *_is_published(), ex.masquerade()]
    element = Element(
        subnet.ip, f"goto {chain}", ex.comment(f"{_PORTS}{network}"), last=subnet.last
    )
    return [
        nft.add_chain(family, TABLE, chain),
        nft.flush_chain(family, TABLE, chain),
        nft.add_rule(family, TABLE, chain, rule),
        nft.add_elements(family, TABLE, "networks", [element]),
    ]


def _forward(policy: Policy, other_side: str, *, closed: bool) -> "Rules":
    """Nothing but what stays in the network, where that direction is closed."""
    if not closed:
        return []
    inside = [[ex.meta(other_side), ex.cmp(ex.ifname(policy.bridge)), ex.verdict("return")]]
    if policy.below:
        below = ex.cmp(ex.ifname(policy.below))
        both = [ex.meta("iifname"), below, ex.meta("oifname"), below, ex.verdict("return")]
        inside.append(both)
    if policy.inner:
        inside.append([ex.meta(other_side), ex.cmp(ex.ifname(policy.inner)), ex.verdict("return")])
    return [*inside, [ex.verdict("drop")]]


def _nat(family: str, policy: Policy) -> "Rules":
    """Source NAT for what comes from a network."""
    inside = [ex.meta("oifname"), ex.cmp(ex.ifname(policy.bridge))]
    rules = [
        # To a published port of the same network: the answer must come back through us.
        [*inside, *_is_published(), ex.masquerade()],
        [*inside, ex.verdict("return")],
    ]
    if policy.below:
        below = ex.cmp(ex.ifname(policy.below))
        rules.append([ex.meta("oifname"), below, ex.verdict("return")])
    if policy.inner:
        rules.append([ex.meta("oifname"), ex.cmp(ex.ifname(policy.inner)), ex.verdict("return")])
    if policy.masquerade:
        rules.append([*_in_subnet(f"{family} daddr", _MULTICAST[family]), ex.verdict("return")])
        sources = [each for each in policy.sources if family_of(each) == family]
        leave = [ex.immediate(sources[0]), ex.snat(family)] if sources else [ex.masquerade()]
        rules.append(leave)
    return rules


def _is_published() -> list[bytes]:
    return [ex.ct("status"), ex.any_of(ex.DNATTED)]


def _in_subnet(field: str, subnet: Address) -> list[bytes]:
    bits = len(subnet.ip) * 8
    mask = ((1 << bits) - (1 << bits - subnet.prefix)).to_bytes(len(subnet.ip), "big")
    return [ex.payload(field), ex.bitwise(mask), ex.cmp(subnet.ip)]


def _port_key(family: str) -> str:
    return f"{ADDRESS[family]} . inet_proto . inet_service"
