"""Which IPAM driver serves a call: one of ours in this process, or a delegate."""

from cnm_core.cni.invocation import Invocation, say
from cnm_core.config import formats, values
from cnm_core.config.host_local import HostLocalConfig, host_local_config
from cnm_core.config.network import NetworkConfig, network_config
from cnm_core.errors import InvalidEnvironment, InvalidNetworkConfig
from cnm_core.ipam import ENVIRONMENT, NoIpam, Request
from cnm_core.ipam.host_local import HostLocal
from cnm_core.model import Endpoint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cnm_core.config.host_local import RangeConfig
    from cnm_core.config.remote import RemoteConfig
    from cnm_core.ipam import IpamDriver

# The names under which the config may ask for a driver that is in this process.
HOST_LOCAL = ("host-local", "host-local-ipam")
STATIC = "static"
REMOTE = "remote"
# What has no addresses to give: a plugin that is asked for some would run itself, on and on.
NETWORK_PLUGINS = (
    "bridge",
    "host",
    "ipvlan",
    "loopback",
    "macvlan",
    "none",
    "overlay",
    "portmap",
)


def driver(call: Invocation, ipam: dict[str, object]) -> "IpamDriver":
    """The driver that the `ipam` object asks for. Raises InvalidNetworkConfig."""
    kind = values.optional(ipam, "type", "ipam", values.text, "")
    if kind in HOST_LOCAL:
        options = host_local_config(ipam, "ipam")
        if call.command == "STATUS" and _ranges_come_later(call, options):
            return NoIpam()
        return HostLocal(call.network, options, *requests(call))
    if kind == STATIC:
        return _static(call, ipam)
    if kind in NETWORK_PLUGINS:
        raise InvalidNetworkConfig(
            f'ipam.type: "{kind}" gives no addresses: it is a network plugin',
            details="say host-local, static, or the name of an IPAM plugin, such as dhcp",
        )
    if _is_remote(call, kind, ipam):
        mac = requested_mac(call, network_config(call.config))
        return _remote(call, _remote_options(kind, ipam), requests(call)[0], mac)
    if kind:
        from cnm_core.cni.delegate import find_plugin

        find_plugin(kind, call.path)  # before links are made that it is to address
    return _keeping(call, kind)


def driver_of(call: Invocation, endpoint: Endpoint | None, config: NetworkConfig) -> "IpamDriver":
    """The driver that takes an endpoint's addresses back, by its record or the configuration."""
    if endpoint is None:
        return releasing_driver(call, config.ipam)
    if endpoint.pool.driver in HOST_LOCAL:
        same = config.ipam.get("type") in HOST_LOCAL
        options = _lenient_options(config.ipam) if same else HostLocalConfig()
        return HostLocal(call.network, options.replace(data_dir=endpoint.pool.data_dir))
    if endpoint.pool.driver == REMOTE:
        recorded = _lenient_remote(REMOTE, config.ipam).replace(data_dir=endpoint.pool.data_dir)
        return _remote(call, recorded)
    return _keeping(call, endpoint.pool.driver)


def releasing_driver(call: Invocation, ipam: dict[str, object]) -> "IpamDriver":
    """A driver that can take addresses back, from an object that may be invalid by now."""
    kind = ipam.get("type")
    if kind in HOST_LOCAL:
        return HostLocal(call.network, _lenient_options(ipam))
    kind = kind if type(kind) is str else ""
    if _is_remote(call, kind, ipam):
        return _remote(call, _lenient_remote(kind, ipam))
    return _keeping(call, kind)


def gc_grace_seconds(ipam: dict[str, object]) -> int:
    """How old an endpoint must be for GC to take it."""
    return _lenient_options(ipam).gc_grace_seconds if ipam.get("type") in HOST_LOCAL else 0


def _lenient_options(ipam: dict[str, object]) -> HostLocalConfig:
    """What taking addresses back needs of an object that may be invalid by now."""
    try:
        return host_local_config(ipam, "ipam")
    except InvalidNetworkConfig as error:
        say(error.msg)
    return host_local_config(dict(filter(_is_valid, ipam.items())), "ipam")


def _is_valid(pair: tuple[str, object]) -> bool:
    """Whether a key and its value are in order by themselves."""
    try:
        host_local_config(dict([pair]))
    except InvalidNetworkConfig:
        return False
    return True


def _ranges_come_later(call: Invocation, options: HostLocalConfig) -> bool:
    """Whether all ranges come with each ADD, which STATUS cannot look at."""
    capabilities = call.config.get("capabilities")
    declared = type(capabilities) is dict and capabilities.get("ipRanges") is True
    return declared and options.subnet is None and not options.ranges


def _static(call: Invocation, ipam: dict[str, object]) -> "IpamDriver":
    from cnm_core.config.static import static_config
    from cnm_core.ipam.static import Static

    wanted, _ = requests(call)
    gateways = tuple(formats.ip(each) for each in _arguments(call, "GATEWAY", formats.ip))
    return Static(static_config(ipam, "ipam"), wanted, gateways)


def _is_remote(call: Invocation, kind: str, ipam: dict[str, object]) -> bool:
    """Whether `ipam.type` means an IPAM driver of Docker's: by itself, or as a plugin's name.

    A plugin of that name in CNI_PATH comes first; a driver that gave something to the
    network is meant even while it is away.
    """
    if kind in (REMOTE, STATIC, "", *NETWORK_PLUGINS):
        return kind == REMOTE
    from cnm_core.cni.delegate import is_plugin

    if is_plugin(kind, call.path) or not _is_name(kind):
        return False
    from cnm_core.ipam.docker_plugin import find
    from cnm_core.store.remote import RemoteStore

    directory = _lenient_remote(kind, ipam).data_dir
    return find(kind) is not None or RemoteStore(directory, call.network).exists()


def _remote(
    call: Invocation,
    options: "RemoteConfig",
    requests: tuple[Request, ...] = (),
    mac: bytes | None = None,
) -> "IpamDriver":
    from cnm_core.ipam.remote import Remote

    return Remote(call.network, options, say, requests, mac)


def _remote_options(kind: str, ipam: dict[str, object]) -> "RemoteConfig":
    from cnm_core.config.remote import remote_config

    return remote_config(ipam if kind == REMOTE else {**ipam, "driver": kind}, "ipam")


def _lenient_remote(kind: str, ipam: dict[str, object]) -> "RemoteConfig":
    """What giving addresses back needs of an object that may be invalid by now."""
    from cnm_core.config.remote import RemoteConfig

    try:
        return _remote_options(kind, ipam)
    except InvalidNetworkConfig as error:
        say(error.msg)
    return RemoteConfig(data_dir=directory_or(ipam.get("dataDir"), RemoteConfig().data_dir))


def requests(
    call: Invocation,
) -> "tuple[tuple[Request, ...], tuple[tuple[RangeConfig, ...], ...]]":
    """The addresses that are asked for, the strongest first, and the runtime's range sets."""
    found: list[Request] = []
    ranges: tuple[tuple[RangeConfig, ...], ...] = ()
    if _asks(call.config.get("runtimeConfig")) or call.config.get("args"):
        from cnm_core.config.requests import requests_config

        config = requests_config(call.config)
        ranges = config.runtime_config.ip_ranges
        found += [Request(text, "runtimeConfig.ips") for text in config.runtime_config.ips]
        found += [Request(text, "args.cni.ips") for text in config.args.cni.ips]
    found += [Request(text, ENVIRONMENT) for text in _arguments(call, "IP", formats.requested)]
    return tuple(found), ranges


def _asks(runtime: object) -> bool:
    return type(runtime) is dict and bool(runtime.get("ips") or runtime.get("ipRanges"))


def _arguments(call: Invocation, key: str, meaning: "Callable[[str], object]") -> list[str]:
    """The values of a pair of CNI_ARGS, which commas separate. Raises InvalidEnvironment."""
    text = call.args.get(key, "")
    found = [each.strip() for each in text.split(",")] if text else []
    for each in found:
        try:
            meaning(each)
        except ValueError as error:
            raise InvalidEnvironment(f"CNI_ARGS: {key} {error}") from None
    return found


def requested_mac(call: Invocation, config: NetworkConfig) -> bytes | None:
    """The MAC address asked for: by runtimeConfig, else by args.cni, else by CNI_ARGS."""
    mac = config.runtime_config.mac or config.args.cni.mac
    if mac is None and call.args.get("MAC"):
        try:
            return formats.mac(call.args["MAC"])
        except ValueError as error:
            raise InvalidEnvironment(f"CNI_ARGS: MAC {error}") from None
    return mac


def _is_name(text: str) -> bool:
    try:
        return formats.name(text) == text
    except ValueError:
        return False


def _keeping(call: Invocation, kind: str) -> "IpamDriver":
    if kind in ("", STATIC, *NETWORK_PLUGINS):
        return NoIpam()  # nothing is kept that would have to be given back
    from cnm_core.cni.delegate import DelegatedIpam

    return DelegatedIpam(kind, call)


def directory_or(value: object, default: str) -> str:
    """A directory of the configuration, or the default where it makes no sense."""
    try:
        return formats.directory(value) if type(value) is str and value else default
    except ValueError:
        return default
