"""What every plugin's configuration has (CNI spec 1.1.0, "Plugin configuration objects")."""

from typing import Any

from pydantic import Field

from cnm_core.schema.base import (
    ConfigModel,
    Directory,
    Ip,
    LogLevel,
    Mac,
    Mtu,
    Name,
    Subnet,
    Uint8,
    Uint32,
)


class DnsConfig(ConfigModel):
    """Resolver settings for the container, passed on in the result."""

    nameservers: list[Ip] = Field([], description="addresses of name servers, first one first")
    domain: str = Field("", description="the local domain")
    search: list[str] = Field([], description="domains to search short names in")
    options: list[str] = Field([], description="resolver options, as in resolv.conf(5)")


class RouteConfig(ConfigModel):
    """A route of the container."""

    dst: Subnet = Field(description="destination in CIDR notation; 0.0.0.0/0 and ::/0 for default")
    gw: Ip | None = Field(None, description="next hop; the pool's gateway when left out")
    mtu: Mtu | None = Field(None, description="path MTU in bytes")
    advmss: Mtu | None = Field(None, description="TCP maximum segment size to advertise, in bytes")
    priority: Uint32 | None = Field(None, description="metric: of equal routes the lowest wins")
    table: Uint32 | None = Field(None, description="routing table; main (254) when left out")
    scope: Uint8 | None = Field(None, description="0 universe, 253 link, 254 host")


class RuntimeConfig(ConfigModel):
    """What a runtime fills in for the capabilities that the configuration declares."""

    mac: Mac | None = Field(None, description="MAC address of the container's interface")


class CniArgs(ConfigModel):
    """What an orchestrator hands down in the configuration itself."""

    mac: Mac | None = Field(None, description="MAC address, where runtimeConfig has none")


class ArgsConfig(ConfigModel):
    """The `args` object (CNI conventions, "args")."""

    cni: CniArgs = Field(CniArgs(), description="arguments that any plugin may use")


class NetworkConfig(ConfigModel):
    """The keys that all network plugins share."""

    name: Name = Field(description="name of the network, unique on the host")
    ipam: dict[str, Any] = Field({}, description="address management; without a type, none")
    dns: DnsConfig = Field(DnsConfig(), description="resolver settings; win over the pool's")
    args: ArgsConfig = Field(ArgsConfig(), description="arguments from the orchestrator")
    runtimeConfig: RuntimeConfig = Field(RuntimeConfig(), description="filled in by the runtime")
    prevResult: dict[str, Any] | None = Field(None, description="filled in by the runtime")
    stateDir: Directory = Field("/run/cnm", description="where records of endpoints live")
    logFile: Directory | None = Field(
        None, description="file that gets a line for each operation; CNM_LOG's when left out"
    )
    logLevel: LogLevel = Field("info", description="error: a line only where one failed")
