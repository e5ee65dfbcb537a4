"""The keys of `ipam` for static addresses."""

from pydantic import Field

from cnm_core.schema.base import Cidr, ConfigModel, Ip
from cnm_core.schema.network import DnsConfig, RouteConfig


class StaticAddress(ConfigModel):
    """An address that the configuration itself gives."""

    address: Cidr = Field(description="the address in CIDR notation")
    gateway: Ip | None = Field(None, description="the gateway of its network")


class StaticConfig(ConfigModel):
    """Addresses that are written in the configuration, or handed down by the runtime."""

    addresses: list[StaticAddress] = Field([], description="what every container gets")
    routes: list[RouteConfig] = Field([], description="routes for the container")
    dns: DnsConfig = Field(DnsConfig(), description="resolver settings for the result")
