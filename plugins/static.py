"""The static plugin."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cnm_core.cni.main import Plugin


def plugin() -> "Plugin":
    """Addresses that the configuration itself says."""
    from cnm_core.cni.ipam_plugin import IpamPlugin

    return IpamPlugin("static")
