"""The keys of `ipam` for addresses from an IPAM driver that was written for Docker."""

from pydantic import Field

from cnm_core.schema.base import ConfigModel, Directory, Ip, Name, Subnet, Timeout
from cnm_core.schema.network import RouteConfig


class RemotePoolConfig(ConfigModel):
    """A pool to ask the driver for."""

    subnet: Subnet | None = Field(
        None, description="the network in CIDR notation; the driver's choice when left out"
    )
    ipRange: Subnet | None = Field(
        None, description="a network inside the subnet, whose addresses alone are given"
    )
    gateway: Ip | None = Field(None, description="the gateway; the driver's choice when left out")
    ipv6: bool = Field(False, description="a pool of IPv6, where no subnet says so")


class RemoteConfig(ConfigModel):
    """Addresses from an IPAM driver that was written for Docker."""

    driver: Name | None = Field(None, description="name of the Docker plugin; `type` if left out")
    subnet: Subnet | None = Field(None, description="short for `pools` with one pool")
    ipRange: Subnet | None = Field(None, description="the part of `subnet` that is given")
    gateway: Ip | None = Field(None, description="gateway of `subnet`")
    ipv6: bool = Field(False, description="an IPv6 pool of the driver's choice as well")
    pools: list[RemotePoolConfig] = Field([], description="one address out of each pool")
    addressSpace: str = Field("", description="the driver's local one when left out")
    options: dict[str, str] = Field({}, description="what the driver itself understands")
    routes: list[RouteConfig] = Field([], description="routes for the container")
    timeoutSeconds: Timeout = Field(10, description="how long each answer may take")
    dataDir: Directory = Field("/var/lib/cnm/remote", description="where records live")
