"""The Container Network Model: what networks, endpoints and sandboxes are. No I/O."""

from cnm_core.inet import Address
from cnm_core.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class Route(Record):
    """A route of a sandbox, as in the CNI result's `routes` (spec 1.1.0).

    `gateway` None means the endpoint's gateway of the same family, or the link itself.
    `advmss` is in bytes; `table`, `scope` and `priority` (the metric) are the
    kernel's rtm_table, rtm_scope and RTA_PRIORITY.
    """

    destination: Address
    gateway: bytes | None = None
    mtu: int | None = None
    advmss: int | None = None
    priority: int | None = None
    table: int | None = None
    scope: int | None = None


class Dns(Record):
    """Resolver settings that a runtime hands to the container."""

    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class Lease(Record):
    """An address that an IPAM driver gave to an endpoint, with the gateway of its pool."""

    address: Address
    gateway: bytes | None = None


class Addressing(Record):
    """All that an IPAM driver gave for an endpoint.

    `mac` is the MAC address that the driver was told, which the endpoint then must have.
    """

    leases: tuple[Lease, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: Dns = Dns()
    mac: bytes | None = None


class Interface(Record):
    """A link of an endpoint. `sandbox` is a netns path, or "" for a link of the host."""

    name: str
    mac: str = ""
    mtu: int | None = None
    sandbox: str = ""


class Attachment(Record):
    """What an endpoint looks like once joined: the content of a CNI result.

    `lease_interfaces` has, for each lease, the index into `interfaces` of the link
    that carries it, or None.
    """

    interfaces: tuple[Interface, ...] = ()
    leases: tuple[Lease, ...] = ()
    lease_interfaces: tuple[int | None, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: Dns = Dns()


class Pool(Record):
    """Where a network's addresses come from, as much as giving them back needs to know.

    `driver` is the configuration's `ipam.type`, "" for none; `data_dir` host-local's.
    """

    driver: str = ""
    data_dir: str = ""


class Network(Record):
    """A network: its name, where its addresses come from, and its driver's options.

    `options` is the driver's own record type from cnm_core.config, `state_dir` where the
    records of its endpoints are.
    """

    name: str
    pool: Pool = Pool()
    options: object = None
    state_dir: str = ""


class EndpointKey(Record):
    """What tells the endpoints of one network apart: CNI's (container ID, interface name)."""

    container_id: str
    ifname: str

    def __str__(self) -> str:
        return f"{self.container_id}:{self.ifname}"


class Sandbox(Record):
    """A container's network namespace.

    `netns` is its path as the runtime gave it; `identity` tells whether that path still
    means the same namespace, "" where that is not known.
    """

    netns: str
    identity: str = ""


class PublishedPort(Record):
    """A port of the host that leads to a port of an endpoint.

    `protocol` is the number that IP has for it: 6 TCP, 17 UDP, 132 SCTP. `host_ip` None, and
    an address of zeros, mean every address of the host (of both versions; of that one).
    """

    protocol: int
    host_port: int
    container_port: int
    host_ip: bytes | None = None


class EndpointOptions(Record):
    """What a caller asks of an endpoint. `mac` None leaves the choice to the driver."""

    mac: bytes | None = None
    ports: tuple[PublishedPort, ...] = ()


class Policy(Record):
    """What a network of a bridge wants of the firewall.

    `bridge` is the link by which the network is routed. Where that is a VLAN's, on top of the
    bridge `below`, br_netfilter names the latter for what stays on it. `sources` are the
    addresses, one of a version at most, that masqueraded traffic gets; of the other version it
    gets that of the link it leaves by. `inner` is another link of the network, by which it is
    routed on to other hosts; `subnets` are then what the hosts share.
    """

    network: str
    bridge: str
    masquerade: bool = False
    sources: tuple[bytes, ...] = ()
    isolated: bool = False
    internal: bool = False
    below: str = ""
    inner: str = ""
    subnets: tuple[Address, ...] = ()

    def subnet_of(self, address: Address) -> Address:
        """What the policy holds for because of an address: all hosts' where they share it."""
        return next((each for each in self.subnets if address.ip in each), address.network)


class Endpoint(Record):
    """One sandbox's place on one network, and what was made for it.

    `driver` names the network's driver, where that matters to other networks.
    `host_link` is the name of the link in the host's namespace, "" where a driver makes none;
    with `source_checked` it may send from `mac` only. `policy` is its network's, where that
    concerns the firewall: by it, rules that somebody flushed are made again. `parents` are
    links of the host that we made for it to stand on, and that go with the last endpoint that
    names them.
    """

    network: str
    key: EndpointKey
    sandbox: Sandbox
    host_link: str = ""
    mac: bytes | None = None
    source_checked: bool = False
    parents: tuple[str, ...] = ()
    policy: Policy | None = None
    driver: str = ""
    pool: Pool = Pool()
    addressing: Addressing = Addressing()
    ports: tuple[PublishedPort, ...] = ()


class Drift(Record):
    """A difference between what was made and what is there."""

    what: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.what}: expected {self.expected}, found {self.found}"


def gateways(leases: "Iterable[Lease]") -> dict[int, bytes]:
    """The first gateway of each IP version (4, 6) among the leases."""
    first: dict[int, bytes] = {}
    for lease in leases:
        if lease.gateway is not None:
            first.setdefault(lease.address.version, lease.gateway)
    return first
