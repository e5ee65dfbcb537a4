"""What every configuration model shares, and the words for what is wrong with one."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import ErrorDetails

from cnm_core import json
from cnm_core.config import formats


def _meaning(check: Callable[[str], Any]) -> AfterValidator:
    """A check of cnm_core.config.formats, which the generated decoders call by its name."""
    return AfterValidator(check)


def _shown(title: str, **schema: Any) -> WithJsonSchema:
    """What documentation calls such a text, and what JSON Schema can say of it."""
    return WithJsonSchema({"type": "string", "title": title, **schema})


def _whole(low: int, high: int) -> tuple[Any, ...]:
    """A whole number from low to high, refused in one sentence whatever is wrong with it."""

    def check(value: Any) -> Any:
        if type(value) is int and low <= value <= high:
            return value
        raise ValueError(f"must be a whole number from {low} to {high}, got {json.shorten(value)}")

    return Ge(low), Le(high), BeforeValidator(check)


def _word_or_whole(word: str, low: int, high: int) -> BeforeValidator:
    """A word or a whole number, refused in one sentence like that."""

    def check(value: Any) -> Any:
        if value == word or (type(value) is int and low <= value <= high):
            return value
        expected = f'"{word}" or a whole number from {low} to {high}'
        raise ValueError(f"must be {expected}, got {json.shorten(value)}")

    return BeforeValidator(check)


def _word_or_switch(word: str) -> BeforeValidator:
    """true, false or a word, refused in one sentence like that."""

    def check(value: Any) -> Any:
        if value == word or type(value) is bool:
            return value
        raise ValueError(f'must be true, false or "{word}", got {json.shorten(value)}')

    return BeforeValidator(check)


_PROTOCOLS = "^([Tt][Cc][Pp]|[Uu][Dd][Pp]|[Ss][Cc][Tt][Pp])$"

Name = Annotated[
    str, _meaning(formats.name), _shown("network name", pattern="^[A-Za-z0-9][A-Za-z0-9_.-]*$")
]
InterfaceName = Annotated[
    str, _meaning(formats.interface_name), _shown("interface name", maxLength=15)
]
BridgeName = Annotated[
    str,
    _meaning(formats.bridge_name),
    _shown("interface name", maxLength=15, pattern='^[^*"\\\\%]+$'),
]
Ip = Annotated[str, _meaning(formats.ip), _shown("IP address")]
Cidr = Annotated[str, _meaning(formats.address), _shown("address in CIDR notation")]
Subnet = Annotated[str, _meaning(formats.subnet), _shown("subnet in CIDR notation")]
Span = Annotated[str, _meaning(formats.span), _shown("address, subnet or FIRST-LAST")]
Requested = Annotated[
    str, _meaning(formats.requested), _shown("IP address, with or without prefix length")
]
Allocation = Annotated[
    str,
    _meaning(formats.allocation),
    _shown("next-fit or first-fit", enum=["next-fit", "first-fit"]),
]
Mac = Annotated[str, _meaning(formats.mac), _shown("MAC address")]
MacvlanMode = Annotated[
    str,
    _meaning(formats.macvlan_mode),
    _shown("bridge, private, vepa or passthru", enum=["bridge", "private", "vepa", "passthru"]),
]
IpvlanMode = Annotated[
    str, _meaning(formats.ipvlan_mode), _shown("l2, l3 or l3s", enum=["l2", "l3", "l3s"])
]
OverlayMode = Annotated[str, _meaning(formats.overlay_mode), _shown("l2 or l3", enum=["l2", "l3"])]
Bum = Annotated[
    str,
    _meaning(formats.bum),
    _shown("none or ingress-replication", enum=["none", "ingress-replication"]),
]
LogLevel = Annotated[
    str, _meaning(formats.log_level), _shown("info or error", enum=["info", "error"])
]
IpvlanFlag = Annotated[
    str,
    _meaning(formats.ipvlan_flag),
    _shown("bridge, private or vepa", enum=["bridge", "private", "vepa"]),
]
Directory = Annotated[str, _meaning(formats.directory), _shown("absolute path", pattern="^/")]
Endpoint = Annotated[
    str, _meaning(formats.endpoint), _shown("http://HOST:PORT or https://HOST:PORT")
]
Mtu = Annotated[int, *_whole(0, 65535)]
MtuOrAuto = Annotated[Mtu | Literal["auto"], _word_or_whole("auto", 0, 65535)]
Encrypted = Annotated[bool | Literal["esp"], _word_or_switch("esp")]
Vid = Annotated[int, *_whole(0, 4094)]
TrunkVid = Annotated[int, *_whole(1, 4094)]
Uint32 = Annotated[int, *_whole(0, 2**32 - 1)]
Port = Annotated[int, *_whole(1, 65535)]
Vni = Annotated[int, *_whole(0, 2**24 - 1)]
Protocol = Annotated[
    str, _meaning(formats.protocol), _shown("tcp, udp or sctp", pattern=_PROTOCOLS)
]
Bit = Annotated[int, *_whole(0, 31)]
Uint8 = Annotated[int, *_whole(0, 255)]
Seconds = Annotated[int, *_whole(0, 365 * 86400)]
Timeout = Annotated[int, *_whole(1, 600)]


class ConfigModel(BaseModel):
    """An object of a configuration. Unknown keys are left to others, as CNI wants it."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _absent(cls, document: Any) -> Any:
        """Treat null and "" as absent, as Go's decoder does for the peers' configurations."""
        if not isinstance(document, dict):
            return document
        return {key: value for key, value in document.items() if value is not None and value != ""}


def place_of(location: tuple[int | str, ...]) -> str:
    """The place of a problem, as in `ipam.ranges[0][1].subnet`."""
    text = ""
    for step in location:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def explain(failure: ValidationError) -> list[str]:
    """Every problem of a configuration, in the words that a plugin has for it."""
    return [f"{place_of(place)}: {problem}" for place, problem in problems_of(failure)]


def problems_of(failure: ValidationError) -> list[tuple[tuple[int | str, ...], str]]:
    """The same, as the steps to the place of each problem, and the words for it."""
    return [(error["loc"], _problem(error)) for error in failure.errors()]


_EXPECTED = {
    "string_type": "a string",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
}


def _problem(error: ErrorDetails) -> str:
    if error["type"] == "missing":
        return "is missing"
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    return f"must be {_EXPECTED[error['type']]}, got {json.shorten(error['input'])}"
