"""The host plugin."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cnm_core.cni.main import Plugin


def plugin() -> "Plugin":
    """Containers in the host's own network namespace."""
    from cnm_core.cni.network_plugin import NetworkPlugin
    from cnm_core.drivers.host import Host

    return NetworkPlugin(Host, of_host=True)
