"""`cnm network create --driver overlay`: a network of the cluster, and its file on this host.

What the cluster has of that name already is taken over where the command line says nothing,
so that on further hosts the name is enough.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from netaddr import IPNetwork

from cnm_core.cli import output, overlay_file, pools
from cnm_core.cli.agent_config import network_keys
from cnm_core.cli.conflists import OURS, Conflist
from cnm_core.cli.main import IN_THE_WAY, INVALID, Failure
from cnm_core.cli.subnets import check_subnet, first_address, sort_out
from cnm_core.cli.wanted import HOST_LOCAL, Wanted
from cnm_core.config.overlay import OverlayConfig, overlay_config
from cnm_core.drivers.overlay import bridge_name
from cnm_core.errors import InvalidNetworkConfig
from cnm_core.inet import format_ip
from cnm_core.ipam import cluster
from cnm_core.store.entries import SharedNetwork
from cnm_core.store.membership import open_membership


def plugin(
    wanted: Wanted, networks: Sequence[Conflist], agent_file: Path, pools_file: Path
) -> dict[str, Any]:
    """The plugin object: given keys, this host's, and the rest as the cluster has it.

    Raises Failure and Unreachable.
    """
    _refuse_needless(wanted)
    keys = network_keys(agent_file) | wanted.keys()
    if wanted.internal:
        keys["internal"] = True
    options = _decoded({**keys, "subnets": []})
    shared = open_membership(options, output.passed_over, json.loads).cluster
    shared.check_schema()
    others = {each.name: each for each in shared.networks()}
    present = others.pop(wanted.name, None)
    if present is not None:
        keys = overlay_file.taken_over(present) | keys
    used = pools.in_use_by_networks(networks) + _in_use(list(others.values()))
    return overlay_file.plugin(keys, _subnets(wanted, present, used, pools_file))


def register(document: dict[str, Any]) -> dict[str, Any]:
    """The file with VNI, port and MTU, once the network is the cluster's.

    From then on other hosts' agents have one, too. Raises Failure where the cluster refuses
    it, and Unreachable.
    """
    name, of = document["name"], document["plugins"][0]
    options = _decoded(of)
    membership = open_membership(options, output.passed_over, json.loads)
    try:
        made = membership.look(*cluster.wanted(name, options, membership.node)).network
    except InvalidNetworkConfig as error:
        raise Failure(error.msg, advice=error.details, code=IN_THE_WAY) from None
    membership.cluster.share_conflist(made, overlay_file.shared_part(document))
    found = of | {"vni": made.vni, "port": made.port, "mtu": made.mtu}
    ours = document[OURS] | {overlay_file.CLUSTER: overlay_file.cluster_of(of)}
    return document | {OURS: ours, "plugins": [found]}


def _decoded(document: dict[str, Any]) -> OverlayConfig:
    try:
        return overlay_config(document)
    except InvalidNetworkConfig as error:
        advice = error.details or "nothing was made"
        raise Failure(error.msg, advice=advice, code=INVALID) from None


def _refuse_needless(wanted: Wanted) -> None:
    for option, given in (
        ("--ipam-driver", wanted.ipam_driver != HOST_LOCAL),
        ("--ipam-opt", wanted.ipam_options),
        ("--ip-range", wanted.ip_ranges),
        ("--aux-address", wanted.aux_addresses),
    ):
        if given:
            raise Failure(
                f"{option}: the overlay driver takes no such option",
                advice=f"leave {option} out: hosts share the addresses of the whole subnet",
            )


def _in_use(networks: Sequence[SharedNetwork]) -> list[pools.Use]:
    return [
        pools.Use(
            IPNetwork(str(each.address)),
            f'{each.address} of network "{network.name}" in the cluster',
        )
        for network in networks
        for each in network.subnets
    ]


def _subnets(
    wanted: Wanted, present: SharedNetwork | None, used: list[pools.Use], pools_file: Path
) -> list[dict[str, Any]]:
    """The subnets with their gateways, in the cluster's order."""
    of_cluster = present.subnets if present else ()
    known = {str(each.address): format_ip(each.gateway) for each in of_cluster}
    given = wanted.subnets
    if not given:
        given = tuple(each for each in known if wanted.ipv4 or ":" in each)
    for text in given:
        check_subnet(text)
    bridge = bridge_name(present) if present else ""
    texts = [*given, *wanted.any_subnets(given)]
    found = sort_out(pools.settle(texts, pools_file, used, bridge=bridge), (), wanted.gateways, {})
    order = list(known)
    found.sort(key=lambda each: order.index(each.subnet) if each.subnet in known else len(order))
    for each in found:
        each.gateway = each.gateway or known.get(each.subnet) or first_address(each.subnet)
    return [each.members() for each in found]
