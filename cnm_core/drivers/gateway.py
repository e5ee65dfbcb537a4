"""A network's gateway addresses on a link of the host, and the forwarding behind them."""

from errno import EADDRNOTAVAIL, EEXIST

from cnm_core.errors import InvalidNetworkConfig, KernelRefused
from cnm_core.inet import Address
from cnm_core.kernel import address, sysctl
from cnm_core.kernel.address import LinkAddress
from cnm_core.kernel.link import Link
from cnm_core.kernel.netlink import Socket
from cnm_core.model import Drift, Lease


def ensure(
    host: Socket, carrier: Link, leases: tuple[Lease, ...], *, force: bool, several: bool
) -> None:
    """Give the gateways of the leases to a link, and have their IP versions forwarded.

    Raises InvalidNetworkConfig for other addresses in their way, which those of other subnets
    are not with `several`; with `force` they go.
    """
    present = address.list_of(host, carrier.index)
    others = _others(present, leases)
    for lease in leases:
        wanted = _gateway(lease)
        if wanted is None:
            continue
        if all(each.address != wanted for each in present):
            conflicting = [each for each in others if _conflicts(each, wanted, several)]
            _add(host, carrier, wanted, conflicting, force=force)
        if not _forwards(carrier, wanted.version):
            _switch_on(host, carrier, wanted.version)


def drift(host: Socket, carrier: Link, leases: tuple[Lease, ...], *, several: bool) -> list[Drift]:
    """Gateways of the leases that are missing, what is in their way, and forwarding."""
    what = f"bridge {carrier.name}"
    found = []
    have = address.list_of(host, carrier.index)
    present = [each.address for each in have]
    for lease in leases:
        wanted = _gateway(lease)
        if wanted is None:
            continue
        if wanted not in present:
            has = ", ".join(map(str, present)) or "no address"
            found.append(Drift(f"gateway of {what}", str(wanted), has))
        found += [
            Drift(f"addresses of {what}", f"{wanted} only", str(each.address))
            for each in _others(have, leases)
            if _conflicts(each, wanted, several)
        ]
        if not _forwards(carrier, wanted.version):
            found.append(Drift(f"forwarding of IPv{wanted.version}", "on", "off"))
    return found


def _others(present: list[LinkAddress], leases: tuple[Lease, ...]) -> list[LinkAddress]:
    """The addresses that are no gateway of the leases, of which one IP version may have several."""
    gateways = [_gateway(lease) for lease in leases]
    return [each for each in present if each.address not in gateways]


def _gateway(lease: Lease) -> Address | None:
    return None if lease.gateway is None else Address(lease.gateway, lease.address.prefix)


def _add(
    host: Socket, carrier: Link, wanted: Address, conflicting: list[LinkAddress], *, force: bool
) -> None:
    for each in conflicting:
        if not force:
            raise InvalidNetworkConfig(
                f'bridge: "{carrier.name}" already has an IP address different from '
                f"{wanted}: {each.address}",
                details="use another bridge for this network, or forceAddress: true",
            )
        try:
            host.request(address.delete(carrier.index, each.address))
        except KernelRefused as error:
            if error.errno != EADDRNOTAVAIL:  # it went with the first of its subnet, or before
                raise
    try:
        host.request(address.add(carrier.index, wanted))
    except KernelRefused as error:
        if error.errno != EEXIST:  # another network of the same bridge was faster
            raise


def _conflicts(present: LinkAddress, wanted: Address, several: bool) -> bool:
    """Whether an address stands in the way, by the Go plugin's rule.

    That is any other IPv4 address, and an IPv6 address of an overlapping subnet.
    """
    if present.address.version != wanted.version or present.scope == address.RT_SCOPE_LINK:
        return False
    if wanted.version == 4 and not several:
        return True
    return present.address.overlaps(wanted)


def _forwards(carrier: Link, version: int) -> bool:
    return sysctl.get(*_forwarding_of(carrier, version)) == "1"


def _switch_on(host: Socket, carrier: Link, version: int) -> None:
    from cnm_core.kernel import forwarding

    forwarding.switch_on(host, version)
    if not _forwards(carrier, version):
        sysctl.set_to("1", *_forwarding_of(carrier, version))


def _forwarding_of(carrier: Link, version: int) -> tuple[str, ...]:
    """What decides about packets that a link receives; of IPv6 it is one for all links."""
    if version == 4:
        return ("net", "ipv4", "conf", carrier.name, "forwarding")
    return ("net", "ipv6", "conf", "all", "forwarding")
