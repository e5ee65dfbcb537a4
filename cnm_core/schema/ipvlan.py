"""The ipvlan plugin's keys."""

from pydantic import Field

from cnm_core.schema.base import ConfigModel, InterfaceName, IpvlanFlag, IpvlanMode, Mtu


class IpvlanConfig(ConfigModel):
    """Containers that share the MAC address of a link of the host."""

    master: InterfaceName | None = Field(
        None, description="the parent link; the default route's when left out"
    )
    parent: InterfaceName | None = Field(
        None, description="the same; a VLAN link such as eth0.10 is made when missing"
    )
    mode: IpvlanMode | None = Field(None, description="l2, l3 or l3s; l2 when left out")
    ipvlan_mode: IpvlanMode | None = Field(None, description="the same, as Docker spells it")
    flag: IpvlanFlag | None = Field(
        None, description="bridge, private or vepa; bridge when left out"
    )
    ipvlan_flag: IpvlanFlag | None = Field(None, description="the same, as Docker spells it")
    mtu: Mtu = Field(0, description="MTU in bytes; 0 for the parent's")
    linkInContainer: bool = Field(
        False, description="find the parent in the container's network namespace"
    )
    internal: bool = Field(
        False, description="no way in or out: a parent of the network's own that leads nowhere"
    )
    enabledad: bool = Field(False, description="wait for IPv6 duplicate address detection")
