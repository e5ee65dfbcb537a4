"""Addresses that are unique over all hosts of a cluster.

Each host gives out of blocks that are its own, by host-local's files; an address and the
endpoint that has it are then claimed in one transaction of the shared store, which also
refuses what somebody asked for on another host.
"""

from cnm_core.config.host_local import HostLocalConfig, RangeConfig
from cnm_core.config.overlay import OverlayConfig, OverlaySubnet
from cnm_core.errors import (
    AddressInUse,
    Error,
    InvalidNetworkConfig,
    NotAvailable,
    PoolExhausted,
    StateFailure,
    TryAgainLater,
    attempt,
    raise_all,
)
from cnm_core.inet import Address, format_ip, format_mac, to_int, to_ip
from cnm_core.ipam import Request
from cnm_core.ipam.host_local import HostLocal
from cnm_core.kernel import underlay
from cnm_core.kernel.netlink import Socket
from cnm_core.kernel.vxlan import OVERHEAD
from cnm_core.model import Addressing, Drift, EndpointKey, Lease, Pool
from cnm_core.store.cluster import Outdated, first_of
from cnm_core.store.entries import Member, Published, SharedNetwork, Subnet, mac_of
from cnm_core.store.membership import Membership, View
from cnm_core.store.shared import Unreachable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

NAME = "cluster"
# How often an address, a block or a network may be found to be another's by now.
_ATTEMPTS = 300


class ClusterIpam:
    """The addresses of one network, as its endpoints on this host get them.

    `requests` are addresses that one container is to have, the strongest first; `mac` the
    MAC address that was asked for.
    """

    needs_link = False

    def __init__(
        self,
        network: str,
        options: OverlayConfig,
        membership: Membership,
        requests: tuple[Request, ...] = (),
        mac: bytes | None = None,
    ) -> None:
        self.pool = Pool(NAME, options.data_dir)
        self._network = network
        self._options = options
        self._membership = membership
        self._requests = requests
        self._mac = mac

    def request(self, key: EndpointKey) -> Addressing:
        """One address out of each subnet, known to all hosts.

        Raises AddressInUse, PoolExhausted, TryAgainLater, NotAvailable, InvalidNetworkConfig.
        """
        member, network = wanted(self._network, self._options, self._membership.node)
        self._membership.replay()
        view = self._membership.view(member, network)
        self._refuse_foreign(view.network)
        if self._mac is not None and not view.network.routed:
            self._refuse_taken_mac(self._mac, key)
        for _ in range(_ATTEMPTS):
            try:
                try:
                    return self._publish(view, key)
                except PoolExhausted as error:
                    view = self._grow(view, error)
            except Outdated:
                view = self._membership.look(member, network)
            except _Taken:
                continue
        raise TryAgainLater(f'addresses of network "{self._network}" change too fast')

    def release(self, key: EndpointKey) -> None:
        """Free the endpoint's addresses here and everywhere; there later if need be."""
        self._membership.withdraw(self._network, key, self._local().free)
        view = self._membership.known(self._network)
        if view is not None and view.blocks and not self._local().owners():
            try:
                self._membership.release_blocks(view)
            except (Unreachable, StateFailure, NotAvailable, InvalidNetworkConfig):
                pass  # they stay this host's, which holds nothing up

    def release_unused_blocks(self) -> None:
        """Give back what the store has as this host's blocks, where nobody has an address of it.

        Raises Unreachable, StateFailure.
        """
        cluster, node = self._membership.cluster, self._membership.node
        if self._local().owners() or cluster.endpoints(self._network, node):
            return  # in the store only are those of a configuration with another dataDir
        held = tuple(each.block for each in cluster.claims(self._network) if each.node == node)
        view = self._membership.known(self._network)
        if held and view is not None:
            self._membership.release_blocks(view.replace(blocks=held))

    def drift(self, key: EndpointKey, leases: "Collection[Lease]") -> list[Drift]:
        """How files and store differ from the leases. Raises Unreachable."""
        found = self._local().drift(key, leases)
        owner = f"{self._membership.node}/{key}"
        for lease in leases:
            holder = self._membership.cluster.holder(self._network, lease.address.ip)
            if holder != owner:
                what = f"owner of {format_ip(lease.address.ip)} in the cluster"
                found.append(Drift(what, owner, holder or "nobody"))
        return found

    def collect(self, valid: "Collection[EndpointKey]") -> None:
        """Free the addresses of every endpoint of this host that is not among the valid ones."""
        failures: list[Error] = []
        stale = set(self._local().owners()) - set(valid)
        try:
            known = self._membership.cluster.endpoints(self._network, self._membership.node)
            stale |= {each.key for each in known} - set(valid)
        except Error as error:
            failures.append(error)
        for key in stale:
            attempt(failures, self.release, key)
        raise_all(failures)

    def check_status(self) -> None:
        """Raise Unreachable or NotAvailable unless a request can be served."""
        member, network = wanted(self._network, self._options, self._membership.node)
        self._membership.look(member, network)

    def _publish(self, view: View, key: EndpointKey) -> Addressing:
        """Addresses of this host's blocks, or those asked for, claimed in the store."""
        local = self._local(view)
        addressing = local.request(key)
        ips = tuple(lease.address.ip for lease in addressing.leases)
        try:
            endpoint = Published(
                network=self._network,
                node=self._membership.node,
                key=key,
                ips=ips,
                mac=self._mac or mac_of(ips),
                vtep=view.vtep,
            )
            cluster = self._membership.cluster
            taken = cluster.publish(endpoint, view.member, view.network, view.blocks)
            if taken is not None:
                self._refuse_wanted(taken)
                raise _Taken
        except BaseException:
            local.release(key)
            raise
        return addressing

    def _refuse_foreign(self, network: SharedNetwork) -> None:
        """Raise InvalidNetworkConfig for an address that was asked for and is in no subnet."""
        for request in self._requests:
            if not any(request.ip in each.address for each in network.subnets):
                raise InvalidNetworkConfig(
                    f"{request.source}: {format_ip(request.ip)} is in no subnet of network "
                    f'"{network.name}"',
                    details=f"they are {', '.join(str(each.address) for each in network.subnets)}",
                )

    def _refuse_taken_mac(self, mac: bytes, key: EndpointKey) -> None:
        """Raise AddressInUse for a MAC address that was asked for and is another endpoint's.

        On one link layer frames for either would go to one of them.
        """
        for each in self._membership.cluster.endpoints(self._network):
            if each.mac == mac and (each.node, each.key) != (self._membership.node, key):
                raise AddressInUse(
                    f'mac: {format_mac(mac)} of network "{self._network}" is held by '
                    f'"{each.owner}"',
                    details="ask for another one, or for none: it follows from the IP address then",
                )

    def _refuse_wanted(self, taken: bytes) -> None:
        """Raise AddressInUse for an address that was asked for."""
        for request in self._requests:
            if request.ip == taken:
                holder = self._membership.cluster.holder(self._network, taken)
                raise AddressInUse(
                    f'{request.source}: {format_ip(taken)} of network "{self._network}" '
                    f'is held by "{holder}"',
                    details="ask for another address, or DEL the attachment that holds it; "
                    '"cnm node fence" frees those of a host that is gone for good',
                )

    def _grow(self, view: View, error: PoolExhausted) -> View:
        """The view with another block of each subnet that has no address left."""
        grown = view
        for subnet in view.network.subnets:
            if self._is_full(view, subnet.address):
                grown = self._membership.claim_block(grown, subnet.address)
        if grown == view:
            raise error
        return grown

    def _is_full(self, view: View, subnet: Address) -> bool:
        needs_block = view.network.routed and not view.blocks_of(subnet)
        if self._asks_for_one_of(subnet) and not needs_block:
            return False
        options = HostLocalConfig(ranges=_ranges(view, subnet), data_dir=self._options.data_dir)
        try:
            HostLocal(self._network, options).check_status()
        except Error:
            return True
        return False

    def _asks_for_one_of(self, subnet: Address) -> bool:
        return any(each.ip in subnet for each in self._requests)

    def _local(self, view: View | None = None) -> HostLocal:
        """Host-local over this host's blocks; over a whole subnet for an address asked for."""
        options = HostLocalConfig(data_dir=self._options.data_dir)
        if view is None:
            return HostLocal(self._network, options)
        ranges: tuple[tuple[RangeConfig, ...], ...] = ()
        for subnet in view.network.subnets:
            if self._asks_for_one_of(subnet.address) and not view.network.routed:
                ranges += ((RangeConfig(subnet.address, gateway=subnet.gateway),),)
                continue
            blocks = _ranges(view, subnet.address)
            if not blocks:
                raise PoolExhausted(f"this host has no block of {subnet.address} yet")
            ranges += blocks
        options = options.replace(ranges=ranges)
        # What is stale here is in the store, too: `release` frees both.
        return HostLocal(self._network, options, self._requests, replaces_stale=False)


class _Taken(Exception):
    """An address out of one of our blocks was given to somebody who asked for it."""


def wanted(name: str, options: OverlayConfig, node: str) -> tuple[Member, SharedNetwork]:
    """This host and a network, as the configuration has them. Raises InvalidNetworkConfig."""
    if not options.subnets:
        raise InvalidNetworkConfig("subnets: must have at least one subnet")
    subnets = tuple(map(_subnet, options.subnets))
    _refuse_overlap(subnets)
    if options.mode == "l3" and options.bum != "none":
        raise InvalidNetworkConfig(
            f'bum: cannot be "{options.bum}" with mode "l3"',
            details="what goes to everybody is not routed; leave out one of the two",
        )
    member = member_of(options, node)
    _refuse_underlay(subnets, member)
    return (
        member,
        SharedNetwork(
            name=name,
            vni=options.vni,
            port=options.port,
            mtu=options.mtu,
            internal=options.internal,
            mode=options.mode,
            bum=options.bum,
            tx_checksum=options.tx_checksum,
            encrypted=options.encrypted,
            subnets=subnets,
        ),
    )


def member_of(options: OverlayConfig, node: str) -> Member:
    """This host, as its underlay has it. Raises InvalidNetworkConfig."""
    found = underlay.find(Socket(), options.underlay)
    version = 4 if len(found.ip) == 4 else 6
    return Member(node, found.ip, found.mtu - OVERHEAD[version])


def _refuse_underlay(subnets: tuple[Subnet, ...], member: Member) -> None:
    """What goes to other hosts would go to the bridge."""
    for each in subnets:
        if member.vtep in each.address:
            raise InvalidNetworkConfig(
                f"subnets: {each.address} has {format_ip(member.vtep)}, this host's address on the "
                "underlay",
                details="choose another subnet, which neither the hosts nor their networks have",
            )


def _refuse_overlap(subnets: tuple[Subnet, ...]) -> None:
    for at, each in enumerate(subnets):
        for other in subnets[:at]:
            if each.address.overlaps(other.address):
                raise InvalidNetworkConfig(
                    f"subnets: {each.address} overlaps with {other.address}",
                    details="leave out one of the two: a container has an address of each",
                )


def _subnet(options: OverlaySubnet) -> Subnet:
    subnet = options.subnet
    gateway = options.gateway or to_ip(to_int(subnet.ip) + 1, len(subnet.ip))
    if gateway not in subnet:
        raise InvalidNetworkConfig(
            f"subnets: gateway {format_ip(gateway)} is not in {subnet}",
        )
    return Subnet(subnet, gateway)


def _ranges(view: View, subnet: Address) -> tuple[tuple[RangeConfig, ...], ...]:
    """One range set of this host's blocks in a subnet; none where it has no block."""
    gateway = next(each.gateway for each in view.network.subnets if each.address == subnet)
    blocks = view.blocks_of(subnet)
    if view.network.routed:
        ranges = tuple(RangeConfig(block, gateway=first_of(block)) for block in blocks)
    else:
        ranges = tuple(RangeConfig(subnet, ip_range=block, gateway=gateway) for block in blocks)
    return (ranges,) if ranges else ()
