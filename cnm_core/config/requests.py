"""Generated from cnm_core.schema.requests by `make decoders`; do not edit."""

from cnm_core.config import formats, values
from cnm_core.config.host_local import RangeConfig, range_config
from cnm_core.record import Record


class RequestsRuntimeConfig(Record):
    """The part of `runtimeConfig` that is about addresses."""

    ips: tuple[str, ...] = ()
    ip_ranges: tuple[tuple[RangeConfig, ...], ...] = ()


def requests_runtime_config(document: object, place: str = "") -> RequestsRuntimeConfig:
    """Decode a RequestsRuntimeConfig. Raises InvalidNetworkConfig."""
    fields = values.mapping(document, place)
    return RequestsRuntimeConfig(
        ips=values.optional(
            fields, "ips", place, values.list_of(values.checked(formats.requested)), ()
        ),
        ip_ranges=values.optional(
            fields, "ipRanges", place, values.list_of(values.list_of(range_config)), ()
        ),
    )


class RequestsCniArgs(Record):
    """The part of `args.cni` that is about addresses."""

    ips: tuple[str, ...] = ()


def requests_cni_args(document: object, place: str = "") -> RequestsCniArgs:
    """Decode a RequestsCniArgs. Raises InvalidNetworkConfig."""
    fields = values.mapping(document, place)
    return RequestsCniArgs(
        ips=values.optional(
            fields, "ips", place, values.list_of(values.checked(formats.requested)), ()
        ),
    )


class RequestsArgs(Record):
    """The `args` object (CNI conventions, "args")."""

    cni: RequestsCniArgs = RequestsCniArgs()


def requests_args(document: object, place: str = "") -> RequestsArgs:
    """Decode a RequestsArgs. Raises InvalidNetworkConfig."""
    fields = values.mapping(document, place)
    return RequestsArgs(
        cni=values.optional(fields, "cni", place, requests_cni_args, RequestsCniArgs()),
    )


class RequestsConfig(Record):
    """The keys of a call that name addresses."""

    runtime_config: RequestsRuntimeConfig = RequestsRuntimeConfig()
    args: RequestsArgs = RequestsArgs()


def requests_config(document: object, place: str = "") -> RequestsConfig:
    """Decode a RequestsConfig. Raises InvalidNetworkConfig."""
    fields = values.mapping(document, place)
    return RequestsConfig(
        runtime_config=values.optional(
            fields, "runtimeConfig", place, requests_runtime_config, RequestsRuntimeConfig()
        ),
        args=values.optional(fields, "args", place, requests_args, RequestsArgs()),
    )
