"""Generated from cnm_core.schema.static by `make decoders`; do not edit."""

from cnm_core.config import formats, values
from cnm_core.config.network import DnsConfig, RouteConfig, dns_config, route_config
from cnm_core.inet import Address
from cnm_core.record import Record


class StaticAddress(Record):
    """An address that the configuration itself gives."""

    address: Address
    gateway: bytes | None = None


def static_address(document: object, place: str = "") -> StaticAddress:
    """Decode a StaticAddress. Raises InvalidNetworkConfig."""
    fields = values.mapping(document, place)
    return StaticAddress(
        address=values.required(fields, "address", place, values.checked(formats.address)),
        gateway=values.optional(fields, "gateway", place, values.checked(formats.ip), None),
    )


class StaticConfig(Record):
    """Addresses that are written in the configuration, or handed down by the runtime."""

    addresses: tuple[StaticAddress, ...] = ()
    routes: tuple[RouteConfig, ...] = ()
    dns: DnsConfig = DnsConfig()


def static_config(document: object, place: str = "") -> StaticConfig:
    """Decode a StaticConfig. Raises InvalidNetworkConfig."""
    fields = values.mapping(document, place)
    return StaticConfig(
        addresses=values.optional(fields, "addresses", place, values.list_of(static_address), ()),
        routes=values.optional(fields, "routes", place, values.list_of(route_config), ()),
        dns=values.optional(fields, "dns", place, dns_config, DnsConfig()),
    )
