"""Subnets with what belongs to each, as `docker network create` sorts them out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from netaddr import AddrFormatError, IPAddress, IPNetwork

from cnm_core.cli.main import Failure
from cnm_core.config import formats


@dataclass
class Subnet:
    """A subnet, the part of it that is given, its gateway, and addresses that others have."""

    subnet: str
    ip_range: str = ""
    gateway: str = ""
    aux_addresses: dict[str, str] = field(default_factory=dict)

    @property
    def version(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.subnet else 4

    def members(self) -> dict[str, Any]:
        """The keys of a range of host-local."""
        found = {
            "subnet": self.subnet,
            "ipRange": self.ip_range,
            "gateway": self.gateway,
            "auxAddresses": self.aux_addresses,
        }
        return {key: value for key, value in found.items() if value}


def is_any(subnet: str) -> bool:
    """Whether a subnet stands for any of its size, as 0.0.0.0/24 and ::/64 do.

    With a length of 0 it stands for one of the size that the pools have.
    """
    return subnet.partition("/")[0] in ("0.0.0.0", "::")


def first_address(subnet: str) -> str:
    """The gateway that host-local would choose: the first address; "" where there is only one."""
    network = IPNetwork(subnet)
    if network.size == 1:
        return ""
    return str(network[0] if network.size == 2 else network[1])


def sort_out(
    subnets: Sequence[str],
    ip_ranges: Sequence[str],
    gateways: Sequence[str],
    aux_addresses: dict[str, str],
) -> list[Subnet]:
    """Each subnet with what is inside it. Raises Failure for what is inside none."""
    found = [Subnet(each) for each in subnets]
    for text in ip_ranges:
        parsed = _parse("--ip-range", text, formats.subnet, IPNetwork)
        home = _home(found, "--ip-range", text, parsed)
        if home.ip_range:
            raise Failure(
                f"cannot configure multiple ranges ({home.ip_range}, {text}) "
                f"on the same subnet ({home.subnet})",
                advice="give one --ip-range for each --subnet",
            )
        home.ip_range = text
    for text in gateways:
        home = _home(found, "--gateway", text, _parse("--gateway", text, formats.ip, IPAddress))
        if home.gateway:
            raise Failure(
                f"cannot configure multiple gateways ({home.gateway}, {text}) "
                f"for the same subnet ({home.subnet})",
                advice="give one --gateway for each --subnet",
            )
        home.gateway = text
    for name, text in aux_addresses.items():
        ip = _parse("--aux-address", text, formats.ip, IPAddress)
        _home(found, "--aux-address", text, ip).aux_addresses[name] = text
    return found


def check_subnet(text: str) -> None:
    """Raise Failure unless it is a network in CIDR notation."""
    _parse("--subnet", text, formats.subnet, IPNetwork)


def _parse(option: str, text: str, check: Any, kind: Any) -> Any:
    try:
        check(text)
        return kind(text)
    except (ValueError, AddrFormatError) as error:
        raise Failure(f"{option} {error}") from None


def _home(subnets: list[Subnet], option: str, text: str, inner: Any) -> Subnet:
    for each in subnets:
        if inner in IPNetwork(each.subnet):
            return each
    what = option.removeprefix("--")
    among = ", ".join(each.subnet for each in subnets)
    raise Failure(
        f"no matching subnet for {what} {text}",
        advice=f"it must be inside {among}" if among else "give its --subnet as well",
    )
