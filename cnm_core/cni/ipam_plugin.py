"""The verbs of an IPAM plugin for host-local addresses."""

from cnm_core.cni import pools, result
from cnm_core.cni.invocation import Invocation, valid_attachments
from cnm_core.config import values
from cnm_core.config.host_local import host_local_config
from cnm_core.errors import Drifted, InvalidNetworkConfig
from cnm_core.ipam.host_local import HostLocal
from cnm_core.model import Attachment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cnm_core.ipam import IpamDriver


class HostLocalPlugin:
    """ADD, DEL, CHECK, GC and STATUS for the addresses of another plugin's endpoints."""

    def add(self, call: Invocation) -> dict[str, object]:
        """ADD: an address out of each range set; a result without interfaces."""
        driver = _driver(call)
        given = driver.request(call.key)
        try:
            return result.to_document(
                Attachment(leases=given.leases, routes=given.routes, dns=given.dns), call.version
            )
        except InvalidNetworkConfig:
            driver.release(call.key)
            raise

    def delete(self, call: Invocation) -> None:
        """DEL: the endpoint has no address afterwards, whatever it had before."""
        _releasing(call).release(call.key)

    def check(self, call: Invocation) -> None:
        """CHECK: an error says which address of the previous result is not allocated."""
        driver = _driver(call)
        previous = call.config.get("prevResult")
        if previous is None:
            raise InvalidNetworkConfig("prevResult: is missing", details="CHECK compares with it")
        leases = result.from_document(previous, call.version).leases
        found = driver.drift(call.key, leases)
        if found:
            raise Drifted("; ".join(map(str, found)), details="DEL and ADD make it anew")

    def collect(self, call: Invocation) -> None:
        """GC: every address whose owner is not a valid attachment becomes free."""
        valid = valid_attachments(call.config)
        if valid is None:
            return
        _releasing(call).collect(valid)

    def status(self, call: Invocation) -> None:
        """STATUS: an error unless each range set has a free address."""
        _driver(call).check_status()


def _driver(call: Invocation) -> HostLocal:
    ipam = values.required(call.config, "ipam", "", values.mapping)
    return HostLocal(call.network, host_local_config(ipam, "ipam"))


def _releasing(call: Invocation) -> "IpamDriver":
    ipam = call.config.get("ipam")
    own = {**(ipam if type(ipam) is dict else {}), "type": "host-local"}
    return pools.releasing_driver(call, own)
