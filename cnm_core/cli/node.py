"""`cnm node`: the hosts of the cluster."""

import json
from dataclasses import dataclass
from pathlib import Path

import click

from cnm_core.cli import output
from cnm_core.cli.agent_config import agent_option, network_keys
from cnm_core.cli.main import NOT_FOUND, Failure
from cnm_core.config.overlay import OverlayConfig, overlay_config
from cnm_core.drivers.tunnel import Tunnel
from cnm_core.drivers.tunnel_esp import EspTunnel
from cnm_core.inet import format_ip
from cnm_core.kernel.netlink import Socket
from cnm_core.store.cluster import Cluster
from cnm_core.store.membership import open_membership
from cnm_core.store.tunnels import encode_key


@dataclass(frozen=True)
class Node:
    """A host; `vtep` is "" for one that is no member any more and still has something."""

    name: str
    vtep: str
    alive: bool
    endpoints: int
    blocks: int


@click.group()
def node() -> None:
    """Hosts of the cluster that overlay networks are in."""


@node.command("ls")
@agent_option
@output.format_option
def list_nodes(agent_file: Path, form: str) -> None:
    """List hosts: their VTEPs, whether their agents are alive, and how many endpoints they have."""
    found = _nodes(_cluster(agent_file))
    if form == "json":
        output.print_lines(
            {
                "Name": each.name,
                "VTEP": each.vtep,
                "Alive": each.alive,
                "Endpoints": each.endpoints,
            }
            for each in found
        )
    else:
        output.print_table(
            ("NAME", "VTEP", "ALIVE", "ENDPOINTS"),
            [
                (each.name, each.vtep or "-", "yes" if each.alive else "no", str(each.endpoints))
                for each in found
            ],
        )


@node.command("fence")
@agent_option
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.argument("name", metavar="NODE")
def fence(agent_file: Path, name: str, force: bool) -> None:
    """Let a host go for good: its endpoints, addresses and blocks become free for others.

    Only for one that does not run any more: what its containers still do would clash with
    those that get their addresses.
    """
    cluster = _cluster(agent_file)
    found = next((each for each in _nodes(cluster) if each.name == name), None)
    if found is None:
        raise Failure(f'there is no node "{name}"', advice="see cnm node ls", code=NOT_FOUND)
    if not force:
        alive = ", and its agent is alive" if found.alive else ""
        click.echo(
            f"Node {name} has {found.endpoints} endpoints and {found.blocks} blocks of "
            f"addresses{alive}. Others may have them then.",
            err=True,
        )
        click.confirm("Are you sure that it is gone for good?", abort=True, err=True)
    cluster.fence(name)
    click.echo(name)


@node.command("rotate-key")
@agent_option
def rotate_key(agent_file: Path) -> None:
    """Give this host another key for encrypted networks, and print its public key.

    The agents of the other hosts learn it at once, and traffic goes on. A host without an
    agent has nothing from here until its next container. Where there are networks by WireGuard
    and by ESP the host has a key for either, which are printed in that order.
    """
    options = _options(agent_file)
    membership = open_membership(options, output.passed_over, json.loads)
    found = False
    for kind in (Tunnel, EspTunnel):
        if key := kind(Socket(), options, membership).rotate():
            found = True
            click.echo(encode_key(key))
    if not found:
        output.warn("there is no encrypted network on this host; the next one has a new key")


def _options(agent_file: Path) -> OverlayConfig:
    return overlay_config({**network_keys(agent_file), "subnets": []})


def _cluster(agent_file: Path) -> Cluster:
    cluster = open_membership(_options(agent_file), output.passed_over, json.loads).cluster
    cluster.check_schema()
    return cluster


def _nodes(cluster: Cluster) -> list[Node]:
    """The members, and whoever a fence that was killed has left something of."""
    members = {each.node: format_ip(each.vtep) for each in cluster.members()}
    alive = cluster.alive()
    names = [each.name for each in cluster.networks()]
    endpoints = [each.node for each in cluster.endpoints()]
    blocks = [each.node for name in names for each in cluster.claims(name)]
    return [
        Node(name, members.get(name, ""), name in alive, endpoints.count(name), blocks.count(name))
        for name in sorted({*members, *endpoints, *blocks})
    ]
