"""The verbs of an IPAM plugin: one of the drivers of this process, for other plugins."""

from cnm_core.cni import pools, result
from cnm_core.cni.invocation import Invocation, valid_attachments
from cnm_core.config import values
from cnm_core.errors import Drifted, InvalidNetworkConfig, NotAvailable, StateFailure, undo
from cnm_core.model import Attachment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cnm_core.ipam import IpamDriver


class IpamPlugin:
    """ADD, DEL, CHECK, GC and STATUS for the addresses of another plugin's endpoints.

    `kind` is the `ipam.type` of the driver, whatever the configuration has there.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def add(self, call: Invocation) -> dict[str, object]:
        """ADD: the addresses that the driver gives; a result without interfaces."""
        driver = self._driver(call)
        given = driver.request(call.key)
        try:
            return result.to_document(
                Attachment(leases=given.leases, routes=given.routes, dns=given.dns), call.version
            )
        except InvalidNetworkConfig:
            undo(driver.release, call.key)
            raise

    def delete(self, call: Invocation) -> None:
        """DEL: the endpoint has no address afterwards, whatever it had before."""
        self._releasing(call).release(call.key)

    def check(self, call: Invocation) -> None:
        """CHECK: an error says how the previous result differs from what the driver gave."""
        driver = self._driver(call)
        previous = values.required(call.config, "prevResult", "", values.mapping)
        leases = result.from_document(previous, call.version).leases
        found = driver.drift(call.key, leases)
        if found:
            raise Drifted("; ".join(map(str, found)), details="DEL and ADD make it anew")

    def collect(self, call: Invocation) -> None:
        """GC: every address whose owner is not a valid attachment becomes free."""
        valid = valid_attachments(call.config)
        if valid is None:
            return
        self._releasing(call).collect(valid)

    def status(self, call: Invocation) -> None:
        """STATUS: an error unless the next ADD can be served."""
        try:
            self._driver(call).check_status()
        except StateFailure as error:
            raise NotAvailable(error.msg, details=error.details) from None

    def _driver(self, call: Invocation) -> "IpamDriver":
        ipam = values.required(call.config, "ipam", "", values.mapping)
        return pools.driver(call, {**ipam, "type": self._kind})

    def _releasing(self, call: Invocation) -> "IpamDriver":
        ipam = call.config.get("ipam")
        own = {**(ipam if type(ipam) is dict else {}), "type": self._kind}
        return pools.releasing_driver(call, own)
