"""Published ports, as runtimes hand them down (CNI conventions, "portMappings")."""

from cnm_core.model import PublishedPort


def published_ports(config: dict[str, object]) -> tuple[PublishedPort, ...]:
    """The ports of runtimeConfig.portMappings. Raises InvalidNetworkConfig."""
    runtime = config.get("runtimeConfig")
    if type(runtime) is not dict or not runtime.get("portMappings"):
        return ()
    from cnm_core.config.ports import ports_config

    return tuple(
        PublishedPort(each.protocol, each.host_port, each.container_port, each.host_ip)
        for each in ports_config(config).runtime_config.port_mappings
    )
