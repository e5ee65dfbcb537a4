"""Published ports, as runtimes spell them."""

import pytest

from cnm_core.cni.ports import published_ports
from cnm_core.errors import InvalidNetworkConfig
from cnm_core.model import PublishedPort


def test_keys_of_go_cni() -> None:
    """containerd's library begins every key with a capital; the conventions with none."""
    capitals = {"HostPort": 8080, "ContainerPort": 80, "Protocol": "udp", "HostIP": "127.0.0.1"}
    conventional = {"hostPort": 8081, "containerPort": 81, "protocol": "tcp", "hostIP": ""}
    config: dict[str, object] = {"runtimeConfig": {"portMappings": [capitals, conventional]}}
    assert published_ports(config) == (
        PublishedPort(17, 8080, 80, bytes((127, 0, 0, 1))),
        PublishedPort(6, 8081, 81, None),
    )


@pytest.mark.parametrize("mappings", ["x", {"HostPort": 1}, [5], [{"HostPort": "x"}]], ids=str)
def test_no_mappings(mappings: object) -> None:
    """What is no list of mappings is refused as ever."""
    with pytest.raises(InvalidNetworkConfig, match="portMappings"):
        published_ports({"runtimeConfig": {"portMappings": mappings}})
