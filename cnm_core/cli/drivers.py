"""The drivers that networks can be made with: their classes, and the models of their keys."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from cnm_core.cli.main import Failure
from cnm_core.model import Network, Pool

if TYPE_CHECKING:
    from pydantic import BaseModel

    from cnm_core.controller import Driver


class Kind(NamedTuple):
    """A driver's class and its configuration's model, each as "module:name"."""

    driver: str
    model: str


# By the names of the plugins that runtimes call.
DRIVERS = {
    "bridge": Kind("cnm_core.drivers.bridge:Bridge", "cnm_core.schema.bridge:BridgeConfig"),
}


def model_of(driver: str) -> "type[BaseModel]":
    """The model of a driver's keys."""
    model: type[BaseModel] = _attribute(DRIVERS[driver].model)
    return model


def open_network(name: str, config: dict[str, Any]) -> "tuple[Driver, Network]":
    """The driver that serves a plugin object, and the network as the driver sees it.

    Raises Failure for a plugin that is not ours, InvalidNetworkConfig for keys that are wrong.
    """
    kind = DRIVERS.get(config["type"])
    if kind is None:
        raise Failure(
            f'network "{name}" is made by a plugin "{config["type"]}", not by a driver of cnm',
            advice=f"the drivers are {', '.join(DRIVERS)}",
        )
    driver = _attribute(kind.driver)
    ipam = config.get("ipam") or {}
    return driver(), Network(name, Pool(str(ipam.get("type", ""))), driver.options(config))


def _attribute(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)
