"""Published ports, as runtimes hand them down (CNI conventions, "portMappings")."""

from cnm_core.errors import InvalidNetworkConfig
from cnm_core.model import PublishedPort

_LOOPBACK_6 = bytes(15) + b"\x01"
_MAPPED = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96


def published_ports(config: dict[str, object]) -> tuple[PublishedPort, ...]:
    """The ports of runtimeConfig.portMappings. Raises InvalidNetworkConfig."""
    runtime = config.get("runtimeConfig")
    if type(runtime) is not dict or not runtime.get("portMappings"):
        return ()
    from cnm_core.config.ports import ports_config

    mappings = _conventional(runtime["portMappings"])
    decoded = ports_config({"runtimeConfig": {"portMappings": mappings}}).runtime_config
    ports = tuple(
        PublishedPort(each.protocol, each.host_port, each.container_port, _plain(each.host_ip))
        for each in decoded.port_mappings
    )
    for index, port in enumerate(ports):
        if port.host_ip == _LOOPBACK_6:
            raise InvalidNetworkConfig(
                f"runtimeConfig.portMappings[{index}].hostIP: ::1 cannot be published: the kernel "
                "leads no connection from there to a container",
                details="publish the port on 127.0.0.1",
            )
        for earlier in ports[:index]:
            if _clash(earlier, port):
                raise InvalidNetworkConfig(
                    f"runtimeConfig.portMappings[{index}]: publishes port {port.host_port} again"
                )
    return ports


def _conventional(mappings: object) -> object:
    """Mappings with keys as the conventions spell them.

    containerd's and nerdctl's library writes HostPort, ContainerPort, Protocol and HostIP: its
    PortMapping (containerd/go-cni, types.go) has no names for JSON, and Go reads any case.
    """
    if type(mappings) is not list:
        return mappings
    return [
        {key[:1].lower() + key[1:]: value for key, value in each.items()}
        if type(each) is dict
        else each
        for each in mappings
    ]


def _plain(ip: bytes | None) -> bytes | None:
    """An IPv4 address in IPv6's form as what it is, which Go never tells apart."""
    return ip[12:] if ip is not None and ip.startswith(_MAPPED) else ip


def _clash(one: PublishedPort, other: PublishedPort) -> bool:
    """Whether two mappings are about one port of one address of the host."""
    if (one.protocol, one.host_port) != (other.protocol, other.host_port):
        return False
    if (one.host_ip and any(one.host_ip)) or (other.host_ip and any(other.host_ip)):
        return one.host_ip == other.host_ip
    return one.host_ip is None or other.host_ip is None or one.host_ip == other.host_ip
