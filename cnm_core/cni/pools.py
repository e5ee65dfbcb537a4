"""Which IPAM driver serves a call: one of ours in this process, or a delegate."""

from cnm_core.cni.invocation import Invocation, say
from cnm_core.config import formats, values
from cnm_core.config.host_local import HostLocalConfig, host_local_config
from cnm_core.config.network import NetworkConfig
from cnm_core.errors import InvalidNetworkConfig
from cnm_core.ipam import NoIpam
from cnm_core.ipam.host_local import HostLocal
from cnm_core.model import Endpoint

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
    return _named(call, kind)


def driver_of(call: Invocation, endpoint: Endpoint | None, config: NetworkConfig) -> "IpamDriver":
    """The driver that takes an endpoint's addresses back, by its record or the configuration."""
    if endpoint is None:
        return releasing_driver(call, config.ipam)
    if endpoint.pool.driver in HOST_LOCAL:
        return HostLocal(call.network, HostLocalConfig(data_dir=endpoint.pool.data_dir))
    return _named(call, endpoint.pool.driver)


def releasing_driver(call: Invocation, ipam: dict[str, object]) -> "IpamDriver":
    """A driver that can take addresses back, from an object that may be invalid by now."""
    kind = ipam.get("type")
    if kind not in HOST_LOCAL:
        return _named(call, kind if type(kind) is str else "")
    try:
        return HostLocal(call.network, host_local_config(ipam, "ipam"))
    except InvalidNetworkConfig as error:
        say(error.msg)
    default = HostLocalConfig().data_dir
    data_dir = directory_or(ipam.get("dataDir"), default)
    return HostLocal(call.network, HostLocalConfig(data_dir=data_dir))


def _named(call: Invocation, kind: str) -> "IpamDriver":
    if not kind:
        return NoIpam()
    from cnm_core.cni.delegate import DelegatedIpam

    return DelegatedIpam(kind, call)


def directory_or(value: object, default: str) -> str:
    """A directory of the configuration, or the default where it makes no sense."""
    try:
        return formats.directory(value) if type(value) is str and value else default
    except ValueError:
        return default
