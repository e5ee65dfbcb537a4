"""VLANs of a bridge's ports, by the Go plugin's keys: vlan, vlanTrunk, preserveDefaultVlan.

A port is in `vlan` untagged, and in those of `vlanTrunk` tagged. Without `vlan` a trunk has
VLAN 1 untagged, as with the Go plugin. A VLAN in both is untagged.

The gateway of a VLAN has a link of its own, ``<bridge>.<vlan>``, on top of the bridge, which
is in the VLAN for it (bridge vlan … self). The Go plugin makes a veth pair of that name with
one end on the bridge; one that is there is used. VLAN 1 is what a bridge itself is in, so
its gateway is the bridge.
"""

from errno import EOPNOTSUPP

from cnm_core.errors import InvalidNetworkConfig, KernelRefused
from cnm_core.kernel import link, vlan
from cnm_core.kernel.link import Link
from cnm_core.kernel.netlink import Request, Socket
from cnm_core.kernel.vlan import PVID, UNTAGGED, Filtering
from cnm_core.model import Drift

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cnm_core.config.bridge import BridgeConfig, VlanTrunk
    from cnm_core.kernel.vlan import Members

_DEFAULT = 1  # br_vlan_init
_NAME_SIZE = 15  # IFNAMSIZ without its zero


class PortVlans:
    """The VLANs that one configuration asks for. `gateway` is the link for gateway addresses."""

    # What a new bridge is made with.
    of_bridge = vlan.FILTERING

    def __init__(self, host: Socket, options: "BridgeConfig", gateway: str) -> None:
        self._host = host
        self._options = options
        self._gateway = gateway
        self._stacked = gateway != options.bridge
        self._untagged = options.vlan or _DEFAULT
        self._tagged = tagged(options)

    def validate(self, bridge: Link | None, *, ours: bool) -> None:
        """Refuse what kernel and bridge cannot have. Raises KernelRefused, InvalidNetworkConfig.

        A bridge of `ours` begins to filter where it does not; another may have ports that
        would lose their connection by that.
        """
        if len(self._gateway.encode()) > _NAME_SIZE:
            raise InvalidNetworkConfig(
                f'bridge: "{self._options.bridge}" is too long for {self._asked} with isGateway: '
                f'the gateway\'s link would be "{self._gateway}"',
                details=f"choose a name with which that has {_NAME_SIZE} bytes at most",
            )
        self._refuse_lacking_kernel()
        if bridge is None:
            return
        filtering = vlan.filtering_of(self._host, bridge.name)
        if not filtering.on and not ours:
            raise InvalidNetworkConfig(
                f'{self._asked}: bridge "{bridge.name}" does not filter VLANs, and is not ours',
                details=f"ip link set {bridge.name} type bridge vlan_filtering 1",
            )
        if self._options.is_gateway or self._options.is_default_gateway:
            self._refuse_default(bridge, filtering)

    def begin(self, bridge: Link) -> None:
        """Have the bridge filter VLANs, if it does not yet."""
        if not vlan.filtering_of(self._host, bridge.name).on:
            self._host.request(vlan.set_filtering(bridge.index, bridge.name))

    def find_gateway(self, bridge: Link) -> Link | None:
        """The gateway's link, where it is there. Raises InvalidNetworkConfig for another."""
        found = link.find(self._host, self._gateway)
        if found is None or found.kind == "veth":
            return found
        if vlan.origin_of(self._host, self._gateway) != (bridge.index, self._untagged):
            raise InvalidNetworkConfig(
                f'{self._asked}: link "{self._gateway}" exists, and is not VLAN '
                f'{self._untagged} of bridge "{bridge.name}"',
                details="remove that link, or choose another bridge",
            )
        return found

    def create_gateway(self, bridge: Link) -> Request:
        """Make the gateway's link."""
        return vlan.create(self._gateway, bridge.index, self._untagged)

    def join_gateway(self, bridge: Link) -> Request:
        """Put the bridge itself into the VLAN, which may be there already."""
        return vlan.add(bridge.index, bridge.name, {self._untagged: 0}, own=True)

    def delete_gateway(self, bridge: Link, alias: str) -> None:
        """Delete the gateway's link, if it has that alias, and take the bridge out of the VLAN."""
        found = link.find(self._host, self._gateway)
        if self._stacked and found is not None and found.alias == alias:
            vids = (self._untagged,)
            self._host.request(vlan.remove(bridge.index, bridge.name, vids, own=True))
            link.delete_if_present(self._host, found.name)

    def join(self, bridge: Link, port: Link) -> None:
        """Put a new port, which is in the bridge's default VLAN, into those that are asked for."""
        default = vlan.filtering_of(self._host, bridge.name).default
        members = self._members(default)
        requests = [vlan.add(port.index, port.name, members)]
        if default and default not in members:
            requests.append(vlan.remove(port.index, port.name, (default,)))
        self._host.request(*requests)

    def drift(self, bridge: Link, port: Link) -> list[Drift]:
        """How filtering and VLANs of bridge and port differ from what is asked for."""
        filtering = vlan.filtering_of(self._host, bridge.name)
        of_port, of_bridge = vlan.members_of(self._host, port.index, bridge.index)
        found = []
        if not filtering.on:
            found.append(Drift(f"VLAN filtering of bridge {bridge.name}", "on", "off"))
        members = self._members(filtering.default)
        if of_port != members:
            found.append(Drift(f"VLANs of host end {port.name}", _words(members), _words(of_port)))
        if self._stacked and of_bridge.get(self._untagged) != 0:
            gateway = link.find(self._host, self._gateway)
            if gateway is None or gateway.kind != "veth":
                what = f"VLANs of bridge {bridge.name} itself"
                found.append(Drift(what, _words({self._untagged: 0}), _words(of_bridge)))
        return found

    @property
    def _asked(self) -> str:
        """The key and the value that ask for VLANs."""
        if self._options.vlan:
            return f"vlan: {self._options.vlan}"
        return f"vlanTrunk: {_words(dict.fromkeys(self._tagged, 0))}"

    def _members(self, default: int) -> "Members":
        members = dict.fromkeys(self._tagged, 0)
        if default and self._options.preserve_default_vlan:
            members.setdefault(default, UNTAGGED)
        members[self._untagged] = PVID | UNTAGGED
        return members

    def _refuse_lacking_kernel(self) -> None:
        if not vlan.kernel_filters(self._host):
            raise KernelRefused(
                EOPNOTSUPP,
                f"{self._asked}: the bridges of the running kernel do not filter VLANs",
                details="that needs a kernel with CONFIG_BRIDGE_VLAN_FILTERING",
            )
        if self._stacked and not vlan.kernel_links(self._host):
            raise KernelRefused(
                EOPNOTSUPP,
                f'{self._asked}: the running kernel has no VLAN links, such as "{self._gateway}" '
                "for the gateway",
                details="that needs a kernel with CONFIG_VLAN_8021Q; or leave out isGateway",
            )

    def _refuse_default(self, bridge: Link, filtering: Filtering) -> None:
        """Refuse a gateway where the bridge is not in its VLAN as that would need."""
        own = self._untagged == filtering.default
        if own != (self._untagged == _DEFAULT):
            raise InvalidNetworkConfig(
                f"{self._asked}: VLAN {filtering.default}, not 1, is the default of bridge "
                f'"{bridge.name}", which cannot be the gateway then',
                details=f"ip link set {bridge.name} type bridge vlan_default_pvid 1",
            )


def tagged(options: "BridgeConfig") -> set[int]:
    """The VLANs that a port has tagged. Raises InvalidNetworkConfig for a range that is none."""
    return {
        vid
        for index, each in enumerate(options.vlan_trunk)
        for vid in _vids(each, f"vlanTrunk[{index}]")
    }


def _vids(trunk: "VlanTrunk", place: str) -> range | set[int]:
    """The VLANs of an item of vlanTrunk: its id, and those from minID to maxID."""
    low, high = trunk.min_id, trunk.max_id
    if (low is None) != (high is None):
        given, missing = ("minID", "maxID") if high is None else ("maxID", "minID")
        raise InvalidNetworkConfig(
            f"{place}: has {given}: {low or high}, and no {missing}",
            details="a range needs both; one VLAN is an id",
        )
    if low is None or high is None:
        if trunk.id is None:
            raise InvalidNetworkConfig(
                f"{place}: has no VLAN", details="give it an id, or minID and maxID"
            )
        return {trunk.id}
    if low > high:
        raise InvalidNetworkConfig(f"{place}: minID: {low} is greater than maxID: {high}")
    spanned = range(low, high + 1)
    return spanned if trunk.id is None else {trunk.id, *spanned}


def _words(members: "Members") -> str:
    """VLANs as one would write them, as in 1 untagged, 10 PVID untagged, 20-25."""
    words = []
    for first, last, flags in vlan.ranges(members):
        span = str(first) if first == last else f"{first}-{last}"
        pvid = " PVID" if flags & PVID else ""
        words.append(span + pvid + (" untagged" if flags & UNTAGGED else ""))
    return ", ".join(words) or "none"
