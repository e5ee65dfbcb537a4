"""The forms of results in each version (CNI spec 1.1.0, section 5, and its predecessors)."""

from collections.abc import Callable

import pytest

from tests import cni
from tests.cni import INVALID_CONFIG, PLUGIN_SPECIFIC, WITH_CHECK, WITH_INTERFACES, Config, Endpoint
from tests.iproute import Snapshot

MakeEndpoint = Callable[[], Endpoint]

OLD = ["0.1.0", "0.2.0"]
FAMILIES = ["0.3.0", "0.3.1", "0.4.0"]
ROUTES = [
    {"dst": "0.0.0.0/0"},
    {"dst": "fd08::/48", "gw": "fd00:1::9", "mtu": 1400, "priority": 7, "table": 100},
]
NAMESERVERS = {"nameservers": ["10.1.0.1"]}


@pytest.fixture
def dual(config: Config) -> Config:
    """A dual-stack network with routes and a name server."""
    ipam = cni.host_local("10.1.0.0/24", "fd00:1::/64", routes=ROUTES)
    return config | {"ipam": ipam, "dns": NAMESERVERS}


@pytest.fixture
def result_of(endpoint: MakeEndpoint, dual: Config) -> Callable[[str], Config]:
    """The result of an ADD in a version."""
    return lambda version: endpoint().add(dual | {"cniVersion": version})


def _keys(members: list[Config]) -> set[str]:
    return {key for member in members for key in member}


@pytest.mark.since("1.1.0")
@pytest.mark.needs("interface")
def test_newest(result_of: Callable[[str], Config]) -> None:
    """spec: in 1.1.0 interfaces may have an mtu, routes have all their attributes."""
    result = result_of("1.1.0")
    assert result.keys() == {"cniVersion", "interfaces", "ips", "routes", "dns"}
    assert all(each.get("mtu") in (None, 1500) for each in result["interfaces"])
    assert result["ips"] == [
        {"address": "10.1.0.2/24", "gateway": "10.1.0.1", "interface": _last(result)},
        {"address": "fd00:1::2/64", "gateway": "fd00:1::1", "interface": _last(result)},
    ]
    assert result["routes"] == ROUTES
    assert result["dns"] == NAMESERVERS


@pytest.mark.needs("interface")
def test_1_0_0(result_of: Callable[[str], Config]) -> None:
    """A result of 1.0.0 has no key that is newer."""
    result = result_of("1.0.0")
    assert _keys(result["interfaces"]) == {"name", "mac", "sandbox"}
    assert _keys(result["ips"]) == {"address", "gateway", "interface"}
    assert _keys(result["routes"]) == {"dst", "gw"}


@pytest.mark.needs("interface")
@pytest.mark.parametrize("version", FAMILIES)
def test_with_families(result_of: Callable[[str], Config], version: str) -> None:
    """In 0.3.0 to 0.4.0 an address tells its family, and no key is newer."""
    result = result_of(version)
    assert _keys(result["interfaces"]) == {"name", "mac", "sandbox"}
    assert [(ip["version"], ip["address"]) for ip in result["ips"]] == [
        ("4", "10.1.0.2/24"),
        ("6", "fd00:1::2/64"),
    ]
    assert _keys(result["routes"]) == {"dst", "gw"}
    assert result["dns"] == NAMESERVERS


@pytest.mark.needs("interface")
@pytest.mark.parametrize("version", OLD)
def test_old(result_of: Callable[[str], Config], version: str) -> None:
    """spec: in 0.1.0 and 0.2.0 one address of each family with its routes, no interfaces."""
    assert result_of(version) == {
        "cniVersion": version,
        "ip4": {
            "ip": "10.1.0.2/24",
            "gateway": "10.1.0.1",
            "routes": [{"dst": "0.0.0.0/0"}],
        },
        "ip6": {
            "ip": "fd00:1::2/64",
            "gateway": "fd00:1::1",
            "routes": [{"dst": "fd08::/48", "gw": "fd00:1::9"}],
        },
        "dns": NAMESERVERS,
    }


@pytest.mark.needs("addresses")
@pytest.mark.parametrize("version", OLD)
def test_old_has_room_for_one_of_a_family(
    endpoint: MakeEndpoint, snapshot: Callable[..., Snapshot], config: Config, version: str
) -> None:
    """A second address of a family has no place in 0.2.0: an error, and nothing is left."""
    endpoint().add(config)
    two = config | {"cniVersion": version, "ipam": cni.host_local("10.1.0.0/24", "10.2.0.0/24")}
    two["isGateway"] = False
    eth0 = endpoint()
    before = snapshot(eth0.netns)
    error = eth0.call("ADD", two).error(INVALID_CONFIG)
    assert version in error["msg"]
    assert snapshot(eth0.netns) == before


@pytest.mark.needs("addresses")
@pytest.mark.parametrize("version", cni.VERSIONS)
def test_one_family(endpoint: MakeEndpoint, config: Config, version: str) -> None:
    """spec: IPv6 alone is a network too."""
    config |= {"cniVersion": version, "ipam": cni.host_local("fd00:1::/64")}
    result = endpoint().add(config)
    if version in OLD:
        assert "ip4" not in result
        assert result["ip6"]["ip"] == "fd00:1::2/64"
    else:
        assert cni.addresses(result) == ["fd00:1::2"]


@pytest.mark.needs("interface")
@pytest.mark.parametrize("version", WITH_INTERFACES)
def test_layer_2(endpoint: MakeEndpoint, config: Config, version: str) -> None:
    """spec: a result without addresses has its interfaces still."""
    layer2 = cni.without(config, "ipam", "isGateway") | {"cniVersion": version}
    result = endpoint().add(layer2)
    assert result["interfaces"][-1]["name"] == "eth0"
    assert not result.get("ips")


@pytest.mark.needs("interface")
@pytest.mark.parametrize("version", WITH_CHECK)
def test_results_come_back(endpoint: MakeEndpoint, dual: Config, version: str) -> None:
    """spec: prevResult is what the plugin printed, of the configuration's version."""
    versioned = dual | {"cniVersion": version}
    eth0 = endpoint()
    result = eth0.add(versioned)
    eth0.check(versioned, result).silent()
    eth0.netns.ip("addr", "delete", "fd00:1::2/64", "dev", "eth0")
    eth0.check(versioned, result).error(PLUGIN_SPECIFIC)
    eth0.delete(versioned, result)


@pytest.mark.needs("ipam")
@pytest.mark.parametrize("version", cni.VERSIONS)
def test_address_management(result_of: Callable[[str], Config], version: str) -> None:
    """spec: an IPAM plugin's result has neither interfaces nor indexes of them."""
    result = result_of(version)
    assert result["cniVersion"] == version
    assert "interfaces" not in result
    if version in OLD:
        assert result["ip4"]["ip"] == "10.1.0.2/24"
        assert result["ip6"]["gateway"] == "fd00:1::1"
    else:
        assert _keys(result["ips"]) <= {"address", "gateway", "version"}
        assert cni.addresses(result) == ["10.1.0.2", "fd00:1::2"]


def _last(result: Config) -> int:
    return len(result["interfaces"]) - 1
