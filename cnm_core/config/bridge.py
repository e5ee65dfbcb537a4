"""Generated from cnm_core.schema.bridge by `make decoders`; do not edit."""

from cnm_core.config import formats, values
from cnm_core.record import Record


class VlanTrunk(Record):
    """One VLAN, or those of a range, or both."""

    id: int | None = None
    min_id: int | None = None
    max_id: int | None = None


def vlan_trunk(document: object, place: str = "") -> VlanTrunk:
    """Decode a VlanTrunk. Raises InvalidNetworkConfig."""
    fields = values.mapping(document, place)
    return VlanTrunk(
        id=values.optional(fields, "id", place, values.integer(1, 4094), None),
        min_id=values.optional(fields, "minID", place, values.integer(1, 4094), None),
        max_id=values.optional(fields, "maxID", place, values.integer(1, 4094), None),
    )


class BridgeConfig(Record):
    """A Linux bridge with one veth pair for each endpoint."""

    bridge: str = "cni0"
    is_gateway: bool = False
    is_default_gateway: bool = False
    force_address: bool = False
    mtu: int | str = 0
    hairpin_mode: bool = False
    promisc_mode: bool = False
    port_isolation: bool = False
    enabledad: bool = False
    disable_container_interface: bool = False
    ip_masq: bool = False
    ip_masq_backend: str = "nftables"
    host_ipv4: bytes | None = None
    host_ipv6: bytes | None = None
    host_binding_ipv4: bytes | None = None
    isolation: bool | None = None
    internal: bool = False
    icc: bool = True
    macspoofchk: bool = False
    vlan: int = 0
    vlan_trunk: tuple[VlanTrunk, ...] = ()
    preserve_default_vlan: bool = False


def bridge_config(document: object, place: str = "") -> BridgeConfig:
    """Decode a BridgeConfig. Raises InvalidNetworkConfig."""
    fields = values.mapping(document, place)
    return BridgeConfig(
        bridge=values.optional(
            fields, "bridge", place, values.checked(formats.bridge_name), "cni0"
        ),
        is_gateway=values.optional(fields, "isGateway", place, values.boolean, False),
        is_default_gateway=values.optional(
            fields, "isDefaultGateway", place, values.boolean, False
        ),
        force_address=values.optional(fields, "forceAddress", place, values.boolean, False),
        mtu=values.optional(fields, "mtu", place, values.word_or_integer("auto", 0, 65535), 0),
        hairpin_mode=values.optional(fields, "hairpinMode", place, values.boolean, False),
        promisc_mode=values.optional(fields, "promiscMode", place, values.boolean, False),
        port_isolation=values.optional(fields, "portIsolation", place, values.boolean, False),
        enabledad=values.optional(fields, "enabledad", place, values.boolean, False),
        disable_container_interface=values.optional(
            fields, "disableContainerInterface", place, values.boolean, False
        ),
        ip_masq=values.optional(fields, "ipMasq", place, values.boolean, False),
        ip_masq_backend=values.optional(fields, "ipMasqBackend", place, values.text, "nftables"),
        host_ipv4=values.optional(fields, "hostIPv4", place, values.checked(formats.ip), None),
        host_ipv6=values.optional(fields, "hostIPv6", place, values.checked(formats.ip), None),
        host_binding_ipv4=values.optional(
            fields, "hostBindingIPv4", place, values.checked(formats.ip), None
        ),
        isolation=values.optional(fields, "isolation", place, values.boolean, None),
        internal=values.optional(fields, "internal", place, values.boolean, False),
        icc=values.optional(fields, "icc", place, values.boolean, True),
        macspoofchk=values.optional(fields, "macspoofchk", place, values.boolean, False),
        vlan=values.optional(fields, "vlan", place, values.integer(0, 4094), 0),
        vlan_trunk=values.optional(fields, "vlanTrunk", place, values.list_of(vlan_trunk), ()),
        preserve_default_vlan=values.optional(
            fields, "preserveDefaultVlan", place, values.boolean, False
        ),
    )
