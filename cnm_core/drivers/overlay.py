"""Endpoints are ports of a bridge on their host; VXLAN joins the bridges of all hosts.

What the bridge driver does for one host it does here too: veth pairs, gateway addresses,
masquerading, published ports. On top of it come a VXLAN device as one more port, and three
static entries for each endpoint of another host: its neighbour entry on the bridge, which
answers ARP (br_do_proxy_suppress_arp, net/bridge/br_arp_nd_proxy.c), its forwarding entry
of the bridge, and that of the VXLAN device, which names the host. Nothing is learned, and
nothing is flooded unless the network has `bum`: then each host of an endpoint gets a copy of
what goes to everybody. So what stands there is exactly what the store says. In mode l3 the
VXLAN device is no port: see cnm_core/drivers/overlay_routes.py. Who may send to
the device is in nftables (cnm_core/drivers/vtep_guard.py).

The VXLAN device of an encrypted network sends into the tunnel of tunnel.py (WireGuard) or
tunnel_esp.py, and nowhere else.
"""

from errno import EEXIST

from cnm_core.config.bridge import BridgeConfig
from cnm_core.config.overlay import OverlayConfig, overlay_config
from cnm_core.drivers import overlay_routes
from cnm_core.drivers.bridge import Bridge
from cnm_core.drivers.overlay_routes import device_mac
from cnm_core.drivers.vtep_guard import Guard
from cnm_core.errors import ClaimConflict, InvalidNetworkConfig, KernelRefused, NotAvailable
from cnm_core.kernel import link, neighbour, underlay, vxlan
from cnm_core.kernel.link import Link
from cnm_core.kernel.neighbour import EVERYBODY, Row
from cnm_core.kernel.netlink import Request, Socket
from cnm_core.kernel.netns import Netns
from cnm_core.kernel.vxlan import Vxlan
from cnm_core.model import (
    Addressing,
    Attachment,
    Drift,
    Endpoint,
    EndpointKey,
    EndpointOptions,
    Lease,
    Network,
    Route,
    gateways,
)
from cnm_core.store.entries import ESP, mac_of
from cnm_core.store.membership import Membership, View, membership_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from cnm_core.drivers.overlay_routes import Entries
    from cnm_core.drivers.tunnel import Tunnel
    from cnm_core.drivers.tunnel_esp import EspTunnel
    from cnm_core.store.entries import Member, Published, SharedNetwork

# What all encrypted networks of a host send through: a WireGuard device, an XFRM interface.
TUNNEL, TUNNEL_ESP = "wg-cnm", "esp-cnm"
_BRIDGE, _DEVICE = "ov-", "vx-"
LINK_PREFIXES = (_BRIDGE, _DEVICE, TUNNEL, TUNNEL_ESP)


CUT_OFF_ADVICE = "remove its container and make it anew: it gets another address"


class Overlay:
    """The driver for one call: a bridge driver, and what there is beyond this host."""

    def __init__(self) -> None:
        self._host = Socket()
        self._bridge = Bridge()
        self._membership: Membership | None = None
        self._known: View | None = None
        self._left_esp = False

    @staticmethod
    def options(document: object) -> OverlayConfig:
        """The overlay plugin's own keys. Raises InvalidNetworkConfig."""
        return overlay_config(document)

    def validate(self, network: Network, wanted: EndpointOptions) -> None:
        """Refuse options that cannot work; what the network is in the cluster comes later."""
        options = _options(network)
        if 0 < options.mtu < 68:
            raise InvalidNetworkConfig(
                f"mtu: must be 0 or from 68 to 65535, got {options.mtu}",
                details="leave mtu out to take what the underlay leaves",
            )
        if wanted.ports and options.internal:
            raise InvalidNetworkConfig(
                "internal: cannot be true with runtimeConfig.portMappings",
                details="an internal network has no way in or out; leave out one of the two",
            )
        if options.encrypted:
            self._tunnel(network).require()

    def complete(self, network: Network, addressing: Addressing) -> Addressing:
        """The default route through this host, or of an internal network the way to the others."""
        addressing = self._bridge.complete(self._on_bridge(network), addressing)
        known = self._view(network).network
        if not (known.routed and known.internal):
            return addressing
        first = gateways(addressing.leases)
        routes = (Route(each.address, first[each.address.version]) for each in known.subnets)
        return addressing.replace(routes=(*addressing.routes, *routes))

    def create_network(self, network: Network, leases: tuple[Lease, ...]) -> bool:
        """The bridge with its gateway addresses, the VXLAN device, and the peers' entries.

        An agent keeps guard, entries, and the other ends of a tunnel as the store has them; where
        none does they are read anew. The guard is there before the device, and so is an encrypted
        network's tunnel.
        """
        view = self._view(network)
        membership = self._member_of(network)
        followed = membership.is_followed()
        if view.network.encrypted:
            tunnel = self._tunnel(network)
            if tunnel.ensure(view.member) or not followed:
                tunnel.reconcile(view.member)
        first = self._bridge.create_network(self._on_bridge(network), leases)
        self._guard(membership, view, followed=followed)
        made = ensure_device(self._host, view)
        if made or view.returned or not followed:
            endpoints, revision = membership.cluster.endpoints_until(network.name)
            if view.returned:
                self._return(membership, view, endpoints)
            # An agent may have been told of more since: what is stale is its to remove.
            missing, stale = reconcile(self._host, view, endpoints, keep_stale=followed)
            if missing or stale or not view.seen:
                membership.see(network.name, revision)
        return first

    def create_endpoint(self, network: Network, endpoint: Endpoint) -> Endpoint:
        """Names; the MAC address follows from the address unless one was asked for.

        Bridge and VXLAN device go with the last endpoint of the host, the tunnel with the last
        of all encrypted networks.
        """
        mac = endpoint.mac or mac_of(tuple(each.address.ip for each in endpoint.addressing.leases))
        known = self._view(network).network
        parents = [device_name(known), bridge_name(known)]
        if known.encrypted:
            parents.append(tunnel_name(known))
        endpoint = endpoint.replace(mac=mac, parents=tuple(parents))
        return self._bridge.create_endpoint(self._on_bridge(network), endpoint)

    def join(self, network: Network, endpoint: Endpoint, netns: Netns) -> None:
        """The veth pair."""
        self._bridge.join(self._on_bridge(network), endpoint, netns)

    def configure(self, network: Network, endpoint: Endpoint, netns: Netns) -> Attachment:
        """What the bridge knows of the port; addresses and routes of the container's end."""
        port = self._bridge.host_end
        assert port is not None and endpoint.mac is not None
        self._host.request(*port_settings(port, endpoint.mac))
        return self._bridge.configure(self._on_bridge(network), endpoint, netns)

    def leave(self, key: EndpointKey, endpoint: Endpoint | None, netns: Netns | None) -> None:
        """Delete the pair."""
        self._left_esp |= endpoint is not None and TUNNEL_ESP in endpoint.parents
        self._bridge.leave(key, endpoint, netns)

    def joined(self, key: EndpointKey, netns: Netns) -> bool:
        """Whether the sandbox has an interface of that name."""
        return self._bridge.joined(key, netns)

    def drift(
        self,
        network: Network,
        key: EndpointKey,
        endpoint: Endpoint | None,
        attachment: Attachment,
        netns: Netns,
    ) -> list[Drift]:
        """What the bridge driver finds, the VXLAN device, and the entries of other hosts."""
        view = self._view(network)
        on_bridge = self._on_bridge(network)
        found = self._bridge.drift(on_bridge, key, endpoint, attachment, netns)
        if view.network.encrypted:
            found += self._tunnel(network).drift(view.member)
        found += self._device_drift(view)
        if endpoint is not None:
            found += self._port_drift(endpoint)
        if not found:
            found += self._drift_of_others(self._member_of(network), view)
        return found

    def _port_drift(self, endpoint: Endpoint) -> list[Drift]:
        """What becomes of frames for the endpoint. A port that learns is an earlier version's."""
        port = link.find(self._host, endpoint.host_link)
        if port is None or endpoint.mac is None or link.learns(port):
            return []
        own = Row(port.index, endpoint.mac)
        if own in neighbour.forwarding_of(self._host, port.index):
            return []
        return [Drift(f"host end {port.name}", str(own), "no such entry")]

    def _drift_of_others(self, membership: Membership, view: View) -> list[Drift]:
        """What is wrong with guard and entries.

        Without an agent nobody has told this host of what came and went since it last looked:
        only what it has been given, and has lost, is wrong then. Who is no member any more may
        not send, whether this host was told or not.
        """
        followed, cluster = membership.is_followed(), membership.cluster
        until = None if followed else view.seen
        members = cluster.members()
        new = [each for each in members if not followed and each.revision > view.seen]
        found = Guard().drift(device_of(view), others(view, members), others(view, new))
        known, _ = cluster.endpoints_until(view.network.name, until)
        missing, stale = difference(self._host, view, known)
        found += [Drift("entries of other hosts", str(row), "no such entry") for row in missing]
        if followed:
            found += [Drift("entries of other hosts", "none", str(row)) for row in stale]
        return found

    def check_status(self, network: Network) -> None:
        """Whether the underlay is there, and nftables if needed."""
        try:
            self.validate(network, EndpointOptions())
            underlay.find(self._host, _options(network).underlay)
        except InvalidNetworkConfig as error:
            raise NotAvailable(error.msg, details=error.details) from None

    def collect(self, network: str, known: "Callable[[], Collection[EndpointKey]]") -> None:
        """What is left of endpoints that nobody knows, in the guard of networks, and of a tunnel
        whose link has gone with the last of them.
        """
        self._bridge.collect(network, known)
        Guard().keep(devices(self._host))
        if self._left_esp and link.find(self._host, TUNNEL_ESP) is None:
            from cnm_core.drivers import tunnel_esp

            tunnel_esp.clear()

    def disown(self, network: str, key: EndpointKey) -> None:
        """What a bridge has of it: the store is told by the IPAM driver."""
        self._bridge.disown(network, key)

    def delete_network(self, network: Network) -> None:
        """Delete bridge and VXLAN device of this host, and the tunnel if no other needs it."""
        membership = self._member_of(network)
        self._known = membership.known(network.name)
        if self._known is not None:
            link.delete_if_present(self._host, device_name(self._known.network))
            Guard().forget(device_of(self._known))
            self._bridge.delete_network(self._on_bridge(network))
            if self._known.network.encrypted:
                self._tunnel(network).remove_unless_used()
            membership.forget(network.name)

    def _return(
        self, membership: Membership, view: View, endpoints: "Collection[Published]"
    ) -> None:
        """Make endpoints known again that were forgotten when this host was fenced."""
        from cnm_core.drivers.returned import republish

        for each in republish(self._host, membership, view, endpoints).cut_off:
            membership.cluster.ignored(
                ClaimConflict(f'network "{view.network.name}": {each}', details=CUT_OFF_ADVICE)
            )
        membership.settle(view)

    def _member_of(self, network: Network) -> Membership:
        if self._membership is None:
            self._membership = membership_of(_options(network))
        return self._membership

    def _tunnel(self, network: Network) -> "Tunnel | EspTunnel":
        options = _options(network)
        return tunnel_of(self._host, options, self._member_of(network), options.encrypted)

    def _view(self, network: Network) -> View:
        """What this host knows of the network, which the IPAM driver has just looked at."""
        self._known = self._known or self._member_of(network).known(network.name)
        if self._known is None:
            raise NotAvailable(
                f'nothing is known of network "{network.name}" on this host, which has no '
                "endpoint on it",
                details="ADD one first",
            )
        return self._known

    def _on_bridge(self, network: Network) -> Network:
        """The network as the bridge driver has it on this host."""
        known = self._view(network).network
        outside = not known.internal
        if known.routed:
            self._bridge.inner = device_name(known)
            self._bridge.subnets = tuple(each.address for each in known.subnets)
        options = BridgeConfig(
            bridge=bridge_name(known),
            is_gateway=outside or known.routed,
            is_default_gateway=outside,
            ip_masq=outside,
            internal=known.internal,
            mtu=known.mtu,
        )
        return network.replace(options=options)

    def _guard(self, membership: Membership, view: View, *, followed: bool) -> None:
        """Have VXLAN packets taken from members only, of other networks too after a flush."""
        guard = Guard()
        stands = guard.stands(device_of(view))
        if stands and followed:
            return
        views = [view]
        if not stands:
            known = map(membership.known, membership.networks())
            views += [each for each in known if each and self._lacks_guard(guard, each)]
        members = membership.cluster.members()
        for each in views:
            guard.admit(device_of(each), each.network.name, others(each, members))

    def _lacks_guard(self, guard: Guard, view: View) -> bool:
        has_device = link.find(self._host, device_name(view.network)) is not None
        return has_device and not guard.stands(device_of(view))

    def _device_drift(self, view: View) -> list[Drift]:
        name = device_name(view.network)
        what = f"VXLAN device {name}"
        wanted = _bound(self._host, view)
        found = link.find(self._host, name)
        if found is None:
            return [Drift(what, str(wanted), "no such link")]
        has = vxlan.parse(found)
        drift = [] if has == wanted else [Drift(what, str(wanted), str(has or found.kind))]
        if not found.up:
            drift.append(Drift(what, "up", "down"))
        bridge = link.find(self._host, bridge_name(view.network))
        if view.network.routed:
            if found.master:
                drift.append(Drift(what, "a link of its own", "a port"))
        elif bridge is not None and found.master != bridge.index:
            drift.append(Drift(what, f"a port of {bridge.name}", "not a port of it"))
        elif not vxlan.is_set(found, flooded=view.network.floods):
            drift.append(Drift(what, "the flags of its port", "other ones"))
        if not view.network.tx_checksum:
            from cnm_core.kernel import ethtool

            if ethtool.leaves_checksums(name):
                drift.append(Drift(what, "checksums by the kernel", "left to the underlay's link"))
        return drift


def bridge_name(network: "SharedNetwork") -> str:
    """The bridge of a network, the same on every host."""
    return f"{_BRIDGE}{network.vni:06x}"


def device_name(network: "SharedNetwork") -> str:
    """The VXLAN device of a network, the same on every host."""
    return f"{_DEVICE}{network.vni:06x}"


def tunnel_name(network: "SharedNetwork") -> str:
    """The link that an encrypted network sends through."""
    return TUNNEL_ESP if network.encrypted == ESP else TUNNEL


def tunnel_of(
    host: Socket, options: OverlayConfig, membership: Membership, encrypted: bool | str
) -> "Tunnel | EspTunnel":
    """This host's end of the tunnel that networks have which are encrypted like that."""
    if encrypted == ESP:
        from cnm_core.drivers.tunnel_esp import EspTunnel

        return EspTunnel(host, options, membership)
    from cnm_core.drivers.tunnel import Tunnel

    return Tunnel(host, options, membership)


def ensure_device(socket: Socket, view: View) -> bool:
    """Have the VXLAN device, in mode l2 as a port of the bridge; whether it had to be made.

    One of other attributes, which an earlier network of this VNI left, is made anew.
    """
    name = device_name(view.network)
    bridge = link.parse(socket.request(link.get(bridge_name(view.network)))[0])
    master = 0 if view.network.routed else bridge.index
    device = _bound(socket, view)
    found = link.find(socket, name)
    if found is not None:
        same = vxlan.parse(found) == device and found.master == master
        if same and found.up and found.mtu == view.network.mtu:
            _set_up(socket, view, found)
            return False
        link.delete_if_present(socket, name)
    try:
        socket.request(
            vxlan.create(
                name,
                device_mac(view.vtep),
                view.network.mtu,
                master,
                device,
            )
        )
    except KernelRefused as error:
        if error.errno != EEXIST:
            raise
        found = link.find(socket, name)
        if found is None:  # nobody was faster: the VNI has another device on this host
            raise _vni_in_use(view, error) from None
    _set_up(socket, view, link.parse(socket.request(link.get(name))[0]))
    return True


def _set_up(socket: Socket, view: View, device: link.Link) -> None:
    """What a device gets when it is there, and a call that was killed may not have come to."""
    if not view.network.routed and not vxlan.is_set(device, flooded=view.network.floods):
        socket.request(vxlan.set_port(device, flooded=view.network.floods))
    if not view.network.tx_checksum:
        from cnm_core.kernel import ethtool

        if ethtool.leaves_checksums(device.name):
            ethtool.keep_checksums(device.name)


def port_settings(port: Link, mac: bytes) -> tuple[Request, Request]:
    """Have the bridge know an endpoint's MAC address, and learn no other by its port.

    A container that sends from another's address would draw that one's frames to itself.
    """
    return link.stop_learning(port), neighbour.replace(Row(port.index, mac))


def devices(socket: Socket) -> list[Vxlan]:
    """The VXLAN devices of all overlay networks on this host."""
    found = [each for each in link.list_links(socket) if each.name.startswith(_DEVICE)]
    return [each for each in map(vxlan.parse, found) if each is not None]


def others(view: View, members: "Iterable[Member]") -> set[bytes]:
    """The VTEPs that a network's packets may come from."""
    found = {view.vtep_of(each) for each in members if each.node != view.member.node}
    return found - {view.vtep}


def rows(view: View, bridge: Link, device: Link, endpoints: "Iterable[Published]") -> set[Row]:
    """The entries that the endpoints of other hosts have on this one.

    None for what cannot be: a host in another family of addresses or past the tunnel, an
    address that is the gateway's or in no subnet.
    """
    found: set[Row] = set()
    on = vxlan.parse(device)
    through = on.link if on else 0
    for each in endpoints:
        if each.node != view.member.node and _is_possible(view, each):
            found.update(Row(bridge.index, each.mac, ip, b"") for ip in each.ips)
            found.add(Row(device.index, each.mac, b"", b""))
            found.add(Row(device.index, each.mac, b"", each.vtep, through))
            if view.network.floods:
                found.add(Row(device.index, EVERYBODY, b"", each.vtep, through))
    return found


def _is_possible(view: View, endpoint: "Published") -> bool:
    subnets = view.network.subnets
    own, theirs = view.vtep, endpoint.vtep
    # What is not in the tunnel's subnet would be sent past it.
    reachable = own[:8] == theirs[:8] if view.network.encrypted else len(own) == len(theirs)
    return reachable and all(
        any(ip in each.address and ip != each.gateway for each in subnets) for ip in endpoint.ips
    )


def difference(
    socket: Socket, view: View, endpoints: "Iterable[Published]"
) -> "tuple[Entries, Entries]":
    """The entries that are missing, and those that should not be there."""
    bridge, device = _links(socket, view)
    if view.network.routed:
        node = view.member.node
        theirs = [each for each in endpoints if each.node != node and _is_possible(view, each)]
        return overlay_routes.difference(socket, view, device, theirs)
    wanted: Entries = set(rows(view, bridge, device, endpoints))
    present: Entries = set(neighbour.list_of(socket, bridge.index, device.index))
    return wanted - present, present - wanted


def reconcile(
    socket: Socket, view: View, endpoints: "Iterable[Published]", *, keep_stale: bool = False
) -> "tuple[Entries, Entries]":
    """Make the kernel's entries those of the endpoints; what was missing, and what was stale."""
    missing, stale = difference(socket, view, endpoints)
    _, device = _links(socket, view)
    overlay_routes.apply(socket, view, device, missing, set() if keep_stale else stale)
    return missing, stale


def _links(socket: Socket, view: View) -> tuple[Link, Link]:
    names = bridge_name(view.network), device_name(view.network)
    bridge, device = map(link.parse, socket.request(*map(link.get, names)))
    return bridge, device


def device_of(view: View) -> Vxlan:
    """The VXLAN device that a network has on this host."""
    return Vxlan(view.network.vni, view.network.port, view.vtep)


def _bound(socket: Socket, view: View) -> Vxlan:
    """The same, of an encrypted network with the tunnel that it is bound to.

    Where there is none the kernel refuses to make the device, whose address is link-local.
    """
    found = link.find(socket, tunnel_name(view.network)) if view.network.encrypted else None
    return device_of(view).replace(link=found.index if found else 0)


def _vni_in_use(view: View, error: KernelRefused) -> InvalidNetworkConfig:
    return InvalidNetworkConfig(
        f'vni: {view.network.vni} of network "{view.network.name}" has another VXLAN device '
        f"on this host: {error.msg}",
        details="remove that device, or make the network with another VNI or port",
    )


def _options(network: Network) -> OverlayConfig:
    assert isinstance(network.options, OverlayConfig)
    return network.options
