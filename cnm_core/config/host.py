"""Generated from cnm_core.schema.host by `make decoders`; do not edit."""

from cnm_core.config import values
from cnm_core.record import Record


class HostConfig(Record):
    """The host's own network namespace."""

    ipam: dict[str, object] = {}


def host_config(document: object, place: str = "") -> HostConfig:
    """Decode a HostConfig. Raises InvalidNetworkConfig."""
    fields = values.mapping(document, place)
    return HostConfig(
        ipam=values.optional(fields, "ipam", place, values.mapping, {}),
    )
