"""CHECK (CNI spec 1.1.0, section 2): errors for what changed, and for nothing else."""

from collections.abc import Callable

import pytest

from tests import cni
from tests.cni import (
    PLUGIN_SPECIFIC,
    Config,
    Endpoint,
)
from tests.iproute import HOST, Snapshot

MakeEndpoint = Callable[[], Endpoint]

ROUTES = [{"dst": "10.8.0.0/16"}, {"dst": "fd08::/48", "gw": "fd00:1::9"}]
DRIFTS = {
    "interface gone": ["link", "delete", "eth0"],
    "address gone": ["addr", "delete", "10.1.0.2/24", "dev", "eth0"],
    "IPv6 address gone": ["addr", "delete", "fd00:1::2/64", "dev", "eth0"],
    "route gone": ["route", "delete", "10.8.0.0/16"],
    "IPv6 route gone": ["-6", "route", "delete", "fd08::/48"],
    "MAC changed": ["link", "set", "eth0", "address", "02:00:00:00:00:77"],
    "interface down": ["link", "set", "eth0", "down"],
}
NEEDS = {"MAC changed": ["mac"]}


@pytest.fixture
def network(config: Config) -> Config:
    """A dual-stack network with routes."""
    return config | {"ipam": cni.host_local("10.1.0.0/24", "fd00:1::/64", routes=ROUTES)}


@pytest.mark.parametrize("version", cni.WITH_CHECK)
def test_nothing_changed(endpoint: MakeEndpoint, network: Config, version: str) -> None:
    """spec: success is silent, directly after ADD and again later."""
    network["cniVersion"] = version
    eth0 = endpoint()
    result = eth0.add(network)
    eth0.check(network, result).silent()
    eth0.check(network, result).silent()


def test_it_changes_nothing(
    endpoint: MakeEndpoint, network: Config, snapshot: Callable[..., Snapshot]
) -> None:
    """spec: CHECK looks, and does not touch."""
    eth0 = endpoint()
    result = eth0.add(network)
    before = snapshot(eth0.netns)
    eth0.check(network, result).silent()
    assert snapshot(eth0.netns) == before


@pytest.mark.parametrize("missing", ["absent", None])
def test_without_previous_result(endpoint: MakeEndpoint, config: Config, missing: object) -> None:
    """spec: CHECK is about prevResult; without one it is an error."""
    eth0 = endpoint()
    eth0.add(config)
    previous = {} if missing == "absent" else {"prevResult": missing}
    eth0.call("CHECK", config | previous).error()


@pytest.mark.parametrize("previous", ["x", [], 5])
def test_previous_result_of_wrong_type(
    endpoint: MakeEndpoint, config: Config, previous: object
) -> None:
    """spec: prevResult is an object."""
    eth0 = endpoint()
    eth0.add(config)
    eth0.call("CHECK", config | {"prevResult": previous}).error()


@pytest.mark.needs("addresses")
@pytest.mark.parametrize(
    "previous",
    [
        {"ips": "x"},
        {"ips": [{"address": "10.1.0.2"}]},
        {"interfaces": [{}]},
        {"routes": [{"dst": "x"}]},
    ],
    ids=str,
)
def test_previous_result_that_makes_no_sense(
    endpoint: MakeEndpoint, config: Config, previous: Config
) -> None:
    """spec: prevResult is a result; an error where it cannot be one."""
    eth0 = endpoint()
    result = eth0.add(config)
    eth0.check(config, result | previous).error()


@pytest.mark.needs("addresses")
def test_previous_result_of_unknown_version(endpoint: MakeEndpoint, config: Config) -> None:
    """spec: a result says what version it is of; one that nobody knows cannot be read."""
    eth0 = endpoint()
    result = eth0.add(config)
    eth0.check(config, result | {"cniVersion": "9.9.9"}).error()


@pytest.mark.needs("interface")
@pytest.mark.parametrize(
    "drift",
    [pytest.param(name, marks=pytest.mark.needs(*NEEDS.get(name, []))) for name in DRIFTS],
)
def test_drift_in_the_container(endpoint: MakeEndpoint, network: Config, drift: str) -> None:
    """spec: an interface, address or route of prevResult that is missing is an error."""
    eth0 = endpoint()
    result = eth0.add(network)
    eth0.netns.ip(*DRIFTS[drift])
    eth0.check(network, result).error(PLUGIN_SPECIFIC)


@pytest.mark.needs("interface")
def test_every_drift_is_named(endpoint: MakeEndpoint, network: Config) -> None:
    """The error names everything that is wrong."""
    eth0 = endpoint()
    result = eth0.add(network)
    eth0.netns.ip(*DRIFTS["address gone"])
    eth0.netns.ip(*DRIFTS["IPv6 route gone"])
    message = eth0.check(network, result).error(PLUGIN_SPECIFIC)["msg"]
    assert "10.1.0.2" in message
    assert "fd08::/48" in message


@pytest.mark.needs("interface")
def test_interface_of_another_kind(endpoint: MakeEndpoint, network: Config) -> None:
    """spec: an interface that is not what ADD made is an error."""
    eth0 = endpoint()
    result = eth0.add(network)
    eth0.netns.ip("link", "delete", "eth0")
    eth0.netns.ip("link", "add", "eth0", "type", "bridge")
    eth0.check(network, result).error(PLUGIN_SPECIFIC)


@pytest.mark.needs("interface")
def test_another_sandbox(endpoint: MakeEndpoint, network: Config) -> None:
    """spec: CHECK is about the interface in CNI_NETNS."""
    eth0 = endpoint()
    result = eth0.add(network)
    eth0.check(network, result, netns=endpoint().netns.path).error(PLUGIN_SPECIFIC)


@pytest.mark.needs("sandbox")
def test_sandbox_gone(endpoint: MakeEndpoint, config: Config) -> None:
    """spec: without its namespace the container is not reachable."""
    eth0 = endpoint()
    result = eth0.add(config)
    eth0.check(config, result, netns="/run/netns/absent").error()


@pytest.mark.needs("peer")
def test_interfaces_of_the_host_gone(endpoint: MakeEndpoint, config: Config) -> None:
    """spec: an error where an interface that ADD made on the host is missing."""
    eth0 = endpoint()
    result = eth0.add(config)
    for interface in result["interfaces"][:-1]:
        if interface["name"] in HOST.links():
            HOST.ip("link", "delete", interface["name"])
    eth0.check(config, result).error(PLUGIN_SPECIFIC)


@pytest.mark.needs("addresses")
def test_reservation_gone(endpoint: MakeEndpoint, config: Config) -> None:
    """spec: an error where something untracked by the result is missing: the reservation."""
    eth0 = endpoint()
    result = eth0.add(config)
    (address,) = cni.leases()
    (cni.LEASES / "blue" / address).unlink()
    assert address in eth0.check(config, result).error(PLUGIN_SPECIFIC)["msg"]


@pytest.mark.needs("addresses")
def test_reservation_of_another(endpoint: MakeEndpoint, config: Config) -> None:
    """spec: a reservation that another container has by now is as bad as none."""
    eth0 = endpoint()
    result = eth0.add(config)
    (address,) = cni.leases()
    (cni.LEASES / "blue" / address).write_text("another\r\neth0")
    eth0.check(config, result).error(PLUGIN_SPECIFIC)


@pytest.mark.needs("addresses")
def test_never_added(endpoint: MakeEndpoint, config: Config) -> None:
    """spec: CHECK of what was deleted is an error."""
    eth0 = endpoint()
    result = eth0.add(config)
    eth0.delete(config)
    eth0.check(config, result).error(PLUGIN_SPECIFIC)


@pytest.mark.needs("mac")
def test_chained_plugin_changed_the_mac(endpoint: MakeEndpoint, network: Config) -> None:
    """spec: prevResult is the whole chain's; what a later plugin changed is as it says there."""
    eth0 = endpoint()
    result = eth0.add(network)
    eth0.netns.ip(*DRIFTS["MAC changed"])
    result["interfaces"][-1]["mac"] = "02:00:00:00:00:77"
    eth0.check(network, result).silent()


@pytest.mark.needs("interface")
def test_chained_plugin_added(endpoint: MakeEndpoint, network: Config) -> None:
    """spec: interfaces, addresses and routes that later plugins made are theirs to check."""
    eth0 = endpoint()
    result = eth0.add(network)
    eth0.netns.ip("addr", "add", "10.99.0.1/24", "dev", "eth0")
    result["interfaces"].append({"name": "ifb0", "mac": "02:00:00:00:00:78"})
    result["interfaces"].append({"name": "lo", "sandbox": eth0.netns.path})
    result["ips"].append({"address": "127.0.0.1/8", "interface": len(result["interfaces"]) - 1})
    eth0.check(network, result).silent()


@pytest.mark.needs("interface")
def test_settings_changed_from_outside(endpoint: MakeEndpoint, network: Config) -> None:
    """spec: additions that nobody listed do not make a container unreachable."""
    eth0 = endpoint()
    result = eth0.add(network)
    eth0.netns.ip("addr", "add", "10.99.0.1/24", "dev", "eth0")
    eth0.netns.ip("route", "add", "10.98.0.0/16", "via", "10.1.0.1")
    eth0.check(network, result).silent()


@pytest.mark.parametrize("inner", ["absent", None, ""])
def test_previous_result_without_version(
    endpoint: MakeEndpoint, config: Config, inner: object
) -> None:
    """Reference library: a prevResult without cniVersion has the configuration's."""
    eth0 = endpoint()
    result = eth0.add(config)
    versionless = cni.without(result, "cniVersion")
    eth0.check(
        config, versionless if inner == "absent" else result | {"cniVersion": inner}
    ).silent()


def test_previous_result_of_another_version(endpoint: MakeEndpoint, config: Config) -> None:
    """A result that a runtime kept in an older version than the configuration's will do."""
    eth0 = endpoint()
    result = eth0.add(config | {"cniVersion": "0.4.0"})
    eth0.check(config, result).silent()
