"""Options of `cnm network create`: Docker's names for them, and the drivers' own keys."""

import json
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

import click
from pydantic import BaseModel

from cnm_core.cli.main import Failure

_BRIDGE = "com.docker.network.bridge."
# Docker's name of an option, and the key of the driver's configuration that it becomes.
DOCKER_NAMES: dict[str, dict[str, str]] = {
    "bridge": {
        _BRIDGE + "name": "bridge",
        _BRIDGE + "enable_ip_masquerade": "ipMasq",
        _BRIDGE + "enable_icc": "icc",
        _BRIDGE + "host_binding_ipv4": "hostBindingIPv4",
        "com.docker.network.host_ipv4": "hostIPv4",
        "com.docker.network.host_ipv6": "hostIPv6",
        "com.docker.network.driver.mtu": "mtu",
    },
    "macvlan": {"com.docker.network.driver.mtu": "mtu"},
    "ipvlan": {"com.docker.network.driver.mtu": "mtu"},
    "overlay": {
        "com.docker.network.driver.mtu": "mtu",
        "com.docker.network.driver.overlay.vxlanid_list": "vni",
    },
}
# Keys of a plugin's configuration that other options of the command say.
_ELSEWHERE = frozenset(("internal", "ipMasqBackend", "subnets"))
# A switch that is named alone is on, as in Docker's `--opt encrypted`.
_WORDS = {"": True, "1": True, "t": True, "true": True, "0": False, "f": False, "false": False}


def pairs(
    context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]
) -> dict[str, str]:
    """A click callback: KEY=VALUE texts as a dictionary; a KEY alone has the value ""."""
    found = {}
    for text in texts:
        key, _, value = text.partition("=")
        if not key:
            raise click.BadParameter(f'"{text}" is not KEY=VALUE', context, parameter)
        found[key] = value
    return found


def keys_of(driver: str, given: dict[str, str], model: type[BaseModel]) -> dict[str, Any]:
    """The keys of a driver's configuration that options stand for. Raises Failure."""
    names = DOCKER_NAMES.get(driver, {})
    found: dict[str, Any] = {}
    for option, text in given.items():
        key = names.get(option, option)
        if key not in model.model_fields or key in _ELSEWHERE:
            known = [*names, *(each for each in model.model_fields if each not in _ELSEWHERE)]
            raise Failure(
                f"-o {option}={text}: the {driver} driver has no such option",
                advice=f"its options are {', '.join(known) or 'none'}",
            )
        if key in found:
            raise Failure(f"-o {option}={text}: {key} is given twice")
        found[key] = value(text, model, key)
    return found


def value(text: str, model: type[BaseModel], key: str) -> Any:
    """The value that a text stands for, by the type of the field that it is for."""
    field = model.model_fields.get(key)
    annotation = field.annotation if field else None
    if bool in (annotation, *get_args(annotation)):
        return _WORDS.get(text.lower(), text)
    if _is_text(annotation):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _is_text(annotation: Any) -> bool:
    """Whether a field holds text, which may be absent."""
    if get_origin(annotation) is Annotated:
        return _is_text(get_args(annotation)[0])
    parts = get_args(annotation)
    return annotation is str or (
        NoneType in parts and all(_is_text(each) for each in parts if each is not NoneType)
    )
