"""The keys of `ipam` for host-local addresses."""

from pydantic import Field

from cnm_core.schema.base import ConfigModel, Directory, Ip, Subnet
from cnm_core.schema.network import RouteConfig


class RangeConfig(ConfigModel):
    """Addresses of one subnet that may be given out."""

    subnet: Subnet = Field(description="the network in CIDR notation")
    rangeStart: Ip | None = Field(
        None, description="first address; the subnet's first when left out"
    )
    rangeEnd: Ip | None = Field(None, description="last address; the subnet's last when left out")
    gateway: Ip | None = Field(None, description="the gateway; the subnet's first when left out")


class HostLocalConfig(ConfigModel):
    """Addresses out of ranges, kept in files on this host."""

    subnet: Subnet | None = Field(None, description="short for one range set of one range")
    rangeStart: Ip | None = Field(None, description="first address of `subnet`")
    rangeEnd: Ip | None = Field(None, description="last address of `subnet`")
    gateway: Ip | None = Field(None, description="gateway of `subnet`")
    ranges: list[list[RangeConfig]] = Field(
        [], description="one address out of each set; a set is a list of alternative ranges"
    )
    routes: list[RouteConfig] = Field([], description="routes for the container")
    dataDir: Directory = Field(
        "/var/lib/cni/networks", description="where allocations live, shared with the Go plugin"
    )
    resolvConf: Directory | None = Field(
        None, description="a resolv.conf file whose settings the result passes on"
    )
