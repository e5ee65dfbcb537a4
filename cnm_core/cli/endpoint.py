"""`cnm endpoint`: who is attached to which network."""

from typing import Any

import click

from cnm_core.cli import endpoints, output
from cnm_core.cli.conflists import Directory
from cnm_core.cli.drivers import DEFAULT_STATE
from cnm_core.cli.endpoints import Attached
from cnm_core.cli.network import directory_option


@click.group()
def endpoint() -> None:
    """Endpoints: interfaces of sandboxes on networks."""


@endpoint.command("ls")
@directory_option
@output.format_option
@output.quiet_option
@click.option("--network", "only", metavar="NETWORK", help="Of that network only.")
def list_endpoints(directory: Directory, form: str, quiet: bool, only: str | None) -> None:
    """List endpoints, also those whose sandbox is gone or whose network has no file any more."""
    found = _all(directory, only)
    if quiet:
        for each in found:
            click.echo(str(each.key))
    elif form == "json":
        output.print_lines(map(_summary, found))
    else:
        output.print_table(
            ("NETWORK", "CONTAINER", "INTERFACE", "ADDRESSES", "PORTS", "SANDBOX"),
            map(_row, found),
        )
    for each in found:
        if each.damaged:
            output.warn(each.damaged)


def _all(directory: Directory, only: str | None) -> list[Attached]:
    if only is not None:
        return endpoints.of_network(directory.find(only))
    networks, _ = directory.read()
    names = {each.name for each in networks}
    found = [each for network in networks for each in endpoints.of_network(network)]
    for name in endpoints.recorded_networks(DEFAULT_STATE):
        if name not in names:
            found += endpoints.recorded(DEFAULT_STATE, name)
    return found


def _row(each: Attached) -> tuple[str, ...]:
    sandbox = each.netns if each.is_alive else f"{each.netns} (gone)".strip()
    return (
        each.network,
        each.key.container_id,
        each.key.ifname,
        ",".join(each.addresses) or "-",
        ",".join(each.ports) or "-",
        sandbox,
    )


def _summary(each: Attached) -> dict[str, Any]:
    return {
        "ID": each.id,
        "Network": each.network,
        "Container": each.key.container_id,
        "Interface": each.key.ifname,
        "Sandbox": each.netns,
        "SandboxAlive": each.is_alive,
        "MacAddress": each.mac,
        "Addresses": list(each.addresses),
        "HostLink": each.host_link,
        "Ports": list(each.ports),
    }
