"""The macvlan plugin's keys."""

from pydantic import Field

from cnm_core.schema.base import ConfigModel, InterfaceName, Mac, MacvlanMode, Mtu, Uint32


class MacvlanConfig(ConfigModel):
    """Containers with MAC addresses of their own on a link of the host."""

    master: InterfaceName | None = Field(
        None, description="the parent link; the default route's when left out"
    )
    parent: InterfaceName | None = Field(
        None, description="the same; a VLAN link such as eth0.10 is made when missing"
    )
    mode: MacvlanMode | None = Field(
        None, description="bridge, private, vepa or passthru; bridge when left out"
    )
    macvlan_mode: MacvlanMode | None = Field(None, description="the same, as Docker spells it")
    mtu: Mtu = Field(0, description="MTU in bytes; 0 for the parent's")
    mac: Mac | None = Field(None, description="MAC address, where the call asks for none")
    linkInContainer: bool = Field(
        False, description="find the parent in the container's network namespace"
    )
    bcqueuelen: Uint32 = Field(
        0, description="broadcasts that the parent queues at most; 0 for the kernel's 1000"
    )
    internal: bool = Field(
        False, description="no way in or out: a parent of the network's own that leads nowhere"
    )
    enabledad: bool = Field(False, description="wait for IPv6 duplicate address detection")
