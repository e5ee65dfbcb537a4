"""What bridge networks have in nftables: masquerading, published ports, isolation.

Two tables of ours, ``ip cnm`` and ``ip6 cnm``; rules of others are neither read nor
changed. A packet meets the same few rules whatever the number of networks, containers
and ports: what differs between these is in maps. `nft list ruleset` shows

- ``networks``: subnet → the chain of its bridge, for what leaves containers
- ``ports``, ``address_ports``: protocol and port, with or without the host's address →
  address and port of the container
- ``forward_to``, ``forward_from``: bridge → its chain, for what is routed to and from it

and each element says in its comment whose it is. NAT is in tables of one family, since
kernels before 5.2 have none in ``inet``.
"""

from errno import EBUSY, EEXIST

from cnm_core.errors import AddressInUse, InvalidNetworkConfig, KernelRefused
from cnm_core.inet import Address, format_ip, parse_subnet
from cnm_core.kernel import conntrack
from cnm_core.kernel import nftables as nft
from cnm_core.kernel.netlink import Request
from cnm_core.kernel.nftables import Element
from cnm_core.model import Drift, Endpoint, EndpointKey, PublishedPort
from cnm_core.record import Record

TABLE = "cnm"
_ADDRESS = {"ip": "ipv4_addr", "ip6": "ipv6_addr"}
_MULTICAST = {"ip": parse_subnet("224.0.0.0/4"), "ip6": parse_subnet("ff00::/8")}
_LOOPBACK = parse_subnet("127.0.0.0/8")
UDP = 17
_PROTOCOLS = {6: "tcp", UDP: "udp", 132: "sctp"}


class Policy(Record):
    """What a network wants of the firewall.

    `sources` are the addresses, one of a version at most, that masqueraded traffic gets;
    of the other version it gets that of the link it leaves by.
    """

    network: str
    bridge: str
    masquerade: bool
    sources: tuple[bytes, ...]
    isolated: bool
    internal: bool

    @property
    def words(self) -> str:
        """The policy in words, which tell a changed one from that in the kernel."""
        nat = "routed"
        if self.masquerade:
            nat = " ".join(["masquerade", *map(format_ip, self.sources)])
        reach = "internal" if self.internal else "isolated" if self.isolated else "open"
        return f"{self.network} on {self.bridge}: {nat}, {reach}"[: nft.COMMENT_MAXLEN]


class Target(Record):
    """Where the published ports of an endpoint lead: its addresses, and who it is."""

    network: str
    key: EndpointKey
    ips: tuple[bytes, ...]

    @staticmethod
    def of(endpoint: Endpoint) -> "Target":
        """An endpoint: its first address of each version."""
        first: dict[int, bytes] = {}
        for lease in endpoint.addressing.leases:
            first.setdefault(lease.address.version, lease.address.ip)
        return Target(endpoint.network, endpoint.key, tuple(first.values()))

    @property
    def owner(self) -> str:
        """The comment of the endpoint's elements."""
        return f"{self.network} {self.key}"[: nft.COMMENT_MAXLEN]


class Firewall:
    """The two tables, over one socket."""

    def __init__(self) -> None:
        try:
            self._socket = nft.open_socket()
        except OSError as error:
            raise KernelRefused(
                error.errno or 0,
                f"cannot reach nftables: {error.strerror}",
                details="the kernel needs nf_tables (CONFIG_NF_TABLES, or its module)",
            ) from None

    def apply(self, policy: Policy, subnet: Address) -> None:
        """Have the policy hold for a subnet of its bridge; one look where it does already."""
        family = _family(subnet.ip)
        element = self._network(family, subnet)
        if element is not None and element.comment == policy.words:
            return
        if element is not None and element.data != _goto(policy):
            raise _overlap(subnet, element.comment)
        requests = _network(family, policy, subnet, known=element is not None)
        self._commit_subnet([*self._missing_base(family), *requests], subnet)

    def prepare(self) -> None:
        """Have the tables, for ports of endpoints that no policy is about."""
        for family in _ADDRESS:
            nft.commit(self._socket, self._missing_base(family))

    def turn_back(self, network: str, subnet: Address) -> None:
        """Let a subnet reach its own published ports; a policy of ours does so already."""
        family = _family(subnet.ip)
        if self._network(family, subnet) is None:
            self._commit_subnet(_turning_back(family, network, subnet), subnet)

    def withdraw(self, policy: Policy) -> None:
        """Remove what the policy's network and bridge have in the tables."""
        for family in _ADDRESS:
            if not nft.chain_exists(self._socket, family, TABLE, _nat_chain(policy)):
                continue
            bridge = [Element(nft.ifname(policy.bridge))]
            every = nft.elements(self._socket, family, TABLE, "networks", interval=True)
            ours = [each for each in every if each.data == _goto(policy)]
            nft.commit(
                self._socket,
                [
                    nft.delete_elements(family, TABLE, "networks", ours),
                    nft.delete_elements(family, TABLE, "forward_to", bridge),
                    nft.delete_elements(family, TABLE, "forward_from", bridge),
                    *(nft.delete_chain(family, TABLE, name) for name in _chains(policy)),
                ],
            )

    def publish(self, ports: tuple[PublishedPort, ...], target: Target) -> None:
        """Lead the ports to the target. Raises AddressInUse with the holder of a taken one."""
        wanted = _elements(ports, target)
        try:
            nft.commit(
                self._socket,
                [
                    nft.add_elements(family, TABLE, name, [element], exclusive=True)
                    for family, name, element in wanted
                ],
            )
        except KernelRefused as error:
            if error.errno in (EEXIST, EBUSY):
                self._refuse_taken(wanted)
            raise
        self._forget_flows(ports)

    def unpublish(self, ports: tuple[PublishedPort, ...], target: Target) -> None:
        """Take the target's ports back; those that somebody else has by now stay."""
        ours = [
            (family, name, element)
            for family, name, element in _elements(ports, target)
            if self._find(family, name, element) == element
        ]
        if ours:
            deletions = [
                nft.delete_elements(family, TABLE, name, [element])
                for family, name, element in ours
            ]
            nft.commit(self._socket, deletions)
            self._forget_flows(ports)

    def drift(self, policy: Policy, subnets: list[Address]) -> list[Drift]:
        """Subnets for which another policy holds, or none."""
        found = []
        for subnet in subnets:
            element = self._network(_family(subnet.ip), subnet)
            has = element.comment if element else "no such element"
            if has != policy.words:
                found.append(Drift(f"nftables map networks, {subnet}", policy.words, has))
        return found

    def port_drift(self, ports: tuple[PublishedPort, ...], target: Target) -> list[Drift]:
        """Ports that do not lead to the target."""
        found = []
        for family, name, element in _elements(ports, target):
            present = self._find(family, name, element)
            if present != element:
                has = _holder(present) if present else "no such element"
                found.append(Drift(f"nftables map {name}", _holder(element), has))
        return found

    def _missing_base(self, family: str) -> list[Request]:
        there = nft.chain_exists(self._socket, family, TABLE, "postrouting")
        return [] if there else _base(family)

    def _commit_subnet(self, requests: list[Request], subnet: Address) -> None:
        try:
            nft.commit(self._socket, requests)
        except KernelRefused as error:
            if error.errno == EEXIST:
                raise _overlap(subnet, "another network") from None
            raise

    def _forget_flows(self, ports: tuple[PublishedPort, ...]) -> None:
        """Have UDP flows that go on follow the change; TCP ones begin anew by themselves."""
        udp = frozenset(port.host_port for port in ports if port.protocol == UDP)
        if udp:
            conntrack.forget(self._socket, UDP, udp)

    def _network(self, family: str, subnet: Address) -> Element | None:
        return nft.find_element(self._socket, family, TABLE, "networks", subnet.ip)

    def _find(self, family: str, name: str, element: Element) -> Element | None:
        return nft.find_element(self._socket, family, TABLE, name, element.key)

    def _refuse_taken(self, wanted: "list[tuple[str, str, Element]]") -> None:
        for family, name, element in wanted:
            present = self._find(family, name, element)
            if present is not None:
                raise AddressInUse(
                    f"{_port_in(name, element)} is already published by {_holder(present)}",
                    details="publish another port of the host, or remove that container first",
                )


def _family(ip: bytes) -> str:
    return "ip" if len(ip) == 4 else "ip6"


def _nat_chain(policy: Policy) -> str:
    return f"nat-{policy.network}"


def _goto(policy: Policy) -> str:
    return f"goto {_nat_chain(policy)}"


def _chains(policy: Policy) -> tuple[str, str, str]:
    """The chains of a network, and of what is routed to and from its bridge."""
    return _nat_chain(policy), f"to-{policy.bridge}", f"from-{policy.bridge}"


def _overlap(subnet: Address, holder: str) -> InvalidNetworkConfig:
    return InvalidNetworkConfig(
        f"subnet {subnet} overlaps with that of {holder}",
        details="networks on different bridges of one host need subnets of their own",
    )


def _port_key(family: str) -> str:
    return f"{_ADDRESS[family]} . inet_proto . inet_service"


def _elements(ports: tuple[PublishedPort, ...], target: Target) -> "list[tuple[str, str, Element]]":
    """(family, map, element) for each port and each address that it leads to."""
    found = []
    for port in ports:
        for ip in target.ips:
            host_ip = port.host_ip
            if host_ip is not None and len(host_ip) != len(ip):
                continue
            data = nft.concatenate(ip, nft.service(port.container_port))
            fields = [bytes([port.protocol]), nft.service(port.host_port)]
            name = "ports"
            if host_ip is not None and any(host_ip):
                name, fields = "address_ports", [host_ip, *fields]
            element = Element(nft.concatenate(*fields), data, target.owner)
            found.append((_family(ip), name, element))
    return found


def _holder(element: Element) -> str:
    """Whose an element is and where it leads, in words."""
    ip, port = element.data[:-4], element.data[-4:-2]
    assert isinstance(ip, bytes) and isinstance(port, bytes)
    return f'"{element.comment}" for {format_ip(ip)} port {int.from_bytes(port, "big")}'


def _port_in(name: str, element: Element) -> str:
    """The port of an element's key in words, as in 192.0.2.1:8080/tcp."""
    address = f"{format_ip(element.key[:-8])} " if name == "address_ports" else ""
    protocol, port = element.key[-8], int.from_bytes(element.key[-4:-2], "big")
    return f"{address}port {port}/{_PROTOCOLS.get(protocol, protocol)} of the host"


def _base(family: str) -> list[Request]:
    """The table with its maps and base chains."""
    address = _ADDRESS[family]
    value = f"{address} . inet_service"
    return [
        nft.add_table(family, TABLE),
        nft.add_set(family, TABLE, "networks", address, data="verdict", interval=True),
        nft.add_set(family, TABLE, "ports", "inet_proto . inet_service", data=value),
        nft.add_set(family, TABLE, "address_ports", _port_key(family), data=value),
        nft.add_set(family, TABLE, "forward_to", "ifname", data="verdict"),
        nft.add_set(family, TABLE, "forward_from", "ifname", data="verdict"),
        *_published(family),
        *_postrouting(family),
        *_forward(family),
        *_guard(family),
    ]


def _published(family: str) -> list[Request]:
    """Destination NAT for what is sent to an address of the host, from outside or from itself."""
    ip, protocol, port = nft.registers(_port_key(family))
    to_ip, to_port = nft.registers(f"{_ADDRESS[family]} . inet_service")
    own_protocol, own_port = nft.registers("inet_proto . inet_service")
    to = nft.dnat(family, to_ip, to_port)
    requests = [
        nft.add_chain(family, TABLE, "published"),
        nft.add_rule(
            family,
            TABLE,
            "published",
            [
                nft.payload(f"{family} daddr", ip),
                nft.meta("l4proto", protocol),
                nft.payload("th dport", port),
                nft.lookup("address_ports", ip, into=to_ip),
                to,
            ],
        ),
        nft.add_rule(
            family,
            TABLE,
            "published",
            [
                nft.meta("l4proto", own_protocol),
                nft.payload("th dport", own_port),
                nft.lookup("ports", own_protocol, into=to_ip),
                to,
            ],
        ),
    ]
    for hook in ("prerouting", "output"):
        requests += [
            nft.add_base_chain(
                family, TABLE, hook, kind="nat", hook=hook, priority=nft.DSTNAT, policy="accept"
            ),
            nft.add_rule(
                family,
                TABLE,
                hook,
                [nft.fib_daddr_type(), nft.cmp(nft.LOCAL), nft.verdict("jump published")],
            ),
        ]
    return requests


def _postrouting(family: str) -> list[Request]:
    """Source NAT by the network that a packet comes from."""
    chain = nft.add_base_chain(
        family,
        TABLE,
        "postrouting",
        kind="nat",
        hook="postrouting",
        priority=nft.SRCNAT,
        policy="accept",
    )
    requests = [chain]
    if family == "ip":
        # From 127.0.0.1 to a published port: the container cannot answer to that address.
        loopback = [
            nft.payload("ip saddr"),
            nft.bitwise(_mask(_LOOPBACK)),
            nft.cmp(_LOOPBACK.ip),
            nft.ct("status"),
            nft.any_of(nft.DNATTED),
            nft.masquerade(),
        ]
        requests.append(nft.add_rule(family, TABLE, "postrouting", loopback))
    by_network = [nft.payload(f"{family} saddr"), nft.lookup("networks", into=nft.VERDICT)]
    return [*requests, nft.add_rule(family, TABLE, "postrouting", by_network)]


def _forward(family: str) -> list[Request]:
    """What is routed to and from bridges: answers and published ports, then each by its chain."""
    return [
        nft.add_base_chain(
            family,
            TABLE,
            "forward",
            kind="filter",
            hook="forward",
            priority=nft.FILTER,
            policy="accept",
        ),
        nft.add_rule(
            family,
            TABLE,
            "forward",
            [
                nft.ct("state"),
                nft.any_of(nft.ESTABLISHED | nft.RELATED),
                nft.verdict("accept"),
            ],
        ),
        nft.add_rule(
            family,
            TABLE,
            "forward",
            [nft.meta("iifname"), nft.lookup("forward_from", into=nft.VERDICT)],
        ),
        nft.add_rule(
            family,
            TABLE,
            "forward",
            [nft.ct("status"), nft.any_of(nft.DNATTED), nft.verdict("accept")],
        ),
        nft.add_rule(
            family,
            TABLE,
            "forward",
            [nft.meta("oifname"), nft.lookup("forward_to", into=nft.VERDICT)],
        ),
    ]


def _guard(family: str) -> list[Request]:
    """Keep containers from the host's own 127.0.0.0/8, which route_localnet would let in."""
    if family != "ip":
        return []
    return [
        nft.add_base_chain(
            family,
            TABLE,
            "raw",
            kind="filter",
            hook="prerouting",
            priority=nft.RAW,
            policy="accept",
        ),
        nft.add_rule(
            family,
            TABLE,
            "raw",
            [
                nft.meta("iifname"),
                nft.cmp(nft.ifname("lo"), equal=False),
                nft.payload("ip daddr"),
                nft.bitwise(_mask(_LOOPBACK)),
                nft.cmp(_LOOPBACK.ip),
                nft.verdict("drop"),
            ],
        ),
    ]


def _network(family: str, policy: Policy, subnet: Address, *, known: bool) -> list[Request]:
    """The chains of a network and the elements that lead to them, made anew."""
    nat, to, from_ = _chains(policy)
    requests = []
    element = Element(subnet.ip, _goto(policy), policy.words, last=subnet.last)
    if known:
        requests.append(nft.delete_elements(family, TABLE, "networks", [element]))
    for chain, rules in (
        (nat, _nat_rules(family, policy)),
        (to, _forward_rules(policy, "iifname", closed=policy.isolated or policy.internal)),
        (from_, _forward_rules(policy, "oifname", closed=policy.internal)),
    ):
        requests += [nft.add_chain(family, TABLE, chain), nft.flush_chain(family, TABLE, chain)]
        requests += [nft.add_rule(family, TABLE, chain, rule) for rule in rules]
    for name, chain in (("forward_to", to), ("forward_from", from_)):
        jump = Element(nft.ifname(policy.bridge), f"jump {chain}", policy.network)
        requests.append(nft.add_elements(family, TABLE, name, [jump]))
    return [*requests, nft.add_elements(family, TABLE, "networks", [element])]


def _turning_back(family: str, network: str, subnet: Address) -> list[Request]:
    """A chain that masquerades what a subnet sends to its own published ports."""
    chain = f"nat-{network}-{subnet.ip.hex()}"
    inside = [
        nft.payload(f"{family} daddr"),
        nft.bitwise(_mask(subnet)),
        nft.cmp(subnet.ip),
        nft.ct("status"),
        nft.any_of(nft.DNATTED),
        nft.masquerade(),
    ]
    element = Element(subnet.ip, f"goto {chain}", f"{network}: ports", last=subnet.last)
    return [
        nft.add_chain(family, TABLE, chain),
        nft.flush_chain(family, TABLE, chain),
        nft.add_rule(family, TABLE, chain, inside),
        nft.add_elements(family, TABLE, "networks", [element]),
    ]


def _forward_rules(policy: Policy, other_side: str, *, closed: bool) -> "list[list[bytes]]":
    """Nothing but what stays on the bridge, where that direction is closed."""
    if not closed:
        return []
    inside = [nft.meta(other_side), nft.cmp(nft.ifname(policy.bridge)), nft.verdict("return")]
    return [inside, [nft.verdict("drop")]]


def _nat_rules(family: str, policy: Policy) -> "list[list[bytes]]":
    """Source NAT for packets of one bridge's networks."""
    inside = [nft.meta("oifname"), nft.cmp(nft.ifname(policy.bridge))]
    published = [nft.ct("status"), nft.any_of(nft.DNATTED)]
    multicast = _MULTICAST[family]
    rules = [
        # To a published port of the same network: the answer must come back through us.
        [*inside, *published, nft.masquerade()],
        [*inside, nft.verdict("return")],
    ]
    if policy.masquerade:
        to_multicast = [
            nft.payload(f"{family} daddr"),
            nft.bitwise(_mask(multicast)),
            nft.cmp(multicast.ip),
        ]
        rules.append([*to_multicast, nft.verdict("return")])
        sources = [each for each in policy.sources if _family(each) == family]
        to_source = [nft.immediate(sources[0]), nft.snat(family)] if sources else [nft.masquerade()]
        rules.append(to_source)
    return rules


def _mask(of: Address) -> bytes:
    bits = len(of.ip) * 8
    return ((1 << bits) - (1 << bits - of.prefix)).to_bytes(len(of.ip), "big")
