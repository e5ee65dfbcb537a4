"""Generated from cnm_core.schema.overlay by `make decoders`; do not edit."""

from cnm_core.config import formats, values
from cnm_core.inet import Address
from cnm_core.record import Record


class StoreConfig(Record):
    """Where the hosts of an overlay write down what they share."""

    endpoints: tuple[str, ...] = ()
    cluster: str = "default"
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    user: str = ""
    password_file: str | None = None
    directory: str = "/var/lib/cnm/cluster"


def store_config(document: object, place: str = "") -> StoreConfig:
    """Decode a StoreConfig. Raises InvalidNetworkConfig."""
    fields = values.mapping(document, place)
    return StoreConfig(
        endpoints=values.optional(
            fields, "endpoints", place, values.list_of(values.checked(formats.endpoint)), ()
        ),
        cluster=values.optional(fields, "cluster", place, values.checked(formats.name), "default"),
        ca_file=values.optional(fields, "caFile", place, values.checked(formats.directory), None),
        cert_file=values.optional(
            fields, "certFile", place, values.checked(formats.directory), None
        ),
        key_file=values.optional(fields, "keyFile", place, values.checked(formats.directory), None),
        user=values.optional(fields, "user", place, values.text, ""),
        password_file=values.optional(
            fields, "passwordFile", place, values.checked(formats.directory), None
        ),
        directory=values.optional(
            fields, "directory", place, values.checked(formats.directory), "/var/lib/cnm/cluster"
        ),
    )


class OverlaySubnet(Record):
    """A subnet of an overlay network."""

    subnet: Address
    gateway: bytes | None = None


def overlay_subnet(document: object, place: str = "") -> OverlaySubnet:
    """Decode a OverlaySubnet. Raises InvalidNetworkConfig."""
    fields = values.mapping(document, place)
    return OverlaySubnet(
        subnet=values.required(fields, "subnet", place, values.checked(formats.subnet)),
        gateway=values.optional(fields, "gateway", place, values.checked(formats.ip), None),
    )


class OverlayConfig(Record):
    """A network over many hosts: a bridge on each, with VXLAN between them."""

    subnets: tuple[OverlaySubnet, ...]
    store: StoreConfig = StoreConfig()
    vni: int = 0
    port: int = 4789
    mtu: int = 0
    internal: bool = False
    mode: str = "l2"
    bum: str = "none"
    tx_checksum: bool = True
    encrypted: bool | str = False
    wireguard_port: int = 51830
    underlay: str = ""
    node: str | None = None
    data_dir: str = "/var/lib/cni/networks"
    state_dir: str = "/run/cnm"


def overlay_config(document: object, place: str = "") -> OverlayConfig:
    """Decode a OverlayConfig. Raises InvalidNetworkConfig."""
    fields = values.mapping(document, place)
    return OverlayConfig(
        subnets=values.required(fields, "subnets", place, values.list_of(overlay_subnet)),
        store=values.optional(fields, "store", place, store_config, StoreConfig()),
        vni=values.optional(fields, "vni", place, values.integer(0, 16777215), 0),
        port=values.optional(fields, "port", place, values.integer(1, 65535), 4789),
        mtu=values.optional(fields, "mtu", place, values.integer(0, 65535), 0),
        internal=values.optional(fields, "internal", place, values.boolean, False),
        mode=values.optional(fields, "mode", place, values.checked(formats.overlay_mode), "l2"),
        bum=values.optional(fields, "bum", place, values.checked(formats.bum), "none"),
        tx_checksum=values.optional(fields, "txChecksum", place, values.boolean, True),
        encrypted=values.optional(fields, "encrypted", place, values.word_or_boolean("esp"), False),
        wireguard_port=values.optional(
            fields, "wireguardPort", place, values.integer(1, 65535), 51830
        ),
        underlay=values.optional(fields, "underlay", place, values.text, ""),
        node=values.optional(fields, "node", place, values.checked(formats.name), None),
        data_dir=values.optional(
            fields, "dataDir", place, values.checked(formats.directory), "/var/lib/cni/networks"
        ),
        state_dir=values.optional(
            fields, "stateDir", place, values.checked(formats.directory), "/run/cnm"
        ),
    )
