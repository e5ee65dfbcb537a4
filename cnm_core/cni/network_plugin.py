"""The verbs of a network plugin: a CNI call becomes calls on the network controller."""

from cnm_core.cni import pools, result
from cnm_core.cni.invocation import Invocation, say, valid_attachments
from cnm_core.cni.ports import published_ports
from cnm_core.config.network import NetworkConfig, network_config
from cnm_core.controller import NetworkController
from cnm_core.errors import Error, InvalidNetworkConfig, undo
from cnm_core.ipam import dns_of
from cnm_core.kernel.netns import Netns, find_netns, open_netns, own_inode
from cnm_core.model import Attachment, Dns, EndpointOptions, Network
from cnm_core.phases import ended
from cnm_core.store.endpoints import EndpointStore

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from cnm_core.controller import Driver
    from cnm_core.ipam import IpamDriver
    from cnm_core.model import Endpoint

    class DriverType(Protocol):
        """A network driver's class: the decoder of its keys, and its constructor."""

        @staticmethod
        def options(document: object) -> object:
            """The driver's own keys, decoded."""

        def __call__(self) -> Driver:
            """A driver for one call."""

    class Pools(Protocol):
        """Which IPAM driver serves a call, as cnm_core.cni.pools has it."""

        def driver(self, call: Invocation, ipam: dict[str, object]) -> IpamDriver:
            """The driver for ADD, CHECK and STATUS. Raises InvalidNetworkConfig."""

        def driver_of(
            self, call: Invocation, endpoint: "Endpoint | None", config: NetworkConfig
        ) -> IpamDriver:
            """The driver that takes an endpoint's addresses back."""


class NetworkPlugin:
    """ADD, DEL, CHECK, GC and STATUS for one network driver."""

    def __init__(
        self, driver: "DriverType", pools: "Pools" = pools, *, of_host: bool = False
    ) -> None:
        """With `of_host` the sandbox must be the plugin's own namespace; else it must not."""
        self._driver = driver
        self._pools = pools
        self._of_host = of_host
        self._controller: NetworkController | None = None

    def add(self, call: Invocation) -> dict[str, object]:
        """ADD: an endpoint on the network for the sandbox, and its result."""
        config, network, ipam = self._read(call)
        options = EndpointOptions(pools.requested_mac(call, config), published_ports(call.config))
        netns = open_netns(call.netns)
        self._check_namespace(call, netns)
        ended("configuration")
        controller = self._controller_of(config)
        attachment = controller.attach(network, call.key, netns, ipam, options)
        try:
            return result.to_document(_with_dns(attachment, config), call.version)
        except Error:
            undo(self.delete, call)
            raise

    def delete(self, call: Invocation) -> None:
        """DEL: the endpoint is gone afterwards, whatever was left of it before.

        After an ADD in this process the network, too, if that has made it.
        """
        config = _lenient(call)
        netns = find_netns(call.netns)
        if netns is not None and not self._of_host:
            self._check_namespace(call, netns)
        ended("configuration")
        self._controller_of(config).detach(
            call.network,
            call.key,
            netns,
            lambda endpoint: self._pools.driver_of(call, endpoint, config),
        )

    def check(self, call: Invocation) -> None:
        """CHECK: an error says how the endpoint differs from the previous result."""
        config, network, ipam = self._read(call)
        if config.prev_result is None:
            raise InvalidNetworkConfig("prevResult: is missing", details="CHECK compares with it")
        previous = result.from_document(config.prev_result, call.version)
        netns = open_netns(call.netns)
        if self._of_host:
            self._check_namespace(call, netns)
        self._controller_of(config).check(network, call.key, netns, ipam, previous)

    def collect(self, call: Invocation) -> None:
        """GC: every endpoint of the network that is not a valid attachment goes."""
        valid = valid_attachments(call.config)
        if valid is None:
            return
        config = _lenient(call)
        self._controller_of(config).collect(
            call.network,
            valid,
            lambda endpoint: self._pools.driver_of(call, endpoint, config),
            pools.gc_grace_seconds(config.ipam),
        )

    def status(self, call: Invocation) -> None:
        """STATUS: an error unless the next ADD can be served."""
        config, network, ipam = self._read(call)
        self._controller_of(config).check_status(network, ipam)

    def _read(self, call: Invocation) -> "tuple[NetworkConfig, Network, IpamDriver]":
        config = network_config(call.config)
        ipam = self._pools.driver(call, config.ipam)
        options = self._driver.options(call.config)
        return config, Network(config.name, ipam.pool, options, config.state_dir), ipam

    def _check_namespace(self, call: Invocation, netns: Netns) -> None:
        if self._of_host:
            call.require_namespace(netns.inode, own_inode())
        else:
            call.refuse_namespace(netns.inode, own_inode())

    def _controller_of(self, config: NetworkConfig) -> NetworkController:
        """The controller of this call, which knows what it has made."""
        if self._controller is None:
            store = EndpointStore(config.state_dir)
            self._controller = NetworkController(self._driver(), store)
        return self._controller


def _lenient(call: Invocation) -> NetworkConfig:
    """The configuration for DEL and GC, which must work after it became invalid."""
    try:
        return network_config(call.config)
    except InvalidNetworkConfig as error:
        say(error.msg)
    ipam = call.config.get("ipam")
    default = NetworkConfig(call.network)
    return NetworkConfig(
        call.network,
        ipam=ipam if type(ipam) is dict else {},
        state_dir=pools.directory_or(call.config.get("stateDir"), default.state_dir),
    )


def _with_dns(attachment: Attachment, config: NetworkConfig) -> Attachment:
    """The attachment with the configuration's resolver settings, where it has any."""
    own = dns_of(config.dns)
    return attachment if own == Dns() else attachment.replace(dns=own)
