"""The bridge plugin."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cnm_core.cni.main import Plugin


def plugin() -> "Plugin":
    """Containers on one Linux bridge."""
    from cnm_core.cni.network_plugin import NetworkPlugin
    from cnm_core.drivers.bridge import Bridge

    return NetworkPlugin(Bridge)
