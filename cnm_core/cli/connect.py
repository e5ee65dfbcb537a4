"""`cnm network connect` and `disconnect`: endpoints for sandboxes that run already."""

import re
from typing import Any

import click

from cnm_core.cli import endpoints, output, plugins, sandboxes
from cnm_core.cli.conflists import Conflist, Directory
from cnm_core.cli.main import IN_THE_WAY, NOT_FOUND, Failure
from cnm_core.cli.network import directory_option
from cnm_core.cli.plugins import Attachment, path_option
from cnm_core.config import formats
from cnm_core.kernel import link
from cnm_core.kernel.netns import open_netns
from cnm_core.model import EndpointKey

_PORT = re.compile(
    r"(?:(?P<ip>[0-9.]+|\[[0-9a-fA-F:.]+\]):)?(?P<host>\d+):(?P<container>\d+)(?:/(?P<protocol>\w+))?"
)


@click.command("connect")
@directory_option
@path_option
@click.option(
    "--ip",
    "ips",
    multiple=True,
    metavar="IP",
    help="The address to have; one of each IP version at most.",
)
@click.option(
    "--ifname",
    metavar="NAME",
    help="The interface in the sandbox; the first free ethN when left out.",
)
@click.option(
    "-p",
    "--publish",
    "ports",
    multiple=True,
    metavar="[IP:]PORT:PORT[/PROTOCOL]",
    help="A port of the host that leads to one of the sandbox.",
)
@output.format_option
@click.argument("network")
@click.argument("sandbox")
def connect(
    directory: Directory,
    path: tuple[str, ...],
    network: str,
    sandbox: str,
    ips: tuple[str, ...],
    ifname: str | None,
    ports: tuple[str, ...],
    form: str,
) -> None:
    """Give a sandbox an interface on a network, and print its addresses.

    SANDBOX is the path of a network namespace, its name in /run/netns, or the ID of a
    container that runs under containerd, podman, CRI-O or Docker.
    """
    of_network = directory.find(network)
    named = sandboxes.resolve(sandbox)
    key = EndpointKey(named.container_id, _interface(named.netns, ifname))
    if any(each.key == key for each in endpoints.of_network(of_network)):
        raise Failure(
            f'{key} is connected to network "{of_network.name}" already',
            advice=f"cnm network disconnect {of_network.name} {sandbox}",
            code=IN_THE_WAY,
        )
    args, capabilities = _asked(of_network, ips, ports)
    result = plugins.add(of_network, Attachment(key, named.netns, args, capabilities), path)
    if form == "json":
        output.print_lines([result])
    else:
        click.echo(" ".join([key.ifname, *(each["address"] for each in result.get("ips", ()))]))


@click.command("disconnect")
@directory_option
@path_option
@click.option("--ifname", metavar="NAME", help="That interface only.")
@click.argument("network")
@click.argument("sandbox")
def disconnect(
    directory: Directory, path: tuple[str, ...], network: str, sandbox: str, ifname: str | None
) -> None:
    """Take the interfaces that a sandbox has on a network; the sandbox may be gone."""
    of_network = directory.find(network)
    found = [
        each
        for each in endpoints.of_network(of_network)
        if sandboxes.may_be(sandbox, each.key.container_id, each.netns)
        and ifname in (None, each.key.ifname)
    ]
    if not found:
        raise Failure(
            f'"{sandbox}" has no endpoint on network "{of_network.name}"',
            advice="see cnm endpoint ls",
            code=NOT_FOUND,
        )
    for each in found:
        plugins.delete(of_network, Attachment(each.key, each.netns), path)


def _interface(netns: str, ifname: str | None) -> str:
    """The name for the interface. Raises Failure where it is taken."""
    taken = {each.name for each in link.list_links(open_netns(netns).socket())}
    if ifname is None:
        return next(name for number in range(1 << 16) if (name := f"eth{number}") not in taken)
    try:
        formats.interface_name(ifname)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--ifname") from None
    if ifname in taken:
        raise Failure(
            f'interface "{ifname}" already exists in "{netns}"',
            advice="choose another --ifname, or leave it out",
            code=IN_THE_WAY,
        )
    return ifname


def _asked(
    network: Conflist, ips: tuple[str, ...], ports: tuple[str, ...]
) -> tuple[tuple[tuple[str, str], ...], dict[str, Any]]:
    """CNI_ARGS and capabilities for what is asked for."""
    args: tuple[tuple[str, str], ...] = ()
    capabilities: dict[str, Any] = {}
    for ip in ips:
        try:
            formats.requested(ip)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--ip") from None
    if ips and network.declares("ips"):
        capabilities["ips"] = list(ips)
    elif ips:
        args = (("IgnoreUnknown", "1"), ("IP", ",".join(ips)))
    if ports and not network.declares("portMappings"):
        raise Failure(
            f'network "{network.name}" publishes no ports: no plugin of it takes portMappings',
            advice="leave out -p",
        )
    if ports:
        capabilities["portMappings"] = [_mapping(each) for each in ports]
    return args, capabilities


def _mapping(text: str) -> dict[str, Any]:
    """An entry of portMappings (CNI conventions)."""
    found = _PORT.fullmatch(text)
    if found is None:
        raise click.BadParameter(
            f'must be [IP:]PORT:PORT[/PROTOCOL] as in 127.0.0.1:8080:80/tcp, got "{text}"',
            param_hint="--publish",
        )
    mapping: dict[str, Any] = {
        "hostPort": int(found["host"]),
        "containerPort": int(found["container"]),
        "protocol": found["protocol"] or "tcp",
    }
    if found["ip"]:
        mapping["hostIP"] = found["ip"].strip("[]")
    return mapping
