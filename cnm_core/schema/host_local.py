"""The keys of `ipam` for host-local addresses."""

from pydantic import Field

from cnm_core.schema.base import Allocation, ConfigModel, Directory, Ip, Seconds, Span, Subnet
from cnm_core.schema.network import RouteConfig


class RangeConfig(ConfigModel):
    """Addresses of one subnet that may be given out."""

    subnet: Subnet = Field(description="the network in CIDR notation")
    rangeStart: Ip | None = Field(
        None, description="first address; the subnet's first when left out"
    )
    rangeEnd: Ip | None = Field(None, description="last address; the subnet's last when left out")
    ipRange: Subnet | None = Field(
        None, description="a network inside the subnet, whose addresses alone are given"
    )
    gateway: Ip | None = Field(None, description="the gateway; the subnet's first when left out")
    exclude: list[Span] = Field(
        [], description="addresses, networks and FIRST-LAST ranges that are never given"
    )
    auxAddresses: dict[str, Ip] = Field(
        {}, description="addresses by the names of their users, never given either"
    )


class HostLocalConfig(ConfigModel):
    """Addresses out of ranges, kept in files on this host."""

    subnet: Subnet | None = Field(None, description="short for one range set of one range")
    rangeStart: Ip | None = Field(None, description="first address of `subnet`")
    rangeEnd: Ip | None = Field(None, description="last address of `subnet`")
    ipRange: Subnet | None = Field(None, description="the part of `subnet` that is given")
    gateway: Ip | None = Field(None, description="gateway of `subnet`")
    exclude: list[Span] = Field([], description="what of `subnet` is never given")
    auxAddresses: dict[str, Ip] = Field({}, description="the same, by names")
    ranges: list[list[RangeConfig]] = Field(
        [], description="one address out of each set; a set is a list of alternative ranges"
    )
    allocation: Allocation = Field(
        "next-fit", description="go on after the address given last, or first-fit: the lowest"
    )
    quarantineSeconds: Seconds = Field(
        0, description="how long an address rests after its release before it is given again"
    )
    gcGraceSeconds: Seconds = Field(0, description="GC leaves alone what is younger than that")
    routes: list[RouteConfig] = Field([], description="routes for the container")
    dataDir: Directory = Field(
        "/var/lib/cni/networks", description="where allocations live, shared with the Go plugin"
    )
    resolvConf: Directory | None = Field(
        None, description="a resolv.conf file whose settings the result passes on"
    )
