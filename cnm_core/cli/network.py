"""`cnm network`: its commands, and the listing of networks."""

from collections.abc import Iterator
from typing import Any

import click

from cnm_core.cli import output
from cnm_core.cli.conflists import DEFAULT_DIRECTORY, Conflist, Directory
from cnm_core.cli.main import LazyGroup

directory_option = click.option(
    "--conf-dir",
    "directory",
    envvar="CNI_CONF_DIR",
    default=DEFAULT_DIRECTORY,
    show_default=True,
    show_envvar=True,
    type=Directory,
    metavar="DIR",
    help="Where networks are files.",
)
SHORT_ID = 12


@click.command(
    cls=LazyGroup,
    places={
        "create": "cnm_core.cli.create:create",
        "ls": "cnm_core.cli.network:list_networks",
        "inspect": "cnm_core.cli.inspect:inspect",
        "connect": "cnm_core.cli.connect:connect",
        "disconnect": "cnm_core.cli.connect:disconnect",
        "rm": "cnm_core.cli.remove:rm",
        "prune": "cnm_core.cli.remove:prune",
        "validate": "cnm_core.cli.validate:validate",
    },
)
def network() -> None:
    """Networks: files of /etc/cni/net.d that runtimes take, and what the kernel has for them."""


@click.command("ls")
@directory_option
@output.format_option
@output.quiet_option
@click.option(
    "-f",
    "--filter",
    "filters",
    multiple=True,
    metavar="KEY=VALUE",
    help="driver=TYPE, name=PART or label=KEY[=VALUE]; of one key any, of labels and keys all.",
)
def list_networks(directory: Directory, form: str, quiet: bool, filters: tuple[str, ...]) -> None:
    """List networks, also those of other tools."""
    wanted = _parse_filters(filters)
    networks, damaged = directory.read()
    found = [each for each in networks if _passes(each, wanted)]
    if quiet:
        for each in found:
            click.echo(each.id[:SHORT_ID])
    elif form == "json":
        output.print_lines(map(_summary, found))
    else:
        output.print_table(
            ("NETWORK ID", "NAME", "DRIVER", "SCOPE", "SUBNETS", "MADE BY"), map(_row, found)
        )
    for file in damaged:
        output.warn(f"{file.path} is left out: {file.problem}")


def _row(network: Conflist) -> tuple[str, ...]:
    subnets = ",".join(network.subnets) or "-"
    owner = network.owner or "-"
    return network.id[:SHORT_ID], network.name, network.driver, network.scope, subnets, owner


def _summary(network: Conflist) -> dict[str, Any]:
    """The fields of `docker network ls --format json`, and subnets and maker."""
    return {
        "CreatedAt": network.created,
        "Driver": network.driver,
        "ID": network.id[:SHORT_ID],
        "IPv4": _word(network.has_version(4)),
        "IPv6": _word(network.has_version(6)),
        "Internal": _word(network.internal),
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(network.labels.items())),
        "Name": network.name,
        "Scope": network.scope,
        "Subnets": list(network.subnets),
        "MadeBy": network.owner,
    }


def _word(value: bool) -> str:
    return "true" if value else "false"


def _parse_filters(filters: tuple[str, ...]) -> dict[str, list[str]]:
    """The values for each key. Raises click.BadParameter."""
    wanted: dict[str, list[str]] = {}
    for each in filters:
        key, equals, value = each.partition("=")
        if key not in ("driver", "name", "label") or not equals or not value:
            raise click.BadParameter(
                f'"{each}" is not driver=TYPE, name=PART or label=KEY[=VALUE]',
                param_hint="--filter",
            )
        wanted.setdefault(key, []).append(value)
    return wanted


def _passes(network: Conflist, wanted: dict[str, list[str]]) -> bool:
    return all(_checks(network, wanted))


def _checks(network: Conflist, wanted: dict[str, list[str]]) -> Iterator[bool]:
    if "driver" in wanted:
        yield network.driver in wanted["driver"]
    if "name" in wanted:
        yield any(part in network.name for part in wanted["name"])
    for label in wanted.get("label", ()):
        key, equals, value = label.partition("=")
        yield key in network.labels and (not equals or network.labels[key] == value)
