"""The host-local-ipam plugin, also called host-local."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cnm_core.cni.main import Plugin


def plugin() -> "Plugin":
    """Addresses for the endpoints of other plugins."""
    from cnm_core.cni.ipam_plugin import IpamPlugin

    return IpamPlugin("host-local")
