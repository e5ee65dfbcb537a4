"""What the configuration of each executable may contain, put together from the models.

Validation, documentation and `cnm schema` read it here; the executables themselves do not.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from cnm_core.schema.base import ConfigModel, Name
from cnm_core.schema.bridge import BridgeConfig
from cnm_core.schema.host import HostConfig
from cnm_core.schema.host_local import HostLocalConfig
from cnm_core.schema.ipvlan import IpvlanConfig
from cnm_core.schema.macvlan import MacvlanConfig
from cnm_core.schema.network import NetworkConfig
from cnm_core.schema.none import NoneConfig
from cnm_core.schema.overlay import OverlayConfig
from cnm_core.schema.ports import PortmapConfig, PortsConfig
from cnm_core.schema.remote import RemoteConfig
from cnm_core.schema.requests import RequestsConfig
from cnm_core.schema.static import StaticConfig


class PluginConfig(ConfigModel):
    """What the specification gives every plugin (CNI spec 1.1.0, "Plugin configuration")."""

    cniVersion: str = Field("0.1.0", description="version of the specification; the list's")
    type: str = Field(description="name of the executable")
    capabilities: dict[str, bool] = Field(
        {}, description="which parts of `runtimeConfig` the runtime may fill in"
    )


def _flag(value: Any) -> Any:
    """A boolean, which libcni takes as a word too."""
    return {"true": True, "false": False}.get(value.lower(), value) if type(value) is str else value


Flag = Annotated[bool, BeforeValidator(_flag)]


class ConflistConfig(ConfigModel):
    """A network: the plugins that make it, in their order (CNI spec 1.1.0, section 1)."""

    cniVersion: str = Field("0.1.0", description="version of the specification")
    cniVersions: list[str] = Field([], description="versions to choose the newest known from")
    name: Name = Field(description="name of the network, unique on the host")
    disableCheck: Flag = Field(False, description="have the runtime never call CHECK")
    disableGC: Flag = Field(False, description="have the runtime never call GC")
    loadOnlyInlinedPlugins: Flag = Field(
        False, description="take no plugins from the directory of the network's name"
    )
    plugins: list[dict[str, Any]] = Field([], description="the plugins, called in this order")


class LoopbackConfig(NetworkConfig):
    """The loopback interface of a container, which runtimes call beside every network."""


@dataclass(frozen=True)
class Plugin:
    """An executable: the models whose keys stand beside each other, its own last.

    `ipam` is what an IPAM plugin takes inside of `ipam`; None for other plugins. It may be no
    `executable`, but in those of other plugins only. A `chained` one needs another before it.
    `example` is the `plugins` of a network, where it is one of them or gives the addresses.
    """

    models: tuple[type[ConfigModel], ...]
    example: tuple[dict[str, Any], ...]
    ipam: type[ConfigModel] | None = None
    executable: bool = True
    chained: bool = False

    @property
    def about(self) -> str:
        """What it is, from the model with the keys of its own."""
        return " ".join(((self.ipam or self.models[-1]).__doc__ or "").split())


_ATTACHED = (PluginConfig, NetworkConfig, RequestsConfig, PortsConfig)
_IPAM = (PluginConfig, NetworkConfig, RequestsConfig)
_POOL = {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/24"}]]}
_PARENTS_POOL = {
    "type": "host-local",
    "ranges": [[{"subnet": "10.88.0.0/24", "ipRange": "10.88.0.128/25", "gateway": "10.88.0.1"}]],
    "routes": [{"dst": "0.0.0.0/0"}],
}
_BRIDGE: dict[str, Any] = {"type": "bridge", "bridge": "blue0", "isDefaultGateway": True}

PLUGINS = {
    "bridge": Plugin(
        models=(*_ATTACHED, BridgeConfig),
        example=(_BRIDGE | {"ipMasq": True, "ipam": _POOL},),
    ),
    "host": Plugin(
        models=(PluginConfig, NetworkConfig, HostConfig),
        example=({"type": "host"},),
    ),
    "host-local": Plugin(
        models=_IPAM,
        ipam=HostLocalConfig,
        example=(
            _BRIDGE
            | {
                "ipam": {
                    "type": "host-local",
                    "ranges": [
                        [{"subnet": "10.88.0.0/16", "ipRange": "10.88.4.0/22"}],
                        [{"subnet": "fd00:88::/64", "exclude": ["fd00:88::-fd00:88::ff"]}],
                    ],
                    "quarantineSeconds": 30,
                }
            },
        ),
    ),
    "ipvlan": Plugin(
        models=(*_ATTACHED, IpvlanConfig),
        example=({"type": "ipvlan", "master": "eth0", "ipam": _PARENTS_POOL},),
    ),
    "loopback": Plugin(
        models=(PluginConfig, LoopbackConfig),
        example=({"type": "loopback"},),
    ),
    "macvlan": Plugin(
        models=(*_ATTACHED, MacvlanConfig),
        example=({"type": "macvlan", "master": "eth0", "ipam": _PARENTS_POOL},),
    ),
    "none": Plugin(
        models=(PluginConfig, NetworkConfig, NoneConfig),
        example=({"type": "none"},),
    ),
    "overlay": Plugin(
        models=(*_ATTACHED, OverlayConfig),
        example=({"type": "overlay", "underlay": "eth0", "subnets": [{"subnet": "10.88.0.0/16"}]},),
    ),
    "portmap": Plugin(
        models=(PluginConfig, NetworkConfig, PortsConfig, PortmapConfig),
        chained=True,
        example=(
            _BRIDGE | {"ipam": _POOL},
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ),
    ),
    "remote": Plugin(
        models=_IPAM,
        ipam=RemoteConfig,
        executable=False,
        example=(
            _BRIDGE | {"ipam": {"type": "remote", "driver": "custom", "subnet": "10.88.0.0/24"}},
        ),
    ),
    "static": Plugin(
        models=_IPAM,
        ipam=StaticConfig,
        example=(
            _BRIDGE
            | {
                "ipam": {
                    "type": "static",
                    "addresses": [{"address": "10.88.0.5/24", "gateway": "10.88.0.1"}],
                    "routes": [{"dst": "0.0.0.0/0"}],
                }
            },
        ),
    ),
}
# Executables, and values of `ipam.type`, that are other names of these.
ALIASES = {"host-local-ipam": "host-local"}


def find(name: str) -> Plugin | None:
    """The plugin of that name, or None where it is not ours."""
    return PLUGINS.get(ALIASES.get(name, name))


def names_of(name: str) -> list[str]:
    """All names that a plugin of ours has, its own first."""
    return [name, *(alias for alias, target in ALIASES.items() if target == name)]
