"""ADD (CNI spec 1.1.0, section 2)."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests import cni
from tests.cni import PLUGIN_SPECIFIC, Config, Endpoint
from tests.iproute import HOST, Snapshot

MakeEndpoint = Callable[[], Endpoint]
TakeSnapshot = Callable[..., Snapshot]


@pytest.mark.needs("interface")
def test_the_interface_is_made(endpoint: MakeEndpoint, config: Config) -> None:
    """spec: ADD makes the interface CNI_IFNAME inside CNI_NETNS, as the result has it."""
    eth0 = endpoint()
    result = eth0.add(config)
    interface = result["interfaces"][-1]
    link = eth0.netns.link("eth0")
    assert (interface["name"], interface["mac"]) == ("eth0", link["address"])
    assert [ip["address"] for ip in result["ips"]] == eth0.netns.addresses("eth0")


def test_no_previous_result_is_needed(endpoint: MakeEndpoint, config: Config) -> None:
    """spec: the first plugin of a list has no prevResult."""
    endpoint().add(cni.without(config, "prevResult"))


@pytest.mark.needs("interface")
def test_a_name_that_is_taken(endpoint: MakeEndpoint, config: Config) -> None:
    """spec: an error where the container has an interface of that name."""
    eth0 = endpoint()
    eth0.netns.ip("link", "add", "eth0", "type", "bridge")
    before = eth0.netns.link("eth0")
    eth0.call("ADD", config).error()
    assert eth0.netns.link("eth0") == before


@pytest.mark.needs("interface")
def test_a_failed_add_leaves_nothing(
    endpoint: MakeEndpoint, snapshot: TakeSnapshot, config: Config
) -> None:
    """The first ADD on a network leaves nothing where it fails, not even what is shared."""
    eth0 = endpoint()
    eth0.netns.ip("link", "add", "eth0", "type", "bridge")
    before = snapshot(eth0.netns)
    assert "eth0" in eth0.call("ADD", config).error(PLUGIN_SPECIFIC)["msg"]
    assert snapshot(eth0.netns) == before


@pytest.mark.needs("interface")
def test_a_name_that_is_taken_on_a_network_in_use(
    endpoint: MakeEndpoint, snapshot: TakeSnapshot, config: Config
) -> None:
    """spec: a failed ADD changes nothing for the network's other containers."""
    endpoint().add(config)
    eth0 = endpoint()
    eth0.netns.ip("link", "add", "eth0", "type", "bridge")
    before = snapshot(eth0.netns)
    eth0.call("ADD", config).error(PLUGIN_SPECIFIC)
    assert snapshot(eth0.netns) == before


@pytest.mark.needs("addresses")
def test_adding_twice(endpoint: MakeEndpoint, snapshot: TakeSnapshot, config: Config) -> None:
    """spec: a second ADD without DEL is an error; the first attachment is unharmed."""
    eth0 = endpoint()
    result = eth0.add(config)
    before = snapshot(eth0.netns)
    eth0.call("ADD", config).error(PLUGIN_SPECIFIC)
    assert snapshot(eth0.netns) == before
    eth0.check(config, result).silent()


@pytest.mark.needs("interface")
def test_names_of_the_host_do_not_matter(endpoint: MakeEndpoint, config: Config) -> None:
    """spec: the name is the container's; the host may have an interface called the same."""
    HOST.ip("link", "add", "eth0", "type", "bridge")
    before = HOST.link("eth0")["ifindex"]
    eth0 = endpoint()
    eth0.add(config)
    assert "eth0" in eth0.netns.links()
    assert HOST.link("eth0")["ifindex"] == before


@pytest.mark.needs("sandbox")
@pytest.mark.parametrize("path", ["/run/netns/absent", "/etc/hostname", "/run/netns", "relative"])
def test_a_sandbox_that_is_none(endpoint: MakeEndpoint, config: Config, path: str) -> None:
    """spec: an error where the interface cannot be made."""
    endpoint().call("ADD", config, netns=path).error()


@pytest.mark.needs("interface")
def test_the_sandbox_is_named_as_the_runtime_does(endpoint: MakeEndpoint, config: Config) -> None:
    """spec: `sandbox` is CNI_NETNS as given, and left out for interfaces of the host."""
    eth0 = endpoint()
    path = f"/var/run/netns/../netns/{eth0.netns.name}"
    interfaces = eth0.add(config, netns=path)["interfaces"]
    assert interfaces[-1]["sandbox"] == path
    assert all(not interface.get("sandbox") for interface in interfaces[:-1])


@pytest.mark.needs("interface")
def test_all_interfaces_are_listed(endpoint: MakeEndpoint, config: Config) -> None:
    """spec: the result has every interface that was made, also those of the host."""
    before = HOST.links().keys()
    result = endpoint().add(config)
    made = HOST.links().keys() - before
    assert {each["name"] for each in result["interfaces"]} == made | {"eth0"}
    for interface in result["interfaces"][:-1]:
        link = HOST.link(interface["name"])
        assert interface["mac"] == link["address"]
        assert interface.get("mtu") in (None, link["mtu"])


@pytest.mark.needs("interface")
def test_addresses_point_at_their_interface(endpoint: MakeEndpoint, config: Config) -> None:
    """spec: `interface` is the index of the interface that has the address."""
    config["ipam"] = cni.host_local("10.1.0.0/24", "fd00:1::/64")
    result = endpoint().add(config)
    assert len(result["ips"]) == 2
    assert {result["interfaces"][ip["interface"]]["name"] for ip in result["ips"]} == {"eth0"}


@pytest.mark.since("1.1.0")
@pytest.mark.needs("interface")
def test_routes_are_in_the_result(endpoint: MakeEndpoint, config: Config) -> None:
    """spec: the result has the routes, with all attributes of 1.1.0, and they are there."""
    routes = [
        {"dst": "10.8.0.0/16", "gw": "10.1.0.9"},
        {"dst": "10.9.0.0/16", "gw": "10.1.0.1", "mtu": 1400, "advmss": 1300, "priority": 7},
    ]
    config["ipam"] |= {"routes": routes}
    eth0 = endpoint()
    assert eth0.add(config)["routes"] == routes
    made = {route["dst"]: route for route in eth0.netns.routes(4)}
    assert made["10.8.0.0/16"]["gateway"] == "10.1.0.9"
    assert made["10.9.0.0/16"]["metric"] == 7


@pytest.mark.needs("addresses")
def test_two_interfaces_of_one_container(
    endpoint: MakeEndpoint, snapshot: TakeSnapshot, config: Config
) -> None:
    """spec: an attachment is told by container ID and interface name, both together."""
    eth0 = endpoint()
    first = eth0.add(config)
    before = snapshot(eth0.netns)
    net1 = eth0.other("net1")
    second = net1.add(config)
    assert not set(cni.addresses(first)) & set(cni.addresses(second))
    net1.delete(config, second)
    assert snapshot(eth0.netns) == before
    eth0.check(config, first).silent()


@pytest.mark.needs("addresses")
def test_parallel_calls(endpoint: MakeEndpoint, config: Config) -> None:
    """spec: calls for different containers may overlap; a plugin locks what they share."""
    leaving = [endpoint() for _ in range(8)]
    coming = [endpoint() for _ in range(8)]
    for each in leaving:
        each.add(config)
    with ThreadPoolExecutor(len(leaving + coming)) as pool:
        deletions = [pool.submit(each.delete, config) for each in leaving]
        additions = [pool.submit(each.add, config) for each in coming]
    for deletion in deletions:
        deletion.result()
    results = [addition.result() for addition in additions]
    given = [cni.addresses(result)[0] for result in results]
    assert len(set(given)) == len(coming)
    assert sorted(cni.leases()) == sorted(given)
    for each, result in zip(coming, results, strict=True):
        each.check(config, result).silent()
