"""Generated from cnm_core.schema.macvlan by `make decoders`; do not edit."""

from cnm_core.config import formats, values
from cnm_core.record import Record


class MacvlanConfig(Record):
    """Containers with MAC addresses of their own on a link of the host."""

    master: str | None = None
    parent: str | None = None
    mode: str | None = None
    macvlan_mode: str | None = None
    mtu: int = 0
    mac: bytes | None = None
    link_in_container: bool = False
    bcqueuelen: int = 0
    internal: bool = False
    enabledad: bool = False


def macvlan_config(document: object, place: str = "") -> MacvlanConfig:
    """Decode a MacvlanConfig. Raises InvalidNetworkConfig."""
    fields = values.mapping(document, place)
    return MacvlanConfig(
        master=values.optional(
            fields, "master", place, values.checked(formats.interface_name), None
        ),
        parent=values.optional(
            fields, "parent", place, values.checked(formats.interface_name), None
        ),
        mode=values.optional(fields, "mode", place, values.checked(formats.macvlan_mode), None),
        macvlan_mode=values.optional(
            fields, "macvlan_mode", place, values.checked(formats.macvlan_mode), None
        ),
        mtu=values.optional(fields, "mtu", place, values.integer(0, 65535), 0),
        mac=values.optional(fields, "mac", place, values.checked(formats.mac), None),
        link_in_container=values.optional(fields, "linkInContainer", place, values.boolean, False),
        bcqueuelen=values.optional(fields, "bcqueuelen", place, values.integer(0, 4294967295), 0),
        internal=values.optional(fields, "internal", place, values.boolean, False),
        enabledad=values.optional(fields, "enabledad", place, values.boolean, False),
    )
