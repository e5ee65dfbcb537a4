"""Published ports, which runtimes hand down by the capability `portMappings`."""

from pydantic import Field

from cnm_core.schema.base import Bit, ConfigModel, Ip, Port, Protocol


class PortMapping(ConfigModel):
    """A port of the host that leads to a port of the container."""

    hostPort: Port = Field(description="port of the host")
    containerPort: Port = Field(description="port of the container")
    protocol: Protocol = Field("tcp", description="tcp, udp or sctp")
    hostIP: Ip | None = Field(None, description="address of the host; all of them when left out")


class PortsRuntimeConfig(ConfigModel):
    """The part of `runtimeConfig` that is about ports."""

    portMappings: list[PortMapping] = Field([], description="ports to publish")


class PortsConfig(ConfigModel):
    """The keys of a plugin that publishes ports."""

    runtimeConfig: PortsRuntimeConfig = Field(
        PortsRuntimeConfig(), description="filled in by the runtime"
    )


class PortmapConfig(ConfigModel):
    """Published ports for a container that another plugin attached."""

    backend: str = Field("nftables", description="nftables, the only one")
    snat: bool = Field(True, description="let containers and the host itself reach the ports too")
    masqAll: bool = Field(False, description="masquerade all traffic to the ports")
    markMasqBit: Bit | None = Field(None, description="the Go plugin's; no mark is needed here")
    externalSetMarkChain: str = Field("", description="the Go plugin's, for iptables only")
    conditionsV4: list[str] = Field([], description="the Go plugin's, in words of its backend")
    conditionsV6: list[str] = Field([], description="the Go plugin's, in words of its backend")
