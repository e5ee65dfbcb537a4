"""The drivers that networks can be made with."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cnm_core.cli.main import Failure
from cnm_core.cni.pools import directory_or
from cnm_core.config.network import NetworkConfig
from cnm_core.model import Network, Pool

if TYPE_CHECKING:
    from cnm_core.controller import Driver


# A driver's class, by the name of the plugin that runtimes call.
DRIVERS = {
    "bridge": "cnm_core.drivers.bridge:Bridge",
    "macvlan": "cnm_core.drivers.macvlan:Macvlan",
    "ipvlan": "cnm_core.drivers.ipvlan:Ipvlan",
    "overlay": "cnm_core.drivers.overlay:Overlay",
    "host": "cnm_core.drivers.host:Host",
    "none": "cnm_core.drivers.none:Isolated",
}
DEFAULT_STATE = NetworkConfig("default").state_dir


def open_network(name: str, config: dict[str, Any]) -> "tuple[Driver, Network]":
    """The driver that serves a plugin object, and the network as the driver sees it.

    Raises Failure for a plugin that is not ours, InvalidNetworkConfig for keys that are wrong.
    """
    place = DRIVERS.get(config["type"])
    if place is None:
        raise Failure(
            f'network "{name}" is made by a plugin "{config["type"]}", not by a driver of cnm',
            advice=f"the drivers are {', '.join(DRIVERS)}",
        )
    module, _, attribute = place.partition(":")
    driver = getattr(import_module(module), attribute)
    ipam = config.get("ipam") or {}
    pool = Pool(str(ipam.get("type", "")))
    return driver(), Network(name, pool, driver.options(config), state_dir(config))


def state_dir(config: dict[str, Any]) -> str:
    """Where the records of a network's endpoints live, by its plugin object."""
    return directory_or(config.get("stateDir"), DEFAULT_STATE)
