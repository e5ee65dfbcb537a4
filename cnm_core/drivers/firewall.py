"""What bridge networks have in nftables: masquerading, published ports, isolation.

Two tables of ours, ``ip cnm`` and ``ip6 cnm``; rules of others are neither read nor
changed. A packet meets the same few rules whatever the number of networks, containers
and ports: what differs between these is in maps. `nft list ruleset` shows

- ``networks``: subnet → the chain of its network, for what leaves containers
- ``ports``, ``address_ports``: protocol and port, with or without the host's address →
  address and port of the container
- ``forward_to``: subnet → the chain of its network, for what is routed to containers
- ``forward_from``: bridge → its chain, for what is routed from containers

and each element says in its comment whose it is. NAT is in tables of one family, since
kernels before 5.2 have none in ``inet``.
"""

from _socket import AF_INET, AF_INET6
from errno import EBUSY, EEXIST, ENOENT

from cnm_core.drivers import firewall_rules as rules
from cnm_core.drivers.firewall_rules import ADDRESS, TABLE, family_of
from cnm_core.errors import AddressInUse, InvalidNetworkConfig, KernelRefused
from cnm_core.inet import Address, format_ip
from cnm_core.kernel import conntrack, route
from cnm_core.kernel import expressions as ex
from cnm_core.kernel import nftables as nft
from cnm_core.kernel.netlink import Request, Socket
from cnm_core.kernel.nftables import Element
from cnm_core.model import Drift, Endpoint, EndpointKey, Policy, PublishedPort
from cnm_core.record import Record

UDP = 17
_LINK_LOCAL = Address(b"\xfe\x80" + bytes(14), 10)
_PROTOCOLS = {6: "tcp", UDP: "udp", 132: "sctp"}
FAMILY_VERSIONS = {"ip": 4, "ip6": 6}
# The maps of published ports.
_PORTS = ("ports", "address_ports")

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    # An element with the family of its table and the name of its map.
    Placed = tuple[str, str, Element]


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
        return ex.comment(f"{self.network} {self.key}")


class Firewall:
    """The two tables, over one socket."""

    def __init__(self) -> None:
        self._socket = nft.open_socket()

    def check_status(self) -> None:
        """Raise KernelRefused where the kernel has no nftables, or not for us."""
        nft.probe(self._socket)

    def apply(self, policy: Policy, subnet: Address) -> None:
        """Have the policy hold for a subnet of its network; a look or two where it does already.

        The tables are there (`prepare`).
        """
        family = family_of(subnet.ip)
        element = self._network(family, subnet)
        if element is not None and not rules.may_replace(element, policy):
            words = element.comment
            raise _overlap(subnet, f"network {words.rpartition(': ')[2]}")
        same = element is not None and element.comment == rules.words(policy)
        if same and self._has(family, rules.network_uses(policy)):
            return
        present = {name: self._present(family, name, policy, subnet) for name in rules.BY_SUBNET}
        self._commit_subnet(rules.network(family, policy, subnet, present), subnet)

    def prepare(self, versions: "Collection[int]" = (4, 6)) -> bool:
        """Have the tables of some IP versions; True where there were none, or broken ones.

        Then what they had of endpoints and networks has to be restored
        (cnm_core/drivers/restore.py).
        """
        made = False
        for family in ADDRESS:
            wanted = FAMILY_VERSIONS[family] in versions
            if wanted and not self._has(family, rules.BASE_USES[family]):
                nft.commit(self._socket, rules.base(family))
                made = True
        return made

    def turn_back(self, network: str, subnet: Address) -> None:
        """Let a subnet reach its own published ports; a policy of ours does so already."""
        family = family_of(subnet.ip)
        if self._network(family, subnet) is None:
            self._commit_subnet(rules.turning_back(family, network, subnet), subnet)

    def turn_back_drift(self, subnet: Address) -> list[Drift]:
        """Whether a subnet reaches its own published ports, by `turn_back` or a policy."""
        if self._network(family_of(subnet.ip), subnet) is not None:
            return []
        return [Drift(f"nftables map networks, {subnet}", "an element", "no such element")]

    def withdraw(self, policy: Policy) -> None:
        """Remove what the policy's network and bridge have in the tables."""
        for family in ADDRESS:
            if not nft.chain_uses(self._socket, family, TABLE, [rules.nat_chain(policy)]):
                continue
            found = {
                name: nft.elements(self._socket, family, TABLE, name, interval=interval)
                for name, interval in rules.JUMPS.items()
            }
            nft.commit(self._socket, rules.without_network(family, policy, found))

    def publish(self, ports: tuple[PublishedPort, ...], target: Target) -> None:
        """Lead the ports to the target.

        Raises AddressInUse with the holder of a taken one, InvalidNetworkConfig for one of a
        host's address whose IP version the target does not have.
        """
        _refuse_other_version(ports, target)
        wanted = _elements(ports, target)
        additions = [
            nft.add_elements(family, TABLE, name, [element], exclusive=True)
            for family, name, element in wanted
        ]
        try:
            nft.commit(self._socket, additions)
        except KernelRefused as error:
            if error.errno not in (EEXIST, EBUSY):
                raise
            self._refuse_taken(wanted)
            self._lead(wanted)  # the target's own, restored
        self._forget_earlier(wanted)

    def restore(self, ports: tuple[PublishedPort, ...], target: Target) -> None:
        """Lead ports to the target again, but those that somebody else has by now."""
        for each in _elements(ports, target):
            try:
                self._lead([each])
            except KernelRefused as error:
                if error.errno not in (EEXIST, EBUSY):
                    raise

    def unpublish(self, ports: tuple[PublishedPort, ...], target: Target) -> None:
        """Take the target's ports back; those that somebody else has by now stay."""
        self._remove(_elements(ports, target))

    def collect(self, network: str, known: "Callable[[], Collection[EndpointKey]]") -> None:
        """Take back the ports of the network whose owner is not known any more."""
        found = self._ports_of(network)
        owners = {ex.comment(f"{network} {key}") for key in known()}
        self._remove([each for each in found if each[2].comment not in owners])

    def disown(self, network: str, key: EndpointKey) -> None:
        """Take back the ports of an endpoint of which the record says nothing."""
        owner = f"{network} {key}"  # a comment that was cut off may be another's, too
        self._remove([each for each in self._ports_of(network) if each[2].comment == owner])

    def drift(self, policy: Policy, subnets: list[Address]) -> list[Drift]:
        """Subnets for which another policy holds, or none, and rules that are not as made."""
        found = []
        for subnet in subnets:
            family = family_of(subnet.ip)
            for name in rules.BY_SUBNET:
                element = nft.find_element(self._socket, family, TABLE, name, subnet.ip)
                has = element.comment if element else "no such element"
                if has != rules.words(policy):
                    what = f"nftables map {name}, {subnet}"
                    found.append(Drift(what, rules.words(policy), has))
            found += self._source_drift(family, policy)
            chains = {**rules.base_rules(family), **rules.network_rules(family, policy)}
            found += self._rule_drift(family, chains)
        return found

    def base_drift(self) -> list[Drift]:
        """Rules that no policy is about, and that are not as made."""
        found = []
        for family in ADDRESS:
            found += self._rule_drift(family, rules.base_rules(family))
        return found

    def port_drift(self, ports: tuple[PublishedPort, ...], target: Target) -> list[Drift]:
        """Ports that do not lead to the target."""
        found = []
        for family, name, element in _elements(ports, target):
            present = self._find(family, name, element)
            if present != element:
                has = _holder(present) if present else "no such element"
                found.append(Drift(_port_in(name, element), _holder(element), has))
        return found

    def _has(self, family: str, uses: dict[str, int]) -> bool:
        """Whether chains have as many rules and jumps to them as they should, or more."""
        found = nft.chain_uses(self._socket, family, TABLE, uses)
        return all(found.get(chain, 0) >= least for chain, least in uses.items())

    def _lead(self, elements: "list[Placed]") -> None:
        """Add elements that may be there already."""
        additions = [
            nft.add_elements(family, TABLE, name, [element]) for family, name, element in elements
        ]
        nft.commit(self._socket, additions)

    def _source_drift(self, family: str, policy: Policy) -> list[Drift]:
        """Whether what comes from the bridge meets its chain."""
        wanted = rules.from_element(policy)
        found = nft.find_element(self._socket, family, TABLE, "forward_from", wanted.key)
        if found == wanted:
            return []
        what = f"nftables map forward_from of table {family} {TABLE}, {policy.bridge}"
        return [Drift(what, str(wanted.data), str(found.data) if found else "no such element")]

    def _commit_subnet(self, requests: list[Request], subnet: Address) -> None:
        try:
            nft.commit(self._socket, requests)
        except KernelRefused as error:
            if error.errno == EEXIST:
                raise _overlap(subnet, "another network") from None
            raise

    def _rule_drift(self, family: str, chains: "dict[str, list[list[bytes]]]") -> list[Drift]:
        """Chains with more or fewer rules than we make; nft writes the same rules otherwise."""
        found = []
        for chain, wanted in chains.items():
            present = len(nft.rules(self._socket, family, TABLE, chain))
            if present != len(wanted):
                what = f"nftables chain {chain} of table {family} {TABLE}"
                found.append(Drift(what, f"{len(wanted)} rules", f"{present} rules"))
        return found

    def _ports_of(self, network: str) -> "list[Placed]":
        """The published ports of all endpoints of a network."""
        return [
            (family, name, element)
            for family in ADDRESS
            for name in _PORTS
            for element in nft.elements(self._socket, family, TABLE, name)
            if element.comment.startswith(f"{network} ")
        ]

    def _remove(self, elements: "list[Placed]") -> None:
        """Remove those of the elements that are there as they are."""
        while ours := [each for each in elements if self._find(*each) == each[2]]:
            deletions = [
                nft.delete_elements(family, TABLE, name, [element])
                for family, name, element in ours
            ]
            try:
                nft.commit(self._socket, deletions)
            except KernelRefused as error:
                if error.errno != ENOENT:
                    raise
                continue  # somebody else removed one of them meanwhile
            self._forget_later(ours)
            return

    def _forget_earlier(self, elements: "list[Placed]") -> None:
        """Have UDP flows to the host that go on follow new ports; TCP ones begin anew."""
        to = set()
        for family, name, element in elements:
            host_ip, protocol, port = _host_port(name, element)
            if protocol == UDP:
                to |= {(ip, port) for ip in ([host_ip] if host_ip else _own(family))}
        conntrack.forget(self._socket, UDP, conntrack.DESTINATION, to)

    def _forget_later(self, elements: "list[Placed]") -> None:
        """Have UDP flows to containers follow the removal of their ports."""
        udp = {_leads_to(each) for _, name, each in elements if _host_port(name, each)[1] == UDP}
        conntrack.forget(self._socket, UDP, conntrack.RESPONDER, udp)

    def _present(self, family: str, name: str, policy: Policy, subnet: Address) -> list[Element]:
        """What a map has for a subnet; earlier versions have it for some blocks of a shared one."""
        if policy.subnets:
            found = nft.elements(self._socket, family, TABLE, name, interval=True)
            return [each for each in found if each.key in subnet and rules.is_of(each, policy)]
        element = nft.find_element(self._socket, family, TABLE, name, subnet.ip)
        return [element.replace(last=subnet.last)] if element else []

    def _network(self, family: str, subnet: Address) -> Element | None:
        return nft.find_element(self._socket, family, TABLE, "networks", subnet.ip)

    def _find(self, family: str, name: str, element: Element) -> Element | None:
        return nft.find_element(self._socket, family, TABLE, name, element.key)

    def _refuse_taken(self, wanted: "list[Placed]") -> None:
        for family, name, element in wanted:
            present = self._find(family, name, element)
            if present is not None and present != element:
                raise AddressInUse(
                    f"{_port_in(name, element)} is already published by {_holder(present)}",
                    details="publish another port of the host, or remove that container first",
                )


def _refuse_other_version(ports: tuple[PublishedPort, ...], target: Target) -> None:
    lengths = {len(ip) for ip in target.ips}
    for port in ports:
        if port.host_ip and any(port.host_ip) and len(port.host_ip) not in lengths:
            version = 4 if len(port.host_ip) == 4 else 6
            raise InvalidNetworkConfig(
                f"runtimeConfig.portMappings: port {port.host_port} of {format_ip(port.host_ip)} "
                f"leads nowhere: {target.key} has no IPv{version} address",
                details="publish it on another address of the host, or give the network a subnet "
                "of that version",
            )


def _overlap(subnet: Address, holder: str) -> InvalidNetworkConfig:
    return InvalidNetworkConfig(
        f"subnet {subnet} overlaps with that of {holder}",
        details="networks of one host need subnets of their own",
    )


def _elements(ports: tuple[PublishedPort, ...], target: Target) -> "list[Placed]":
    """(family, map, element) for each port and each address that it leads to."""
    found = []
    for port in ports:
        for ip in target.ips:
            host_ip = port.host_ip
            if host_ip is not None and len(host_ip) != len(ip):
                continue
            data = ex.concatenate(ip, ex.service(port.container_port))
            fields = [bytes([port.protocol]), ex.service(port.host_port)]
            name = "ports"
            if host_ip is not None and any(host_ip):
                name, fields = "address_ports", [host_ip, *fields]
            element = Element(ex.concatenate(*fields), data, target.owner)
            found.append((family_of(ip), name, element))
    return found


def _holder(element: Element) -> str:
    """Whose an element is and where it leads, in words."""
    ip, port = _leads_to(element)
    return f'"{element.comment}" for {format_ip(ip)} port {port}'


def _leads_to(element: Element) -> tuple[bytes, int]:
    """Address and port of the container."""
    ip, port = element.data[:-4], element.data[-4:-2]
    assert isinstance(ip, bytes) and isinstance(port, bytes)
    return ip, int.from_bytes(port, "big")


def _own(family: str) -> list[bytes]:
    """The host's addresses to which flows to containers may be sent.

    Not IPv6's of link scope, which no router passes on (RFC 4291, section 2.5.6).
    """
    present = route.local_addresses(Socket(), AF_INET if family == "ip" else AF_INET6)
    return [ip for ip in present if ip not in _LINK_LOCAL]


def _port_in(name: str, element: Element) -> str:
    """The port of an element's key in words, as in port 8080/tcp of the host."""
    host_ip, protocol, port = _host_port(name, element)
    of = f" on {format_ip(host_ip)}" if host_ip else ""
    return f"port {port}/{_PROTOCOLS.get(protocol, protocol)} of the host{of}"


def _host_port(name: str, element: Element) -> tuple[bytes, int, int]:
    """Address (b"" for all), protocol and port of the host in an element's key."""
    key = element.key
    host_ip = key[:-8] if name == "address_ports" else b""
    return host_ip, key[-8], int.from_bytes(key[-4:-2], "big")
