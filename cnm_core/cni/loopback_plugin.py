"""The verbs of the loopback plugin, which runtimes call beside every network."""

from cnm_core.cni import result
from cnm_core.cni.invocation import Invocation
from cnm_core.config.network import network_config
from cnm_core.drivers.loopback import Loopback
from cnm_core.errors import Drifted, InvalidNetworkConfig
from cnm_core.kernel.netns import find_netns, open_netns, own_inode


class LoopbackPlugin:
    """ADD, DEL and CHECK for `lo`. It keeps no records, so that GC has nothing to do."""

    def __init__(self) -> None:
        self._driver = Loopback()

    def add(self, call: Invocation) -> dict[str, object]:
        """ADD: `lo` is up. Chained after another plugin, that one's result stays as it is."""
        previous = network_config(call.config).prev_result
        if previous is not None:
            result.from_document(previous, call.version)
        netns = open_netns(call.netns)
        call.refuse_namespace(netns.inode, own_inode())
        attachment = self._driver.join(netns)
        if previous is not None:
            return {**previous, "cniVersion": call.version}
        return result.to_document(attachment, call.version)

    def delete(self, call: Invocation) -> None:
        """DEL: `lo` is down, or its sandbox gone."""
        netns = find_netns(call.netns)
        if netns is not None:
            call.refuse_namespace(netns.inode, own_inode())
            self._driver.leave(netns)

    def check(self, call: Invocation) -> None:
        """CHECK: an error where `lo` is down."""
        if network_config(call.config).prev_result is None:
            raise InvalidNetworkConfig("prevResult: is missing", details="CHECK compares with it")
        found = self._driver.drift(open_netns(call.netns))
        if found:
            raise Drifted("; ".join(map(str, found)), details="ADD sets it up")

    def collect(self, call: Invocation) -> None:
        """GC: nothing is kept."""

    def status(self, call: Invocation) -> None:
        """STATUS: always ready."""
