"""The portmap plugin."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cnm_core.cni.main import Plugin


def plugin() -> "Plugin":
    """Published ports for what another plugin attached."""
    from cnm_core.cni.portmap_plugin import PortmapPlugin

    return PortmapPlugin()
