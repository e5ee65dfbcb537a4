"""Keys that are right each by itself and that the executables refuse together."""

from collections.abc import Callable, Iterator
from typing import Any

from cnm_core.cni.portmap_plugin import refuse_foreign
from cnm_core.config.bridge import bridge_config
from cnm_core.config.host_local import host_local_config
from cnm_core.config.ipvlan import ipvlan_config
from cnm_core.config.macvlan import macvlan_config
from cnm_core.config.ports import portmap_config
from cnm_core.config.static import static_config
from cnm_core.drivers import bridge, bridge_vlans, parent
from cnm_core.inet import Address
from cnm_core.ipam.host_local import range_sets
from cnm_core.model import EndpointOptions, Lease


def refuse(plugin: dict[str, Any]) -> None:
    """Refuse what an ADD would, as far as the configuration alone tells.

    Each key of it is right by itself. Raises InvalidNetworkConfig, UnsupportedField.
    """
    check = _CHECKS.get(plugin["type"])
    if check is not None:
        check(plugin)


def _bridge(plugin: dict[str, Any]) -> None:
    options, ipam = bridge_config(plugin), plugin.get("ipam") or {}
    bridge.refuse_contradictions(options, ipam.get("type") or "")
    bridge_vlans.tagged(options)
    if bridge.is_gateway(options):
        for lease in _known_leases(ipam):
            bridge.with_gateway(lease)


def _known_leases(ipam: dict[str, Any]) -> Iterator[Lease]:
    """The addresses that are certain before anybody asks for one."""
    if ipam.get("type") == "static":
        for each in static_config(ipam, "ipam").addresses:
            yield Lease(each.address, each.gateway)
    if ipam.get("type") in ("host-local", "host-local-ipam"):
        for ranges in range_sets(host_local_config(ipam, "ipam")):
            for one in ranges:
                if one.subnet.ip == one.subnet.last:
                    yield Lease(Address(one.subnet.ip, one.subnet.prefix), one.gateway)


def _macvlan(plugin: dict[str, Any]) -> None:
    parent.refuse_contradictions(macvlan_config(plugin), EndpointOptions())


def _ipvlan(plugin: dict[str, Any]) -> None:
    parent.refuse_contradictions(ipvlan_config(plugin), EndpointOptions())


def _portmap(plugin: dict[str, Any]) -> None:
    refuse_foreign(portmap_config(plugin))


_CHECKS: dict[str, Callable[[dict[str, Any]], None]] = {
    "bridge": _bridge,
    "macvlan": _macvlan,
    "ipvlan": _ipvlan,
    "portmap": _portmap,
}
