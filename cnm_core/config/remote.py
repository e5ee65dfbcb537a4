"""Generated from cnm_core.schema.remote by `make decoders`; do not edit."""

from cnm_core.config import formats, values
from cnm_core.config.network import RouteConfig, route_config
from cnm_core.inet import Address
from cnm_core.record import Record


class RemotePoolConfig(Record):
    """A pool to ask the driver for."""

    subnet: Address | None = None
    ip_range: Address | None = None
    gateway: bytes | None = None
    ipv6: bool = False


def remote_pool_config(document: object, place: str = "") -> RemotePoolConfig:
    """Decode a RemotePoolConfig. Raises InvalidNetworkConfig."""
    fields = values.mapping(document, place)
    return RemotePoolConfig(
        subnet=values.optional(fields, "subnet", place, values.checked(formats.subnet), None),
        ip_range=values.optional(fields, "ipRange", place, values.checked(formats.subnet), None),
        gateway=values.optional(fields, "gateway", place, values.checked(formats.ip), None),
        ipv6=values.optional(fields, "ipv6", place, values.boolean, False),
    )


class RemoteConfig(Record):
    """Addresses from an IPAM driver that was written for Docker."""

    driver: str | None = None
    subnet: Address | None = None
    ip_range: Address | None = None
    gateway: bytes | None = None
    ipv6: bool = False
    pools: tuple[RemotePoolConfig, ...] = ()
    address_space: str = ""
    options: dict[str, str] = {}
    routes: tuple[RouteConfig, ...] = ()
    timeout_seconds: int = 10
    data_dir: str = "/var/lib/cnm/remote"


def remote_config(document: object, place: str = "") -> RemoteConfig:
    """Decode a RemoteConfig. Raises InvalidNetworkConfig."""
    fields = values.mapping(document, place)
    return RemoteConfig(
        driver=values.optional(fields, "driver", place, values.checked(formats.name), None),
        subnet=values.optional(fields, "subnet", place, values.checked(formats.subnet), None),
        ip_range=values.optional(fields, "ipRange", place, values.checked(formats.subnet), None),
        gateway=values.optional(fields, "gateway", place, values.checked(formats.ip), None),
        ipv6=values.optional(fields, "ipv6", place, values.boolean, False),
        pools=values.optional(fields, "pools", place, values.list_of(remote_pool_config), ()),
        address_space=values.optional(fields, "addressSpace", place, values.text, ""),
        options=values.optional(fields, "options", place, values.mapping_of(values.text), {}),
        routes=values.optional(fields, "routes", place, values.list_of(route_config), ()),
        timeout_seconds=values.optional(
            fields, "timeoutSeconds", place, values.integer(1, 600), 10
        ),
        data_dir=values.optional(
            fields, "dataDir", place, values.checked(formats.directory), "/var/lib/cnm/remote"
        ),
    )
