"""Generated from cnm_core.schema.ports by `make decoders`; do not edit."""

from cnm_core.config import formats, values
from cnm_core.record import Record


class PortMapping(Record):
    """A port of the host that leads to a port of the container."""

    host_port: int
    container_port: int
    protocol: int = 6
    host_ip: bytes | None = None


def port_mapping(document: object, place: str = "") -> PortMapping:
    """Decode a PortMapping. Raises InvalidNetworkConfig."""
    fields = values.mapping(document, place)
    return PortMapping(
        host_port=values.required(fields, "hostPort", place, values.integer(1, 65535)),
        container_port=values.required(fields, "containerPort", place, values.integer(1, 65535)),
        protocol=values.optional(fields, "protocol", place, values.checked(formats.protocol), 6),
        host_ip=values.optional(fields, "hostIP", place, values.checked(formats.ip), None),
    )


class PortsRuntimeConfig(Record):
    """The part of `runtimeConfig` that is about ports."""

    port_mappings: tuple[PortMapping, ...] = ()


def ports_runtime_config(document: object, place: str = "") -> PortsRuntimeConfig:
    """Decode a PortsRuntimeConfig. Raises InvalidNetworkConfig."""
    fields = values.mapping(document, place)
    return PortsRuntimeConfig(
        port_mappings=values.optional(
            fields, "portMappings", place, values.list_of(port_mapping), ()
        ),
    )


class PortsConfig(Record):
    """The keys of a plugin that publishes ports."""

    runtime_config: PortsRuntimeConfig = PortsRuntimeConfig()


def ports_config(document: object, place: str = "") -> PortsConfig:
    """Decode a PortsConfig. Raises InvalidNetworkConfig."""
    fields = values.mapping(document, place)
    return PortsConfig(
        runtime_config=values.optional(
            fields, "runtimeConfig", place, ports_runtime_config, PortsRuntimeConfig()
        ),
    )


class PortmapConfig(Record):
    """Published ports for a container that another plugin attached."""

    backend: str = "nftables"
    snat: bool = True
    masq_all: bool = False
    mark_masq_bit: int | None = None
    external_set_mark_chain: str = ""
    conditions_v4: tuple[str, ...] = ()
    conditions_v6: tuple[str, ...] = ()


def portmap_config(document: object, place: str = "") -> PortmapConfig:
    """Decode a PortmapConfig. Raises InvalidNetworkConfig."""
    fields = values.mapping(document, place)
    return PortmapConfig(
        backend=values.optional(fields, "backend", place, values.text, "nftables"),
        snat=values.optional(fields, "snat", place, values.boolean, True),
        masq_all=values.optional(fields, "masqAll", place, values.boolean, False),
        mark_masq_bit=values.optional(fields, "markMasqBit", place, values.integer(0, 31), None),
        external_set_mark_chain=values.optional(
            fields, "externalSetMarkChain", place, values.text, ""
        ),
        conditions_v4=values.optional(
            fields, "conditionsV4", place, values.list_of(values.text), ()
        ),
        conditions_v6=values.optional(
            fields, "conditionsV6", place, values.list_of(values.text), ()
        ),
    )
