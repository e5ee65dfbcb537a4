"""Generated from cnm_core.schema.host_local by `make decoders`; do not edit."""

from cnm_core.config import formats, values
from cnm_core.config.network import RouteConfig, route_config
from cnm_core.inet import Address, Span
from cnm_core.record import Record


class RangeConfig(Record):
    """Addresses of one subnet that may be given out."""

    subnet: Address
    range_start: bytes | None = None
    range_end: bytes | None = None
    ip_range: Address | None = None
    gateway: bytes | None = None
    exclude: tuple[Span, ...] = ()
    aux_addresses: dict[str, bytes] = {}


def range_config(document: object, place: str = "") -> RangeConfig:
    """Decode a RangeConfig. Raises InvalidNetworkConfig."""
    fields = values.mapping(document, place)
    return RangeConfig(
        subnet=values.required(fields, "subnet", place, values.checked(formats.subnet)),
        range_start=values.optional(fields, "rangeStart", place, values.checked(formats.ip), None),
        range_end=values.optional(fields, "rangeEnd", place, values.checked(formats.ip), None),
        ip_range=values.optional(fields, "ipRange", place, values.checked(formats.subnet), None),
        gateway=values.optional(fields, "gateway", place, values.checked(formats.ip), None),
        exclude=values.optional(
            fields, "exclude", place, values.list_of(values.checked(formats.span)), ()
        ),
        aux_addresses=values.optional(
            fields, "auxAddresses", place, values.mapping_of(values.checked(formats.ip)), {}
        ),
    )


class HostLocalConfig(Record):
    """Addresses out of ranges, kept in files on this host."""

    subnet: Address | None = None
    range_start: bytes | None = None
    range_end: bytes | None = None
    ip_range: Address | None = None
    gateway: bytes | None = None
    exclude: tuple[Span, ...] = ()
    aux_addresses: dict[str, bytes] = {}
    ranges: tuple[tuple[RangeConfig, ...], ...] = ()
    allocation: str = "next-fit"
    quarantine_seconds: int = 0
    gc_grace_seconds: int = 0
    routes: tuple[RouteConfig, ...] = ()
    data_dir: str = "/var/lib/cni/networks"
    resolv_conf: str | None = None


def host_local_config(document: object, place: str = "") -> HostLocalConfig:
    """Decode a HostLocalConfig. Raises InvalidNetworkConfig."""
    fields = values.mapping(document, place)
    return HostLocalConfig(
        subnet=values.optional(fields, "subnet", place, values.checked(formats.subnet), None),
        range_start=values.optional(fields, "rangeStart", place, values.checked(formats.ip), None),
        range_end=values.optional(fields, "rangeEnd", place, values.checked(formats.ip), None),
        ip_range=values.optional(fields, "ipRange", place, values.checked(formats.subnet), None),
        gateway=values.optional(fields, "gateway", place, values.checked(formats.ip), None),
        exclude=values.optional(
            fields, "exclude", place, values.list_of(values.checked(formats.span)), ()
        ),
        aux_addresses=values.optional(
            fields, "auxAddresses", place, values.mapping_of(values.checked(formats.ip)), {}
        ),
        ranges=values.optional(
            fields, "ranges", place, values.list_of(values.list_of(range_config)), ()
        ),
        allocation=values.optional(
            fields, "allocation", place, values.checked(formats.allocation), "next-fit"
        ),
        quarantine_seconds=values.optional(
            fields, "quarantineSeconds", place, values.integer(0, 31536000), 0
        ),
        gc_grace_seconds=values.optional(
            fields, "gcGraceSeconds", place, values.integer(0, 31536000), 0
        ),
        routes=values.optional(fields, "routes", place, values.list_of(route_config), ()),
        data_dir=values.optional(
            fields, "dataDir", place, values.checked(formats.directory), "/var/lib/cni/networks"
        ),
        resolv_conf=values.optional(
            fields, "resolvConf", place, values.checked(formats.directory), None
        ),
    )
