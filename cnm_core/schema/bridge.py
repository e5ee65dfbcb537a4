"""The bridge plugin's keys."""

from pydantic import Field

from cnm_core.schema.base import BridgeName, ConfigModel, Ip, MtuOrAuto, TrunkVid, Vid


class VlanTrunk(ConfigModel):
    """One VLAN, or those of a range, or both."""

    id: TrunkVid | None = Field(None, description="a VLAN")
    minID: TrunkVid | None = Field(None, description="the first VLAN of a range")
    maxID: TrunkVid | None = Field(None, description="the last VLAN of a range")


class BridgeConfig(ConfigModel):
    """A Linux bridge with one veth pair for each endpoint."""

    bridge: BridgeName = Field("cni0", description="the bridge; made when it is missing")
    isGateway: bool = Field(False, description="give the pool's gateway address to the bridge")
    isDefaultGateway: bool = Field(
        False, description="isGateway, and a default route through it in the container"
    )
    forceAddress: bool = Field(False, description="replace other addresses of the bridge")
    mtu: MtuOrAuto = Field(
        0,
        description=(
            "MTU of bridge and veth; 0 for the bridge's own, or 1500; auto for the smallest "
            "of the links with default routes, or 1500 without such routes"
        ),
    )
    hairpinMode: bool = Field(False, description="let a port send to itself")
    promiscMode: bool = Field(False, description="put the bridge into promiscuous mode")
    portIsolation: bool = Field(False, description="keep the network's containers apart")
    enabledad: bool = Field(False, description="wait for IPv6 duplicate address detection")
    disableContainerInterface: bool = Field(
        False, description="leave the container end down and without addresses"
    )
    ipMasq: bool = Field(False, description="masquerade what leaves the network")
    ipMasqBackend: str = Field("nftables", description="nftables, the only one")
    hostIPv4: Ip | None = Field(None, description="the address that masqueraded traffic gets")
    hostIPv6: Ip | None = Field(None, description="the same for IPv6")
    hostBindingIPv4: Ip | None = Field(
        None, description="the host's address of published ports that name none; all when left out"
    )
    isolation: bool | None = Field(
        None, description="let nothing in but published ports; where left out, as ipMasq"
    )
    internal: bool = Field(False, description="let nothing in or out")
    icc: bool = Field(True, description="false keeps the network's containers apart")
    macspoofchk: bool = Field(
        False, description="drop frames from other MAC addresses than the container's"
    )
    vlan: Vid = Field(0, description="the VLAN that the port has untagged; 0 for none")
    vlanTrunk: list[VlanTrunk] = Field([], description="the VLANs that the port has tagged")
    preserveDefaultVlan: bool = Field(
        False, description="leave the port in the bridge's default VLAN, too"
    )
