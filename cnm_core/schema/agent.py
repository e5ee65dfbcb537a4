"""The keys of the agent's own file."""

from pydantic import Field

from cnm_core.schema.base import ConfigModel, Directory, Name, Port
from cnm_core.schema.overlay import StoreConfig


class AgentConfig(ConfigModel):
    """The agent's configuration: the same keys and values as in this host's conflists."""

    store: StoreConfig = Field(StoreConfig(), description="what the hosts share")
    underlay: str = Field(
        "", description="address or link that VXLAN uses; the default route's when left out"
    )
    node: Name | None = Field(None, description="this host's name; its host name when left out")
    wireguardPort: Port = Field(51830, description="UDP port of this host's WireGuard")
    dataDir: Directory = Field("/var/lib/cni/networks", description="where allocations live")
    stateDir: Directory = Field("/run/cnm", description="where records of endpoints live")
    confDir: Directory = Field(
        "/etc/cni/net.d",
        description="where files of the cluster's networks go that other hosts have made",
    )
    listenPort: Port = Field(9475, description="port of 127.0.0.1 for /metrics and /healthz")
