"""Generated from cnm_core.schema.ipvlan by `make decoders`; do not edit."""

from cnm_core.config import formats, values
from cnm_core.record import Record


class IpvlanConfig(Record):
    """Containers that share the MAC address of a link of the host."""

    master: str | None = None
    parent: str | None = None
    mode: str | None = None
    ipvlan_mode: str | None = None
    flag: str | None = None
    ipvlan_flag: str | None = None
    mtu: int = 0
    link_in_container: bool = False
    internal: bool = False
    enabledad: bool = False


def ipvlan_config(document: object, place: str = "") -> IpvlanConfig:
    """Decode a IpvlanConfig. Raises InvalidNetworkConfig."""
    fields = values.mapping(document, place)
    return IpvlanConfig(
        master=values.optional(
            fields, "master", place, values.checked(formats.interface_name), None
        ),
        parent=values.optional(
            fields, "parent", place, values.checked(formats.interface_name), None
        ),
        mode=values.optional(fields, "mode", place, values.checked(formats.ipvlan_mode), None),
        ipvlan_mode=values.optional(
            fields, "ipvlan_mode", place, values.checked(formats.ipvlan_mode), None
        ),
        flag=values.optional(fields, "flag", place, values.checked(formats.ipvlan_flag), None),
        ipvlan_flag=values.optional(
            fields, "ipvlan_flag", place, values.checked(formats.ipvlan_flag), None
        ),
        mtu=values.optional(fields, "mtu", place, values.integer(0, 65535), 0),
        link_in_container=values.optional(fields, "linkInContainer", place, values.boolean, False),
        internal=values.optional(fields, "internal", place, values.boolean, False),
        enabledad=values.optional(fields, "enabledad", place, values.boolean, False),
    )
