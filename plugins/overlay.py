"""The overlay plugin."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cnm_core.cni.main import Plugin


def plugin() -> "Plugin":
    """Containers on one network over many hosts."""
    from cnm_core.cni import cluster_pools
    from cnm_core.cni.network_plugin import NetworkPlugin
    from cnm_core.drivers.overlay import Overlay

    return NetworkPlugin(Overlay, cluster_pools)
