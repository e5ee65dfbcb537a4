"""The overlay plugin's keys."""

from pydantic import Field

from cnm_core.schema.base import (
    Bum,
    ConfigModel,
    Directory,
    Encrypted,
    Endpoint,
    Ip,
    Mtu,
    Name,
    OverlayMode,
    Port,
    Subnet,
    Vni,
)


class StoreConfig(ConfigModel):
    """Where the hosts of an overlay write down what they share."""

    endpoints: list[Endpoint] = Field(
        [], description="servers of an etcd, as in http://10.0.0.1:2379; without any, files"
    )
    cluster: Name = Field("default", description="tells clusters on one etcd apart")
    caFile: Directory | None = Field(
        None, description="PEM file of the authority that signed the servers' certificates"
    )
    certFile: Directory | None = Field(None, description="PEM file of this host's certificate")
    keyFile: Directory | None = Field(None, description="PEM file of its key")
    user: str = Field("", description="etcd's user")
    passwordFile: Directory | None = Field(None, description="file with the user's password")
    directory: Directory = Field("/var/lib/cnm/cluster", description="the files of one host alone")


class OverlaySubnet(ConfigModel):
    """A subnet of an overlay network."""

    subnet: Subnet = Field(description="addresses of the network's containers on all hosts")
    gateway: Ip | None = Field(
        None, description="the bridge's address on every host; the subnet's first when left out"
    )


class OverlayConfig(ConfigModel):
    """A network over many hosts: a bridge on each, with VXLAN between them."""

    subnets: list[OverlaySubnet] = Field(description="one address of each for a container")
    store: StoreConfig = Field(StoreConfig(), description="what the hosts share")
    vni: Vni = Field(0, description="VXLAN network identifier; 0 for a free one")
    port: Port = Field(4789, description="UDP port of VXLAN")
    mtu: Mtu = Field(0, description="MTU of bridge and veth; 0 for what the underlay leaves")
    internal: bool = Field(False, description="let nothing in or out")
    mode: OverlayMode = Field(
        "l2",
        description="l2 has one link layer over all hosts; l3 gives each host subnets of its own, "
        "which the others route there",
    )
    bum: Bum = Field(
        "none",
        description="ingress-replication has broadcasts, multicasts and what goes to unknown MAC "
        "addresses sent to every host with containers of the network; none drops them",
    )
    txChecksum: bool = Field(
        True,
        description="false has the kernel compute the checksums of what containers send to other "
        "hosts, for links of the underlay that get those within VXLAN wrong",
    )
    encrypted: Encrypted = Field(
        False,
        description="true has what goes between hosts encrypted by WireGuard, esp by IPsec's ESP "
        "with AES-GCM",
    )
    wireguardPort: Port = Field(51830, description="UDP port of this host's WireGuard")
    underlay: str = Field(
        "", description="address or link that VXLAN uses; the default route's when left out"
    )
    node: Name | None = Field(None, description="this host's name; its host name when left out")
    dataDir: Directory = Field(
        "/var/lib/cni/networks", description="where allocations live, as host-local's"
    )
    stateDir: Directory = Field("/run/cnm", description="where records of endpoints live")
