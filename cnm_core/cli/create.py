"""`cnm network create`: a network's file, made of options that Docker has too."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel

from cnm_core.cli import create_overlay, drivers, options, output, overlay_file, pools
from cnm_core.cli.agent_config import agent_option
from cnm_core.cli.conflists import OURS, Conflist, Directory, exists, timestamp
from cnm_core.cli.main import IN_THE_WAY, INVALID, Failure
from cnm_core.cli.network import directory_option
from cnm_core.cli.plugins import find_executable, path_option
from cnm_core.cli.subnets import Subnet, check_subnet, first_address, sort_out
from cnm_core.cli.wanted import DHCP, HOST_LOCAL, NONE, SINGLE, STATIC, Wanted
from cnm_core.cni.pools import REMOTE
from cnm_core.config import formats
from cnm_core.ipam import docker_plugin
from cnm_core.model import EndpointOptions
from cnm_core.schema import conflist
from cnm_core.schema.plugins import PLUGINS

# containerd 1.6 and podman 4 refuse results of 1.1.0.
CNI_VERSION = "1.0.0"
_IPAM_NAMES = {"default": HOST_LOCAL, "null": NONE}
# Their subnets are those of a network outside, which the host itself may be part of.
_OUTSIDE = ("macvlan", "ipvlan")
# A file's name has 255 bytes: 90-NAME.conflist, and what is written before a rename.
_NAME_LIMIT = 230
_DEFAULT_ROUTES = {4: "0.0.0.0/0", 6: "::/0"}


@click.command("create")
@directory_option
@path_option
@click.option(
    "-d",
    "--driver",
    default="bridge",
    show_default=True,
    type=click.Choice(list(drivers.DRIVERS)),
    help="What makes the containers' interfaces.",
)
@click.option(
    "--subnet", "subnets", multiple=True, metavar="CIDR", help="A subnet; 0.0.0.0/24 for any /24."
)
@click.option(
    "--ip-range",
    "ip_ranges",
    multiple=True,
    metavar="CIDR",
    help="The part of a subnet that containers get addresses of.",
)
@click.option(
    "--gateway",
    "gateways",
    multiple=True,
    metavar="IP",
    help="The gateway of a subnet; its first address when left out.",
)
@click.option(
    "--aux-address",
    "aux_addresses",
    multiple=True,
    metavar="NAME=IP",
    callback=options.pairs,
    help="An address that something else has; no container gets it.",
)
@click.option(
    "--ipv4/--no-ipv4", default=True, help="A subnet of IPv4 where none is given (default)."
)
@click.option("--ipv6", is_flag=True, help="A subnet of IPv6 where none is given.")
@click.option("--internal", is_flag=True, help="No way in or out.")
@click.option(
    "--ipam-driver",
    default="default",
    show_default=True,
    metavar="NAME",
    help="Who gives addresses: default (host-local), static, none, or a plugin's name.",
)
@click.option(
    "--ipam-opt",
    "ipam_options",
    multiple=True,
    metavar="KEY=VALUE",
    callback=options.pairs,
    help="A key of the IPAM driver's configuration.",
)
@click.option(
    "-o",
    "--opt",
    "driver_options",
    multiple=True,
    metavar="KEY=VALUE",
    callback=options.pairs,
    help="An option by Docker's name, or a key of the driver's configuration.",
)
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="KEY[=VALUE]",
    callback=options.pairs,
    help="A label.",
)
@click.option("--mtu", help="MTU of the interfaces.")
@click.option("--encrypted", is_flag=True, help="Encrypt what goes between hosts (overlay).")
@click.option(
    "--pools",
    "pools_file",
    type=click.Path(path_type=Path),
    default=pools.DEFAULT_FILE,
    show_default=True,
    envvar="CNM_POOLS",
    show_envvar=True,
    help="Where default pools are said.",
)
@agent_option
@click.argument("name")
def create(
    directory: Directory,
    path: tuple[str, ...],
    name: str,
    driver: str,
    driver_options: dict[str, str],
    mtu: str | None,
    encrypted: bool,
    pools_file: Path,
    agent_file: Path,
    ipam_driver: str,
    **given: Any,
) -> None:
    """Make a network and print its ID.

    The network is a file that runtimes take as it is; the kernel has nothing of it before
    the first container. An overlay is made known to the cluster as well; one that the cluster
    has already gets its file on this host.
    """
    _check_name(name)
    if mtu is not None:
        driver_options = {**driver_options, "mtu": mtu}
    if encrypted:
        driver_options = {**driver_options, "encrypted": "true"}
    ipam_driver = _IPAM_NAMES.get(ipam_driver, ipam_driver)
    wanted = Wanted(
        name=name,
        driver=driver,
        options=driver_options,
        ipam_driver=ipam_driver,
        is_remote=_is_remote(ipam_driver, path),
        **given,
    )
    with directory:
        networks, _ = directory.read()
        _refuse_taken(wanted, networks, directory)
        if wanted.driver == "overlay":
            plugin = create_overlay.plugin(wanted, networks, agent_file, pools_file)
        else:
            plugin = _plugin(wanted, _subnets(wanted, networks, pools_file))
        document = _document(wanted, plugin)
        _validate(document, networks)
        if wanted.driver == "overlay":
            directory.write(create_overlay.register(document), overlay_file.MODE)
        else:
            directory.write(document)
    click.echo(wanted.id)
    for missing in _missing(document["plugins"][0], path):
        output.warn(
            f'there is no executable "{missing}" in {":".join(path)}; '
            "put it where the runtime looks for plugins, or say --cni-path"
        )


def _is_remote(ipam_driver: str, path: tuple[str, ...]) -> bool:
    """Whether a plugin of Docker's is meant; one of CNI_PATH with that name comes first."""
    if ipam_driver in (HOST_LOCAL, STATIC, DHCP, NONE) or find_executable(ipam_driver, path):
        return False
    return "/" not in ipam_driver and docker_plugin.find(ipam_driver) is not None


def _check_name(name: str) -> None:
    try:
        formats.name(name)
        if len(name) > _NAME_LIMIT:
            raise ValueError(f"must be at most {_NAME_LIMIT} characters long, got {len(name)}")
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="NAME") from None


def _refuse_taken(wanted: Wanted, networks: list[Conflist], directory: Directory) -> None:
    for each in networks:
        if each.name == wanted.name:
            raise exists(each.name, each.path)
        if each.driver == wanted.driver and wanted.driver in SINGLE:
            raise Failure(
                f'only one instance of "{wanted.driver}" network is allowed, '
                f'and there is "{each.name}" ({each.path})',
                advice="use that one",
                code=IN_THE_WAY,
            )


def _subnets(wanted: Wanted, networks: list[Conflist], pools_file: Path) -> list[Subnet]:
    """The subnets that are asked for, and those that default pools give."""
    _refuse_needless(wanted)
    for text in wanted.subnets:
        check_subnet(text)
    found = pools.settle(
        [*wanted.subnets, *wanted.any_subnets(wanted.subnets)],
        pools_file,
        pools.in_use_by_networks(networks),
        bridge=str(wanted.keys().get("bridge", "")),
        outside=wanted.driver in _OUTSIDE,
    )
    sorted_out = sort_out(found, wanted.ip_ranges, wanted.gateways, wanted.aux_addresses)
    if wanted.driver == "bridge" and not wanted.is_remote:
        for each in sorted_out:
            each.gateway = each.gateway or first_address(each.subnet)
    return sorted_out


def _refuse_needless(wanted: Wanted) -> None:
    """Refuse what says addresses where there are none, or none that we give."""
    if wanted.driver in SINGLE:
        who = f"the {wanted.driver} driver"
    elif wanted.ipam_driver in (NONE, STATIC, DHCP):
        who = f"the IPAM driver {wanted.ipam_driver}"
    else:
        return
    for option, given in (
        ("--subnet", wanted.subnets),
        ("--ip-range", wanted.ip_ranges),
        ("--gateway", wanted.gateways),
        ("--aux-address", wanted.aux_addresses),
        ("--ipv6", wanted.ipv6),
        ("--internal", wanted.internal and wanted.driver in SINGLE),
    ):
        if given:
            raise Failure(f"{option}: {who} takes no such option", advice=f"leave {option} out")


def _document(wanted: Wanted, plugin: dict[str, Any]) -> dict[str, Any]:
    """The file: the plugin that runtimes call, and beside it what only we know."""
    about = {
        "created": timestamp(datetime.now(UTC)),
        "internal": wanted.internal,
        "labels": wanted.labels,
        "options": wanted.options,
        "ipamOptions": wanted.ipam_options,
    }
    return {
        "cniVersion": CNI_VERSION,
        "name": wanted.name,
        OURS: {key: value for key, value in about.items() if value},
        "plugins": [plugin],
    }


def _plugin(wanted: Wanted, subnets: Sequence[Subnet]) -> dict[str, Any]:
    plugin: dict[str, Any] = {"type": wanted.driver}
    if wanted.driver in SINGLE:
        return plugin | wanted.keys()
    addressed = wanted.ipam_driver != NONE
    if wanted.driver == "bridge":
        plugin |= _bridge(wanted, addressed=addressed)
    capabilities = ["mac"] if wanted.driver != "ipvlan" else []
    if addressed:
        capabilities.append("ips")
    if wanted.driver == "bridge" and addressed and not wanted.internal:
        capabilities.append("portMappings")
    plugin |= wanted.keys()
    if wanted.internal:
        plugin["internal"] = True
    if capabilities:
        plugin["capabilities"] = dict.fromkeys(sorted(capabilities), True)
    if addressed:
        plugin["ipam"] = _ipam(wanted, subnets)
    return plugin


def _bridge(wanted: Wanted, *, addressed: bool) -> dict[str, Any]:
    """What Docker's bridge networks are unless told otherwise: a way out, by the host's address."""
    plugin: dict[str, Any] = {"bridge": f"br-{wanted.id[:12]}"}
    if addressed and wanted.internal:
        plugin["isGateway"] = True
    elif addressed:
        # podman takes a network without isGateway for an internal one.
        plugin |= {"isGateway": True, "isDefaultGateway": True, "ipMasq": True}
    return plugin


def _ipam(wanted: Wanted, subnets: Sequence[Subnet]) -> dict[str, Any]:
    """The `ipam` object, in host-local's words, which most IPAM plugins share."""
    if wanted.is_remote:
        return _remote_ipam(wanted, subnets)
    kind = wanted.ipam_driver
    ipam: dict[str, Any] = {"type": kind}
    versions = sorted({each.version for each in subnets})
    if subnets:
        ipam["ranges"] = [
            [each.members() for each in subnets if each.version == version] for version in versions
        ]
    if wanted.driver in _OUTSIDE and not wanted.internal:
        routed = [each.version for each in subnets if each.gateway]
        if routed:
            ipam["routes"] = [{"dst": _DEFAULT_ROUTES[version]} for version in sorted(set(routed))]
    model = PLUGINS[kind].ipam if kind in PLUGINS else None
    for key, text in wanted.ipam_options.items():
        if model and key not in model.model_fields:
            raise Failure(
                f"--ipam-opt {key}={text}: the IPAM driver {kind} has no such option",
                advice=f"its options are {', '.join(model.model_fields)}",
            )
        ipam[key] = options.value(text, model or BaseModel, key)
    return ipam


def _remote_ipam(wanted: Wanted, subnets: Sequence[Subnet]) -> dict[str, Any]:
    """The `ipam` object for an IPAM driver that was written for Docker."""
    for each in subnets:
        if each.aux_addresses:
            raise Failure(
                f"--aux-address: the IPAM driver {wanted.ipam_driver} cannot be told of one",
                advice="leave --aux-address out",
            )
    members: dict[str, Any] = {
        "pools": [each.members() for each in subnets],
        "ipv6": wanted.ipv6,
        "options": wanted.ipam_options,
    }
    given = {key: value for key, value in members.items() if value}
    return {"type": REMOTE, "driver": wanted.ipam_driver, **given}


def _validate(document: dict[str, Any], networks: Sequence[Conflist]) -> None:
    """Refuse what the plugins would refuse, by their own models and checks."""
    problems = [
        f"{each.pointer.removeprefix('/plugins/0/')}: {each.message}"
        for each in conflist.Conflist(json.dumps(document).encode()).problems
        if each.severity == conflist.ERROR
    ]
    if problems:
        raise Failure("; ".join(problems), advice="nothing was made", code=INVALID)
    plugin = document["plugins"][0]
    driver, network = drivers.open_network(document["name"], plugin)
    driver.validate(network, EndpointOptions())
    if plugin["type"] == "bridge":
        _refuse_second_bridge(plugin, networks)


def _refuse_second_bridge(plugin: dict[str, Any], networks: Sequence[Conflist]) -> None:
    """One bridge has one subnet of each version, and one network."""
    for alternatives in plugin.get("ipam", {}).get("ranges", ()):
        if len(alternatives) > 1:
            subnets = ", ".join(each["subnet"] for each in alternatives)
            raise Failure(
                f"bridge driver does not support multiple subnets of one IP version: {subnets}",
                advice="make a network for each",
            )
    for each in networks:
        if each.driver == "bridge" and each.driver_config.get("bridge") == plugin["bridge"]:
            raise Failure(
                f'bridge {plugin["bridge"]} is that of network "{each.name}" ({each.path})',
                advice="choose another com.docker.network.bridge.name",
                code=IN_THE_WAY,
            )


def _missing(plugin: dict[str, Any], path: tuple[str, ...]) -> list[str]:
    """The executables of a network that are not where we look for plugins."""
    builtin = (HOST_LOCAL, STATIC, REMOTE)
    names = [plugin["type"], plugin.get("ipam", {}).get("type", HOST_LOCAL)]
    return [name for name in names if name not in builtin and find_executable(name, path) is None]
