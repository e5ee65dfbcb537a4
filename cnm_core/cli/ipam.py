"""`cnm ipam`: pools and the addresses in use, of host-local and of overlays."""

import click

from cnm_core.cli import endpoints, output, overlays, pool_use
from cnm_core.cli.conflists import Conflist, Directory
from cnm_core.cli.main import IN_THE_WAY, NOT_FOUND, Failure
from cnm_core.cli.network import directory_option
from cnm_core.inet import format_ip, parse_ip
from cnm_core.store.allocations import Allocations


@click.group()
def ipam() -> None:
    """Addresses that host-local has given, by us or by the Go plugin."""


@ipam.command("ls")
@directory_option
@output.format_option
@click.argument("network", required=False)
def list_pools(directory: Directory, form: str, network: str | None) -> None:
    """List pools with their use; of one NETWORK the addresses in use, and who has them."""
    if network is not None:
        _list_addresses(directory.find(network), form)
        return
    networks, _ = directory.read()
    rows = [(each, pool) for each in networks for pool in _pools_of(each)]
    if form == "json":
        output.print_lines(
            {
                "Network": each.name,
                "Subnet": pool.subnet,
                "IPsInUse": pool.in_use,
                "DynamicIPsAvailable": pool.available,
            }
            for each, pool in rows
        )
    else:
        output.print_table(
            ("NETWORK", "SUBNET", "IN USE", "AVAILABLE"),
            [
                (each.name, pool.subnet, str(pool.in_use), str(pool.available))
                for each, pool in rows
            ],
        )


def _pools_of(network: Conflist) -> list[pool_use.PoolUse]:
    return overlays.look(network).pools() if network.is_overlay else pool_use.pools_of(network)


@ipam.command("release")
@directory_option
@click.option("-f", "--force", is_flag=True, help="Also what a running sandbox has.")
@click.argument("network")
@click.argument("address")
def release(directory: Directory, network: str, address: str, force: bool) -> None:
    """Free an address of NETWORK whose container is gone, and its owner's others with it."""
    of_network = directory.find(network)
    try:
        ip = parse_ip(address)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="ADDRESS") from None
    if not pool_use.is_host_local(of_network):
        raise Failure(
            f'network "{of_network.name}" has its addresses from another IPAM driver',
            advice="release them there",
        )
    allocations = Allocations(pool_use.data_dir(of_network), of_network.name)
    freed = _free(allocations, ip, of_network, force=force) if allocations.exists() else []
    if not freed:
        raise Failure(
            f'{address} is not in use on network "{of_network.name}"',
            advice=f"see cnm ipam ls {of_network.name}",
            code=NOT_FOUND,
        )
    for each in freed:
        click.echo(format_ip(each))


def _free(allocations: Allocations, ip: bytes, network: Conflist, *, force: bool) -> list[bytes]:
    """What was freed; none where nobody has the address."""
    with allocations:
        owner = allocations.owner_of(ip)
        if owner is None:
            return []
        if not owner.container_id:
            allocations.release_ownerless(ip)
            return [ip]
        alive = any(
            each.is_alive
            for each in endpoints.of_network(network)
            if each.key.container_id == owner.container_id and owner.ifname in ("", each.key.ifname)
        )
        if alive and not force:
            raise Failure(
                f"{format_ip(ip)} is that of {owner}, whose sandbox is there",
                advice="disconnect it, or have -f free the address all the same",
                code=IN_THE_WAY,
            )
        return allocations.release(owner)


def _list_addresses(network: Conflist, form: str) -> None:
    found = pool_use.allocated(pool_use.data_dir(network), network.name)
    if form == "json":
        output.print_lines(
            {
                "Network": network.name,
                "Address": each.address,
                "Container": each.owner.container_id,
                "Interface": each.owner.ifname,
            }
            for each in found
        )
    else:
        output.print_table(
            ("ADDRESS", "CONTAINER", "INTERFACE"),
            [
                (each.address, each.owner.container_id or "-", each.owner.ifname or "-")
                for each in found
            ],
        )
