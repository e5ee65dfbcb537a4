"""The none plugin."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cnm_core.cni.main import Plugin


def plugin() -> "Plugin":
    """Containers with loopback and nothing else."""
    from cnm_core.cni.network_plugin import NetworkPlugin
    from cnm_core.drivers.none import Isolated

    return NetworkPlugin(Isolated)
