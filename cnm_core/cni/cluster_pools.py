"""The IPAM driver of overlay networks, which belongs to the network and is never chosen."""

from cnm_core import json
from cnm_core.cni import pools
from cnm_core.cni.invocation import Invocation, say
from cnm_core.config import values
from cnm_core.config.network import NetworkConfig, network_config
from cnm_core.config.overlay import OverlayConfig, overlay_config
from cnm_core.errors import Error, InvalidNetworkConfig, UnsupportedField
from cnm_core.ipam.cluster import ClusterIpam
from cnm_core.model import Endpoint
from cnm_core.store.membership import membership_of, without_store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cnm_core.ipam import IpamDriver


def driver(call: Invocation, ipam: dict[str, object]) -> "IpamDriver":
    """The driver for ADD, CHECK and STATUS. Raises InvalidNetworkConfig, UnsupportedField."""
    kind = values.optional(ipam, "type", "ipam", values.text, "")
    if kind:
        raise UnsupportedField(
            f"ipam.type: {json.shorten(kind)} is not supported on an overlay network",
            details="leave ipam out: addresses come out of subnets, on all hosts alike",
        )
    options = overlay_config(call.config)
    requests, _ = pools.requests(call)
    mac = pools.requested_mac(call, network_config(call.config))
    return ClusterIpam(call.network, options, membership_of(options, _say), requests, mac)


def driver_of(call: Invocation, endpoint: Endpoint | None, config: NetworkConfig) -> "IpamDriver":
    """The driver that takes an endpoint's addresses back, however broken the configuration."""
    default = OverlayConfig(())
    data_dir = pools.directory_or(call.config.get("dataDir"), default.data_dir)
    if endpoint is not None and endpoint.pool.data_dir:
        data_dir = endpoint.pool.data_dir
    try:
        options = overlay_config(call.config).replace(data_dir=data_dir)
        return ClusterIpam(call.network, options, membership_of(options, _say))
    except InvalidNetworkConfig as error:
        say(error.msg)
    options = default.replace(data_dir=data_dir, state_dir=config.state_dir)
    return ClusterIpam(call.network, options, without_store(options))


def _say(error: Error) -> None:
    say(error.msg)
