"""`cnm network inspect`: all that is known of a network, in the shape that Docker has for it."""

import json
from typing import Any

import click

from cnm_core.cli import endpoints, overlays, pool_use
from cnm_core.cli.conflists import Conflist, Directory
from cnm_core.cli.endpoints import Attached
from cnm_core.cli.network import directory_option
from cnm_core.cli.overlays import Seen
from cnm_core.cni.pools import REMOTE

_IPAM_NAMES = {"host-local": "default", "": "null"}


@click.command("inspect")
@directory_option
@click.argument("names", metavar="NETWORK...", nargs=-1, required=True)
def inspect(directory: Directory, names: tuple[str, ...]) -> None:
    """Print networks as a JSON array: Docker's fields, the use of pools, the file, the kernel."""
    found = [_describe(directory.find(name)) for name in names]
    click.echo(json.dumps(found, indent=4, ensure_ascii=False))


def _describe(network: Conflist) -> dict[str, Any]:
    attached = endpoints.of_network(network)
    overlay = overlays.look(network) if network.is_overlay else None
    pools = overlay.pools() if overlay else pool_use.pools_of(network)
    names = [each.host_link for each in attached if each.host_link]
    return {
        "Name": network.name,
        "Id": network.id,
        "Created": network.created,
        "Scope": network.scope,
        "Driver": network.driver,
        "EnableIPv4": network.has_version(4),
        "EnableIPv6": network.has_version(6),
        "IPAM": _ipam(network),
        "Internal": network.internal,
        "Containers": _containers(attached),
        "Options": network.options,
        "Labels": network.labels,
        "Status": {
            "IPAM": {
                "Subnets": {
                    each.subnet: {
                        "IPsInUse": each.in_use,
                        "DynamicIPsAvailable": each.available,
                    }
                    for each in pools
                }
            }
        },
        **(_of_cluster(overlay) if overlay else {}),
        "MadeBy": network.owner,
        "Conflist": {"Path": str(network.path), "Content": network.document},
        "Kernel": {"Links": _links([*_shared(network, overlay), *names])},
    }


def _of_cluster(overlay: Seen) -> dict[str, Any]:
    known = overlay.network
    return {
        "VNI": known.vni if known else 0,
        "Encrypted": known.encrypted if known else False,
        "Peers": overlay.peers(),
    }


def _shared(network: Conflist, overlay: Seen | None) -> list[str]:
    """The names of the links that the network's endpoints share."""
    if overlay:
        return overlay.links
    config = network.driver_config
    return [config[key] for key in ("bridge", "master", "parent") if config.get(key)]


def _ipam(network: Conflist) -> dict[str, Any]:
    kind = "default" if network.is_overlay else str(network.ipam.get("type", ""))
    if kind == REMOTE:
        kind = str(network.ipam.get("driver", kind))
    return {
        "Driver": _IPAM_NAMES.get(kind, kind),
        "Options": network.ipam_options,
        "Config": [_pool(each) for each in network.ranges],
    }


def _pool(of: dict[str, Any]) -> dict[str, Any]:
    named = {
        "Subnet": of.get("subnet"),
        "IPRange": of.get("ipRange"),
        "Gateway": of.get("gateway"),
        "AuxiliaryAddresses": of.get("auxAddresses"),
    }
    return {key: value for key, value in named.items() if value}


def _containers(attached: list[Attached]) -> dict[str, Any]:
    """The endpoints by container ID; of a container's further ones with the interface name."""
    found: dict[str, Any] = {}
    for each in attached:
        key = each.key.container_id
        found[str(each.key) if key in found else key] = {
            "Name": each.key.container_id,
            "EndpointID": each.id,
            "MacAddress": each.mac,
            "IPv4Address": next((ip for ip in each.addresses if ":" not in ip), ""),
            "IPv6Address": next((ip for ip in each.addresses if ":" in ip), ""),
            "Interface": each.key.ifname,
            "Sandbox": each.netns,
            "HostLink": each.host_link,
            "Ports": list(each.ports),
        }
    return found


def _links(names: list[str]) -> list[dict[str, Any]]:
    """What the host's kernel has under the names of the network's links."""
    from pyroute2 import IPRoute

    with IPRoute() as host:
        indexes = {link.get("ifname"): link for link in host.get_links()}
        addresses = host.get_addr()
    present = {link["index"]: name for name, link in indexes.items()}
    found: list[dict[str, Any]] = []
    for name in dict.fromkeys(names):
        link = indexes.get(name)
        if link is None:
            found.append({"Name": name, "State": "missing"})
            continue
        info = link.get("linkinfo")
        of_link = [each for each in addresses if each["index"] == link["index"]]
        found.append(
            {
                "Name": name,
                "Kind": (info.get("kind") if info else None) or "",
                "State": str(link.get("operstate", "")).lower(),
                "MTU": link.get("mtu"),
                "MacAddress": link.get("address") or "",
                "Master": present.get(link.get("master"), ""),
                "Addresses": [f"{each.get('address')}/{each['prefixlen']}" for each in of_link],
            }
        )
    return found
