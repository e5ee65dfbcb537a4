"""What an orchestrator asks of an IPAM driver for one container."""

from pydantic import Field

from cnm_core.schema.base import ConfigModel, Requested
from cnm_core.schema.host_local import RangeConfig


class RequestsRuntimeConfig(ConfigModel):
    """The part of `runtimeConfig` that is about addresses."""

    ips: list[Requested] = Field([], description="addresses to give, by the capability `ips`")
    ipRanges: list[list[RangeConfig]] = Field(
        [], description="range sets before those of `ipam`, by the capability `ipRanges`"
    )


class RequestsCniArgs(ConfigModel):
    """The part of `args.cni` that is about addresses."""

    ips: list[Requested] = Field([], description="addresses to give, where runtimeConfig has none")


class RequestsArgs(ConfigModel):
    """The `args` object (CNI conventions, "args")."""

    cni: RequestsCniArgs = Field(RequestsCniArgs(), description="arguments that any plugin may use")


class RequestsConfig(ConfigModel):
    """The keys of a call that name addresses."""

    runtimeConfig: RequestsRuntimeConfig = Field(
        RequestsRuntimeConfig(), description="filled in by the runtime"
    )
    args: RequestsArgs = Field(RequestsArgs(), description="arguments from the orchestrator")
