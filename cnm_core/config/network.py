"""Generated from cnm_core.schema.network by `make decoders`; do not edit."""

from cnm_core.config import formats, values
from cnm_core.inet import Address
from cnm_core.record import Record


class DnsConfig(Record):
    """Resolver settings for the container, passed on in the result."""

    nameservers: tuple[bytes, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def dns_config(document: object, place: str = "") -> DnsConfig:
    """Decode a DnsConfig. Raises InvalidNetworkConfig."""
    fields = values.mapping(document, place)
    return DnsConfig(
        nameservers=values.optional(
            fields, "nameservers", place, values.list_of(values.checked(formats.ip)), ()
        ),
        domain=values.optional(fields, "domain", place, values.text, ""),
        search=values.optional(fields, "search", place, values.list_of(values.text), ()),
        options=values.optional(fields, "options", place, values.list_of(values.text), ()),
    )


class RouteConfig(Record):
    """A route of the container."""

    dst: Address
    gw: bytes | None = None
    mtu: int | None = None
    advmss: int | None = None
    priority: int | None = None
    table: int | None = None
    scope: int | None = None


def route_config(document: object, place: str = "") -> RouteConfig:
    """Decode a RouteConfig. Raises InvalidNetworkConfig."""
    fields = values.mapping(document, place)
    return RouteConfig(
        dst=values.required(fields, "dst", place, values.checked(formats.subnet)),
        gw=values.optional(fields, "gw", place, values.checked(formats.ip), None),
        mtu=values.optional(fields, "mtu", place, values.integer(0, 65535), None),
        advmss=values.optional(fields, "advmss", place, values.integer(0, 65535), None),
        priority=values.optional(fields, "priority", place, values.integer(0, 4294967295), None),
        table=values.optional(fields, "table", place, values.integer(0, 4294967295), None),
        scope=values.optional(fields, "scope", place, values.integer(0, 255), None),
    )


class RuntimeConfig(Record):
    """What a runtime fills in for the capabilities that the configuration declares."""

    mac: bytes | None = None


def runtime_config(document: object, place: str = "") -> RuntimeConfig:
    """Decode a RuntimeConfig. Raises InvalidNetworkConfig."""
    fields = values.mapping(document, place)
    return RuntimeConfig(
        mac=values.optional(fields, "mac", place, values.checked(formats.mac), None),
    )


class CniArgs(Record):
    """What an orchestrator hands down in the configuration itself."""

    mac: bytes | None = None


def cni_args(document: object, place: str = "") -> CniArgs:
    """Decode a CniArgs. Raises InvalidNetworkConfig."""
    fields = values.mapping(document, place)
    return CniArgs(
        mac=values.optional(fields, "mac", place, values.checked(formats.mac), None),
    )


class ArgsConfig(Record):
    """The `args` object (CNI conventions, "args")."""

    cni: CniArgs = CniArgs()


def args_config(document: object, place: str = "") -> ArgsConfig:
    """Decode a ArgsConfig. Raises InvalidNetworkConfig."""
    fields = values.mapping(document, place)
    return ArgsConfig(
        cni=values.optional(fields, "cni", place, cni_args, CniArgs()),
    )


class NetworkConfig(Record):
    """The keys that all network plugins share."""

    name: str
    ipam: dict[str, object] = {}
    dns: DnsConfig = DnsConfig()
    args: ArgsConfig = ArgsConfig()
    runtime_config: RuntimeConfig = RuntimeConfig()
    prev_result: dict[str, object] | None = None
    state_dir: str = "/run/cnm"
    log_file: str | None = None
    log_level: str = "info"


def network_config(document: object, place: str = "") -> NetworkConfig:
    """Decode a NetworkConfig. Raises InvalidNetworkConfig."""
    fields = values.mapping(document, place)
    return NetworkConfig(
        name=values.required(fields, "name", place, values.checked(formats.name)),
        ipam=values.optional(fields, "ipam", place, values.mapping, {}),
        dns=values.optional(fields, "dns", place, dns_config, DnsConfig()),
        args=values.optional(fields, "args", place, args_config, ArgsConfig()),
        runtime_config=values.optional(
            fields, "runtimeConfig", place, runtime_config, RuntimeConfig()
        ),
        prev_result=values.optional(fields, "prevResult", place, values.mapping, None),
        state_dir=values.optional(
            fields, "stateDir", place, values.checked(formats.directory), "/run/cnm"
        ),
        log_file=values.optional(fields, "logFile", place, values.checked(formats.directory), None),
        log_level=values.optional(
            fields, "logLevel", place, values.checked(formats.log_level), "info"
        ),
    )
