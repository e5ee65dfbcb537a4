"""How a bridge and an endpoint's port of it differ from what was made: CHECK."""

from cnm_core.config.bridge import BridgeConfig
from cnm_core.drivers import gateway
from cnm_core.drivers.bridge import (
    is_gateway,
    keeps_apart,
    lacks_loopback,
    needs_policy,
    turns_back,
)
from cnm_core.kernel import link
from cnm_core.kernel.link import Link
from cnm_core.kernel.netlink import Socket
from cnm_core.model import Attachment, Drift, Endpoint, Lease, Policy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cnm_core.drivers.bridge_vlans import PortVlans


class BridgeDrift:
    """One comparison, with what a network is to be: its keys, its policy and its VLANs."""

    def __init__(
        self, host: Socket, options: BridgeConfig, policy: Policy, vlans: "PortVlans | None"
    ) -> None:
        self._host = host
        self._options = options
        self._policy = policy
        self._vlans = vlans

    def of(self, endpoint: Endpoint | None, attachment: Attachment) -> list[Drift]:
        """Bridge, gateway, port, rules; without a record as the previous result has them."""
        leases = attachment.leases if endpoint is None else endpoint.addressing.leases
        bridge = link.find(self._host, self._options.bridge)
        found = self._of_bridge(bridge, leases)
        found += self._of_port(bridge, endpoint, attachment)
        if needs_policy(self._options, endpoint):
            found += self._of_rules(endpoint, leases)
        if endpoint is not None and endpoint.source_checked and endpoint.mac is not None:
            from cnm_core.drivers.spoofcheck import SpoofCheck

            found += SpoofCheck().drift(endpoint.host_link, endpoint.mac)
        return found

    def _of_bridge(self, bridge: Link | None, leases: tuple[Lease, ...]) -> list[Drift]:
        what = f"bridge {self._options.bridge}"
        if bridge is None or bridge.kind != "bridge":
            return [Drift(what, "a bridge", bridge.kind if bridge else "no such link")]
        found = [] if bridge.up else [Drift(what, "up", "down")]
        if self._options.promisc_mode and not bridge.flags & link.IFF_PROMISC:
            found.append(Drift(what, "promiscuous", "not promiscuous"))
        if is_gateway(self._options):
            found += self._of_gateway(bridge, leases)
        return found

    def _of_gateway(self, bridge: Link, leases: tuple[Lease, ...]) -> list[Drift]:
        name = self._policy.bridge
        carrier = bridge if name == bridge.name else link.find(self._host, name)
        if carrier is None:
            return [Drift(f"gateway link {name}", "a VLAN link", "no such link")]
        found = gateway.drift(self._host, carrier, leases, several=bool(self._policy.inner))
        if carrier is not bridge and not carrier.up:
            found.append(Drift(f"gateway link {name}", "up", "down"))
        return found

    def _of_port(
        self, bridge: Link | None, endpoint: Endpoint | None, attachment: Attachment
    ) -> list[Drift]:
        options = self._options
        name = endpoint.host_link if endpoint else self._host_end(attachment)
        port = link.find(self._host, name) if name else None
        what = f"host end {name}".strip()
        if port is None:
            return [Drift(what, "a veth", "no such link")]
        found = [] if port.up else [Drift(what, "up", "down")]
        mtu = options.mtu if type(options.mtu) is int else _mtu_of(attachment, name)
        if mtu and port.mtu != mtu:
            found.append(Drift(f"MTU of {what}", str(mtu), str(port.mtu)))
        for setting, wanted, present in (
            ("hairpin", turns_back(options, endpoint), port.hairpin),
            ("isolation", keeps_apart(options), port.isolated),
        ):
            if present != wanted:
                found.append(Drift(f"{setting} of {what}", _on(wanted), _on(present)))
        if bridge is not None and bridge.kind == "bridge":
            if port.master != bridge.index:
                found.append(Drift(what, f"a port of {bridge.name}", "not a port of it"))
            if self._vlans:
                found += self._vlans.drift(bridge, port)
        return found

    def _of_rules(self, endpoint: Endpoint | None, leases: tuple[Lease, ...]) -> list[Drift]:
        from cnm_core.drivers.firewall import Firewall, Target

        firewall = Firewall()
        subnets = [self._policy.subnet_of(lease.address) for lease in leases]
        found = firewall.drift(self._policy, subnets)
        if endpoint is not None:
            found += firewall.port_drift(endpoint.ports, Target.of(endpoint))
            carrier = link.find(self._host, self._policy.bridge)
            if carrier and lacks_loopback(endpoint, carrier.name):
                found.append(Drift("route_localnet of the bridge", "1", "0"))
        return found

    def _host_end(self, attachment: Attachment) -> str:
        """The host end's name in a previous result: a link of the host that others do not share."""
        shared = (self._options.bridge, self._policy.bridge)
        names = [each.name for each in attachment.interfaces if not each.sandbox]
        return next((name for name in names if name not in shared), "")


def _on(value: bool) -> str:
    return "on" if value else "off"


def _mtu_of(attachment: Attachment, name: str) -> int:
    """The MTU of a link of the host in a previous result; 0 before spec 1.1.0, which has it."""
    links = [each for each in attachment.interfaces if each.name == name and not each.sandbox]
    return links[0].mtu or 0 if links else 0
