"""The loopback plugin."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cnm_core.cni.main import Plugin


def plugin() -> "Plugin":
    """The loopback interface of a sandbox."""
    from cnm_core.cni.loopback_plugin import LoopbackPlugin

    return LoopbackPlugin()
