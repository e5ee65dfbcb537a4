"""Generated from cnm_core.schema.none by `make decoders`; do not edit."""

from cnm_core.config import values
from cnm_core.record import Record


class NoneConfig(Record):
    """Complete isolation."""

    ipam: dict[str, object] = {}


def none_config(document: object, place: str = "") -> NoneConfig:
    """Decode a NoneConfig. Raises InvalidNetworkConfig."""
    fields = values.mapping(document, place)
    return NoneConfig(
        ipam=values.optional(fields, "ipam", place, values.mapping, {}),
    )
