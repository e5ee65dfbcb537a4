"""Which IPAM driver serves a call: one of ours in this process, or a delegate."""

from cnm_core.cni.invocation import Invocation, say
from cnm_core.config import formats, values
from cnm_core.config.host_local import HostLocalConfig, host_local_config
from cnm_core.errors import InvalidNetworkConfig
from cnm_core.ipam import NoIpam
from cnm_core.ipam.host_local import HostLocal
from cnm_core.model import Pool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cnm_core.ipam import IpamDriver

# The names under which the config may ask for the driver that is in this process.
HOST_LOCAL = ("host-local", "host-local-ipam")


def driver(call: Invocation, ipam: dict[str, object]) -> "IpamDriver":
    """The driver that the `ipam` object asks for. Raises InvalidNetworkConfig."""
    kind = values.optional(ipam, "type", "ipam", values.text, "")
    if kind in HOST_LOCAL:
        return HostLocal(call.network, host_local_config(ipam, "ipam"))
    return driver_of(call, Pool(kind))


def driver_of(call: Invocation, pool: Pool) -> "IpamDriver":
    """A driver that can give back what came from a pool."""
    if not pool.driver:
        return NoIpam()
    if pool.driver in HOST_LOCAL:
        return HostLocal(call.network, HostLocalConfig(data_dir=pool.data_dir))
    from cnm_core.cni.delegate import DelegatedIpam

    return DelegatedIpam(pool.driver, call)


def releasing_driver(call: Invocation, ipam: dict[str, object]) -> "IpamDriver":
    """A driver that can give back addresses, from an object that may be invalid by now."""
    kind = ipam.get("type")
    if type(kind) is str and kind and kind not in HOST_LOCAL:
        return driver_of(call, Pool(kind))
    try:
        host_local_config(ipam, "ipam")
    except InvalidNetworkConfig as error:
        say(error.msg)
    default = HostLocalConfig().data_dir
    return driver_of(call, Pool("host-local", directory_or(ipam.get("dataDir"), default)))


def directory_or(value: object, default: str) -> str:
    """A directory of the configuration, or the default where it makes no sense."""
    try:
        return formats.directory(value) if type(value) is str and value else default
    except ValueError:
        return default
