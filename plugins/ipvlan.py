"""The ipvlan plugin."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cnm_core.cni.main import Plugin


def plugin() -> "Plugin":
    """Containers that share the MAC address of a link of the host."""
    from cnm_core.cni.network_plugin import NetworkPlugin
    from cnm_core.drivers.ipvlan import Ipvlan

    return NetworkPlugin(Ipvlan)
