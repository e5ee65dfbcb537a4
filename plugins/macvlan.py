"""The macvlan plugin."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cnm_core.cni.main import Plugin


def plugin() -> "Plugin":
    """Containers with MAC addresses of their own on a link of the host."""
    from cnm_core.cni.network_plugin import NetworkPlugin
    from cnm_core.drivers.macvlan import Macvlan

    return NetworkPlugin(Macvlan)
