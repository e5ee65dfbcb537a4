"""Endpoints are veth pairs whose host end is a port of one Linux bridge."""

from errno import EEXIST
from posix import urandom
from time import sleep

from cnm_core.config.bridge import BridgeConfig, bridge_config
from cnm_core.drivers import gateway
from cnm_core.drivers.container_end import (
    announce,
    attached,
    configure,
    interface,
    refuse_small_mtu,
    remove,
)
from cnm_core.errors import (
    InterfaceExists,
    InvalidNetworkConfig,
    KernelRefused,
    NotAvailable,
    UnsupportedField,
)
from cnm_core.inet import Address, format_ip, to_int, to_ip
from cnm_core.kernel import link, route, sysctl
from cnm_core.kernel.link import Link
from cnm_core.kernel.netlink import Request, Socket
from cnm_core.kernel.netns import Netns
from cnm_core.model import (
    Addressing,
    Attachment,
    Drift,
    Endpoint,
    EndpointKey,
    EndpointOptions,
    Lease,
    Network,
    Policy,
    Route,
    gateways,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from cnm_core.drivers.bridge_vlans import PortVlans
    from cnm_core.drivers.firewall import Firewall
    from cnm_core.drivers.spoofcheck import SpoofCheck

_PORT_ATTEMPTS = 100
# From so many ports on, handing something to all of them takes longer than a fork.
_CROWD = 250
_MTU = 1500  # what the kernel gives to a bridge (ether_setup)
_DEFAULTS = (Address(bytes(4), 0), Address(bytes(16), 0))


class Bridge:
    """The driver for one call: it keeps a socket, and the links once they have been seen.

    `inner` is a link by which the network is routed on to hosts that share `subnets`: its bridge
    then has several gateways. `host_end` is the port that `join` made.
    """

    def __init__(self) -> None:
        self.inner = ""
        self.subnets: tuple[Address, ...] = ()
        self.host_end: Link | None = None
        self._host = Socket()
        self._bridge: Link | None = None
        self._gateway: Link | None = None  # where it is not the bridge
        self._port_vlans: PortVlans | None = None
        self._rules: Firewall | None = None
        self._check: SpoofCheck | None = None

    @staticmethod
    def options(document: object) -> BridgeConfig:
        """The bridge plugin's own keys. Raises InvalidNetworkConfig."""
        return bridge_config(document)

    def validate(self, network: Network, wanted: EndpointOptions) -> None:
        """Refuse options that cannot go together, and a name that is not a bridge's."""
        options = _options(network)
        refuse_contradictions(options, network.pool.driver)
        if wanted.ports:
            _refuse_missing_way("runtimeConfig.portMappings", options, network.pool.driver)
        self._bridge = link.find(self._host, options.bridge)
        if self._bridge is not None and self._bridge.kind != "bridge":
            raise InvalidNetworkConfig(
                f'bridge: link "{options.bridge}" exists and is {_kind(self._bridge)}',
                details="choose another name, or remove that link",
            )
        if vlans := self._vlans(options):
            ours = self._bridge is not None and self._bridge.alias.startswith(_alias(""))
            vlans.validate(self._bridge, ours=ours)

    def complete(self, network: Network, addressing: Addressing) -> Addressing:
        """Gateways that the pool left out, and the default routes of isDefaultGateway.

        Raises InvalidNetworkConfig for an address beside which the bridge can have none, and
        for one of IPv6 that is too much for the MTU.
        """
        options = _options(network)
        has_ipv6 = any(lease.address.version == 6 for lease in addressing.leases)
        if has_ipv6 and type(options.mtu) is int and options.mtu:
            refuse_small_mtu(options.mtu)
        if not is_gateway(options):
            return addressing
        leases = tuple(map(with_gateway, addressing.leases))
        routes = addressing.routes
        if options.is_default_gateway:
            present = {each.destination for each in routes}
            routes += tuple(
                Route(default, gateways(leases)[default.version])
                for default in _DEFAULTS
                if default.version in gateways(leases) and default not in present
            )
        return addressing.replace(leases=leases, routes=routes)

    def create_network(self, network: Network, leases: tuple[Lease, ...]) -> bool:
        """The bridge, up, with its gateway addresses. Adopts a bridge that is there.

        Where this fails, a bridge that it has made is gone again.
        """
        if self._bridge is not None:
            self._prepare(network, self._bridge, leases)
            return False
        mac = link.random_mac()
        try:
            self._prepare(network, self._create_bridge(network, mac), leases)
        except BaseException:
            self._take_back(network, mac)
            raise
        return True

    def _take_back(self, network: Network, mac: bytes) -> None:
        """Delete the bridge with the MAC address that this call has drawn for it, if any.

        One that was there, or that another call was faster to make, has another.
        """
        options = _options(network)
        bridge = link.find(self._host, options.bridge)
        if bridge is not None and bridge.mac == mac:
            if needs_policy(options):
                self._firewall().withdraw(self._policy(network))
            link.delete_if_present(self._host, bridge.name)

    def _prepare(self, network: Network, bridge: Link, leases: tuple[Lease, ...]) -> None:
        """Have a bridge serve the network."""
        options = _options(network)
        if vlans := self._vlans(options):
            vlans.begin(bridge)
        if not bridge.up:
            self._host.request(link.set_up(bridge.index, bridge.name))
        if options.promisc_mode and not bridge.flags & link.IFF_PROMISC:
            self._host.request(link.set_promiscuous(bridge.index, bridge.name))
        if is_gateway(options):
            carrier = self._carrier(network, bridge)
            gateway.ensure(
                self._host,
                carrier,
                leases,
                force=options.force_address,
                several=bool(self.inner),
            )
        if needs_policy(options):
            self._apply_policy(network, leases)
        self._bridge = bridge

    def create_endpoint(self, network: Network, endpoint: Endpoint) -> Endpoint:
        """A random host end name, and a MAC address unless one was asked for."""
        options = _options(network)
        return endpoint.replace(
            host_link=_random_name(),
            mac=endpoint.mac or link.random_mac(),
            source_checked=options.macspoofchk,
            ports=tuple(
                port.replace(host_ip=options.host_binding_ipv4) if port.host_ip is None else port
                for port in endpoint.ports
            ),
            policy=self._policy(network) if needs_policy(options, endpoint) else None,
        )

    def join(self, network: Network, endpoint: Endpoint, netns: Netns) -> None:
        """The veth pair, with nothing on it yet. Raises KernelRefused, InterfaceExists."""
        self._admit(network, endpoint)
        try:
            self._connect(network, endpoint, netns)
        except InterfaceExists:
            self._expel(endpoint)
            raise

    def _connect(self, network: Network, endpoint: Endpoint, netns: Netns) -> None:
        options = _options(network)
        assert self._bridge is not None and endpoint.mac is not None
        mtu = self._mtu(options) or self._bridge.mtu
        try:
            answers = self._host.request(
                link.create_veth(
                    endpoint.host_link,
                    mac=link.random_mac(),
                    mtu=mtu,
                    master=self._bridge.index,
                    peer_name=endpoint.key.ifname,
                    peer_mac=endpoint.mac,
                    peer_netns=netns.fd,
                ),
                # In the same send, so that no kill leaves a link that does not say whose it is.
                link.set_alias(endpoint.host_link, port_alias(network.name, endpoint.key)),
                link.get(endpoint.host_link),  # and has the kernel note that it has no carrier
                link.set_up(0, endpoint.host_link),
                link.get(self._bridge.name),  # its MTU may have followed the new port's
            )
            self.host_end, self._bridge = link.parse(answers[2]), link.parse(answers[4])
            self._configure_port(endpoint, self.host_end, options)
        except KernelRefused as error:
            if error.errno == EEXIST:
                raise InterfaceExists(
                    error.msg, details="ADD again, if the sandbox has no such interface"
                ) from None
            raise

    def configure(self, network: Network, endpoint: Endpoint, netns: Netns) -> Attachment:
        """Published ports, addresses and routes. Raises KernelRefused, AddressInUse."""
        options = _options(network)
        assert self._bridge is not None and self.host_end is not None
        if endpoint.ports:
            self._publish(network, endpoint)
        container_end = configure(
            endpoint.key.ifname,
            endpoint.addressing,
            netns,
            up=not options.disable_container_interface,
            dad=options.enabledad,
        )
        if not options.disable_container_interface:
            self._await_port(self.host_end)
            crowd = link.port_number(self.host_end) > _CROWD  # it has as many ports at least
            announce(container_end, netns, apart=crowd)
        shared = () if self._gateway is None else (interface(self._gateway),)
        return attached(
            endpoint.addressing,
            interface(self._bridge),
            interface(self.host_end),
            interface(container_end, netns.path),
            *shared,
        )

    def leave(self, key: EndpointKey, endpoint: Endpoint | None, netns: Netns | None) -> None:
        """Delete the pair by its host end; by its container end where that is unknown or gone.

        Ports and source checks go meanwhile. Their sockets are open before: the kernel makes
        whoever closes one last wait for RCU, and that is the child process that deletes the link.
        """
        if endpoint is not None:
            if endpoint.ports:
                self._firewall()
            if endpoint.source_checked:
                self._source_check()
            if link.delete_if_present(
                self._host, endpoint.host_link, lambda: self._expel(endpoint)
            ):
                return
            self._expel(endpoint)
        remove("veth", key, endpoint, netns)

    def joined(self, key: EndpointKey, netns: Netns) -> bool:
        """Whether the sandbox has an interface of that name."""
        return link.find(netns.socket(), key.ifname) is not None

    def drift(
        self,
        network: Network,
        key: EndpointKey,
        endpoint: Endpoint | None,
        attachment: Attachment,
        netns: Netns,
    ) -> list[Drift]:
        """Bridge, port, container end, addresses and routes, as the previous result has them."""
        from cnm_core.drivers.bridge_drift import BridgeDrift
        from cnm_core.drivers.container_drift import container_drift

        options = _options(network)
        drift = BridgeDrift(self._host, options, self._policy(network), self._vlans(options))
        found = drift.of(endpoint, attachment)
        return found + container_drift(key, "veth", attachment, netns)

    def check_status(self, network: Network) -> None:
        """Whether the bridge's name is free, or a bridge's, and nftables there if needed."""
        try:
            self.validate(network, EndpointOptions())
            if needs_policy(_options(network)):
                self._firewall().check_status()
        except (InvalidNetworkConfig, KernelRefused) as error:
            raise NotAvailable(error.msg, details=error.details) from None

    def collect(self, network: str, known: "Callable[[], Collection[EndpointKey]]") -> None:
        """Host ends, published ports and source checks of endpoints that nobody knows."""
        from cnm_core.drivers import leftovers

        leftovers.collect(self._host, network, known)

    def disown(self, network: str, key: EndpointKey) -> None:
        """Host end, published ports and source checks of one endpoint."""
        from cnm_core.drivers import leftovers

        leftovers.disown(self._host, network, key)

    def delete_network(self, network: Network) -> None:
        """Delete the bridge if this network made it."""
        options = _options(network)
        if needs_policy(options):
            self._firewall().withdraw(self._policy(network))
        bridge = link.find(self._host, options.bridge)
        if bridge is not None and bridge.alias == _alias(network.name):
            link.delete_if_present(self._host, bridge.name)  # and what is on top of it
        elif bridge is not None and (vlans := self._vlans(options)):
            vlans.delete_gateway(bridge, _alias(network.name))

    def _vlans(self, options: BridgeConfig) -> "PortVlans | None":
        """The VLANs of the network's ports; one without any neither loads nor asks for them."""
        if self._port_vlans is None and (options.vlan or options.vlan_trunk):
            from cnm_core.drivers.bridge_vlans import PortVlans

            self._port_vlans = PortVlans(self._host, options, _carrier_name(options))
        return self._port_vlans

    def _firewall(self) -> "Firewall":
        """The firewall, which plain networks neither load nor open."""
        if self._rules is None:
            from cnm_core.drivers.firewall import Firewall

            self._rules = Firewall()
        return self._rules

    def _source_check(self) -> "SpoofCheck":
        """The source checks, likewise."""
        if self._check is None:
            from cnm_core.drivers.spoofcheck import SpoofCheck

            self._check = SpoofCheck()
        return self._check

    def _apply_policy(self, network: Network, leases: tuple[Lease, ...]) -> None:
        if self._firewall().prepare({lease.address.version for lease in leases}):
            self._restore(network)
        policy = self._policy(network)
        for lease in leases:
            self._firewall().apply(policy, policy.subnet_of(lease.address))

    def _policy(self, network: Network) -> Policy:
        options = _options(network)
        return Policy(
            network=network.name,
            bridge=_carrier_name(options),
            below=options.bridge if _carrier_name(options) != options.bridge else "",
            masquerade=options.ip_masq,
            sources=tuple(each for each in (options.host_ipv4, options.host_ipv6) if each),
            isolated=options.ip_masq if options.isolation is None else options.isolation,
            internal=options.internal,
            inner=self.inner,
            subnets=self.subnets,
        )

    def _restore(self, network: Network) -> None:
        from cnm_core.drivers.restore import restore

        restore(network.state_dir)

    def _admit(self, network: Network, endpoint: Endpoint) -> None:
        """Which MAC address the endpoint may send from, known before it can send."""
        if endpoint.source_checked:
            assert endpoint.mac is not None
            check = self._source_check()
            if check.prepare():
                self._restore(network)
            check.allow(endpoint.host_link, endpoint.mac, f"{network.name} {endpoint.key}")

    def _expel(self, endpoint: Endpoint) -> None:
        """Take back what the endpoint has in nftables."""
        if endpoint.ports:
            from cnm_core.drivers.firewall import Target

            self._firewall().unpublish(endpoint.ports, Target.of(endpoint))
        if endpoint.source_checked and endpoint.mac is not None:
            self._source_check().withdraw(endpoint.host_link, endpoint.mac)

    def _publish(self, network: Network, endpoint: Endpoint) -> None:
        from cnm_core.drivers.firewall import Target

        leases = endpoint.addressing.leases
        if not needs_policy(_options(network)):
            self._apply_policy(network, leases)
        carrier = _carrier_name(_options(network))
        if lacks_loopback(endpoint, carrier):
            sysctl.set_to("1", "net", "ipv4", "conf", carrier, "route_localnet")
        self._firewall().publish(endpoint.ports, Target.of(endpoint))

    def _create_bridge(self, network: Network, mac: bytes) -> Link:
        options = _options(network)
        vlans = self._vlans(options)
        data = vlans.of_bridge if vlans else b""
        request = link.create_bridge(options.bridge, mac, self._mtu(options), data)
        return self._create(request, options.bridge, network)

    def _create(self, request: Request, name: str, network: Network) -> Link:
        """Make a link that the network's endpoints share."""
        try:
            self._host.request(request)
            for setting in ("accept_ra", "accept_dad"):
                # DAD of its own link-local address would keep IPv6 waiting for a second.
                sysctl.set_if_present("0", "net", "ipv6", "conf", name, setting)
            self._host.request(link.set_alias(name, _alias(network.name)))
        except KernelRefused as error:
            if error.errno != EEXIST:  # another network of the same bridge was faster
                raise
        return link.parse(self._host.request(link.get(name))[0])

    def _carrier(self, network: Network, bridge: Link) -> Link:
        """The link for the gateway addresses: the bridge, or one of a VLAN on top of it."""
        options = _options(network)
        name = _carrier_name(options)
        vlans = self._vlans(options)
        if vlans is None or name == bridge.name:
            return bridge
        found = vlans.find_gateway(bridge)
        if found is None:
            found = self._create(vlans.create_gateway(bridge), name, network)
        self._host.request(vlans.join_gateway(bridge), link.set_up(found.index, name))
        self._gateway = found
        return found

    def _mtu(self, options: BridgeConfig) -> int:
        """The MTU that is asked for, 0 where none is."""
        if type(options.mtu) is int:
            return options.mtu
        indexes = route.default_links(self._host)
        answers = self._host.request(*map(link.get_by_index, indexes)) if indexes else ()
        return min((link.parse(each).mtu for each in answers), default=_MTU)

    def _configure_port(self, endpoint: Endpoint, host_end: Link, options: BridgeConfig) -> None:
        hairpin, isolated = turns_back(options, endpoint), keeps_apart(options)
        if hairpin or isolated:
            self._host.request(
                link.set_port(host_end.index, host_end.name, hairpin=hairpin, isolated=isolated)
            )
        if (vlans := self._vlans(options)) and self._bridge is not None:
            vlans.join(self._bridge, host_end)
        # A port needs no IPv6 of its own: its addresses and routes would be among those that
        # the kernel walks through whenever a link goes (fib6_ifdown, net/ipv6/route.c).
        sysctl.set_if_present("1", "net", "ipv6", "conf", host_end.name, "disable_ipv6")

    def _await_port(self, host_end: Link) -> None:
        """Wait until the port forwards, which it does a moment after both ends are up."""
        for _ in range(_PORT_ATTEMPTS):
            if link.parse(self._host.request(link.get(host_end.name))[0]).operational:
                return
            sleep(0.001)


def _options(network: Network) -> BridgeConfig:
    assert isinstance(network.options, BridgeConfig)
    return network.options


def refuse_contradictions(options: BridgeConfig, ipam: str) -> None:
    """Refuse options that cannot go together, or not with an IPAM driver, "" for none.

    Raises InvalidNetworkConfig, UnsupportedField.
    """
    if options.hairpin_mode and options.promisc_mode:
        raise InvalidNetworkConfig(
            "hairpinMode: cannot be true with promiscMode: true",
            details="a promiscuous bridge hands each frame back by itself",
        )
    if options.disable_container_interface and ipam:
        raise InvalidNetworkConfig(
            f'disableContainerInterface: cannot be true with ipam.type "{ipam}"',
            details="leave out one of the two: a link that is down has no addresses",
        )
    if options.ip_masq_backend != "nftables":
        raise UnsupportedField(
            f'ipMasqBackend: "{options.ip_masq_backend}" is not supported',
            details='leave it out, or say "nftables"; rules of iptables are left alone',
        )
    for key, ip, length in (
        ("hostIPv4", options.host_ipv4, 4),
        ("hostIPv6", options.host_ipv6, 16),
        ("hostBindingIPv4", options.host_binding_ipv4, 4),
    ):
        if ip is not None and len(ip) != length:
            raise InvalidNetworkConfig(f"{key}: must be of that version, got {format_ip(ip)}")
        if ip is not None and not any(ip) and key != "hostBindingIPv4":
            raise InvalidNetworkConfig(
                f"{key}: must be an address of the host, got {format_ip(ip)}",
                details=f"leave {key} out to take that of the link",
            )
    if type(options.mtu) is int and 0 < options.mtu < 68:
        raise InvalidNetworkConfig(
            f'mtu: must be "auto", 0, or from 68 to 65535, got {options.mtu}',
            details="leave mtu out to take the bridge's",
        )
    for key, asked in (
        ("ipMasq", options.ip_masq),
        ("isDefaultGateway", options.is_default_gateway),
    ):
        if asked:
            _refuse_missing_way(key, options, ipam)


def _refuse_missing_way(key: str, options: BridgeConfig, ipam: str) -> None:
    """Refuse what needs a way in or out where the network has none."""
    if options.internal:
        raise InvalidNetworkConfig(
            f"internal: cannot be true with {key}",
            details="an internal network has no way in or out; leave out one of the two",
        )
    if not ipam:
        raise InvalidNetworkConfig(
            f"{key}: needs addresses, and there is no ipam.type",
            details='give "ipam", such as {"type": "host-local", ...}',
        )


def needs_policy(options: BridgeConfig, endpoint: Endpoint | None = None) -> bool:
    """Whether the network's traffic, or the endpoint's, concerns the firewall."""
    ports = endpoint is not None and bool(endpoint.ports)
    return bool(options.ip_masq or options.isolation or options.internal or ports)


def _kind(of: Link) -> str:
    return f"of kind {of.kind}" if of.kind else "a device of its own"


def _carrier_name(options: BridgeConfig) -> str:
    """The link for gateway addresses: the bridge, which is in VLAN 1, or one on top of it."""
    if is_gateway(options) and options.vlan > 1:
        return f"{options.bridge}.{options.vlan}"
    return options.bridge


def is_gateway(options: BridgeConfig) -> bool:
    """Whether the host is the network's gateway."""
    return options.is_gateway or options.is_default_gateway


def lacks_loopback(endpoint: Endpoint, carrier: str) -> bool:
    """Whether connections from 127.0.0.1 to the endpoint's ports may not leave by the link yet."""
    leases = endpoint.addressing.leases
    if not endpoint.ports or all(lease.address.version == 6 for lease in leases):
        return False
    return sysctl.get("net", "ipv4", "conf", carrier, "route_localnet") != "1"


def turns_back(options: BridgeConfig, endpoint: Endpoint | None) -> bool:
    """Whether frames may go back out of the port that they came in by.

    With br_netfilter, a container's packet to its own published port is turned round on the
    bridge instead of being routed (br_nf_pre_routing_finish).
    """
    return options.hairpin_mode or (endpoint is not None and bool(endpoint.ports))


def keeps_apart(options: BridgeConfig) -> bool:
    """Whether the bridge keeps its ports from each other."""
    return options.port_isolation or not options.icc


def _alias(network: str) -> str:
    return f"cnm {network}"


def port_alias(network: str, key: EndpointKey) -> str:
    """The alias of a host end, which says whose it is: 254 bytes and a zero (IFALIASZ)."""
    return f"{_alias(network)} {key}".encode()[:254].decode("utf-8", "ignore")


def with_gateway(lease: Lease) -> Lease:
    """A lease with a gateway that the bridge can have: the pool's, else the first address.

    Raises InvalidNetworkConfig where there is none beside the container's own.
    """
    of = lease.address
    ip = lease.gateway or _first_host(of)
    if ip == of.ip or not (lease.gateway or ip in of):
        raise InvalidNetworkConfig(
            f"isGateway: {of} leaves the bridge no address of its own"
            + (f", as {format_ip(ip)} is its gateway" if lease.gateway else ""),
            details="give ipam another address or gateway, or a shorter prefix; or leave out "
            "isGateway and isDefaultGateway",
        )
    return lease.replace(gateway=ip)


def _first_host(of: Address) -> bytes:
    """The first address that a host may have; of a point-to-point subnet the other one."""
    if of.prefix == len(of.ip) * 8 - 1:
        return to_ip(to_int(of.ip) ^ 1, len(of.ip))
    return to_ip(to_int(of.network.ip) + 1, len(of.ip))


def _random_name() -> str:
    return "veth" + urandom(4).hex()
