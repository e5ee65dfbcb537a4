"""Macvlan on VLAN links, which the machine's kernel may lack: made, shared, removed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import cni
from tests.cni import NOT_AVAILABLE, Config, Endpoint
from tests.iproute import HOST, Netns

INTERFACE_EXISTS = 104

MakeNetns = Callable[[], Netns]
MakeEndpoint = Callable[[], Endpoint]


@pytest.fixture(params=["macvlan", "ipvlan"])
def plugin(request: pytest.FixtureRequest) -> str:
    """Both drivers have the same parents."""
    name: str = request.param
    return name


@pytest.fixture
def outside(netns: MakeNetns) -> Netns:
    """The other end of the host's link up0, with an address in VLAN 10."""
    there = netns()
    HOST.ip("link", "add", "up0", "up", "type", "veth", "peer", "eth0", "netns", there.name)
    there.ip("link", "set", "eth0", "up")
    there.ip("link", "add", "link", "eth0", "vlan10", "up", "type", "vlan", "id", "10")
    there.ip("addr", "add", "10.1.0.1/24", "dev", "vlan10")
    return there


@pytest.fixture
def config(config: Config, outside: Netns) -> Config:
    """A network on VLAN 10 of up0."""
    return config | {"parent": "up0.10"}


def test_made_and_removed(endpoint: MakeEndpoint, config: Config) -> None:
    """The VLAN link is made when missing; networks share it; the last endpoint takes it along."""
    upper_half = {"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.128"}
    green = config | {"name": "green", "ipam": {"type": "host-local", "ranges": [[upper_half]]}}
    one, other, third = endpoint(), endpoint(), endpoint()
    result = one.add(config)
    link = HOST.link("up0.10")
    assert (link["link"], link["linkinfo"]["info_data"]["id"]) == ("up0", 10)
    assert one.netns.reaches("10.1.0.1", seconds=cni.PATIENCE)
    one.check(config, result).silent()
    other.add(config)
    third.add(green)
    assert HOST.link("up0.10")["ifindex"] == link["ifindex"]
    one.delete(config)
    other.delete(config)
    assert third.netns.reaches("10.1.0.1", seconds=cni.PATIENCE)
    third.delete(green)
    assert "up0.10" not in HOST.links()
    one.add(config)
    assert one.netns.reaches("10.1.0.1", seconds=cni.PATIENCE)


def test_the_host_has_such_a_name(endpoint: MakeEndpoint, config: Config) -> None:
    """The container's link may be called as one of the host's, which stays as it is."""
    HOST.ip("link", "add", "eth0", "type", "bridge")
    before = HOST.link("eth0")
    one, other = endpoint(), endpoint()
    for each in (one, other):
        each.check(config, each.add(config)).silent()
        assert each.netns.reaches("10.1.0.1", seconds=cni.PATIENCE)
    assert HOST.link("eth0") == before
    one.netns.ip("link", "add", "net1", "type", "bridge")
    one.other("net1").call("ADD", config).error(INTERFACE_EXISTS)
    one.delete(config)
    assert one.netns.links().keys() == {"lo", "net1"}


def test_one_that_is_there_stays(endpoint: MakeEndpoint, config: Config) -> None:
    """A VLAN link that was there before is used and left alone."""
    HOST.ip("link", "add", "link", "up0", "up0.10", "up", "type", "vlan", "id", "10")
    eth0 = endpoint()
    eth0.add(config)
    assert eth0.netns.reaches("10.1.0.1", seconds=cni.PATIENCE)
    eth0.delete(config)
    assert "up0.10" in HOST.links()


def test_gc(endpoint: MakeEndpoint, config: Config) -> None:
    """GC takes the VLAN link with the last endpoint, though its sandbox is gone."""
    eth0 = endpoint()
    eth0.add(config)
    HOST.run(["ip", "netns", "delete", eth0.netns.name])
    assert "up0.10" in HOST.links()
    eth0.call("GC", cni.collected(config)).silent()
    assert "up0.10" not in HOST.links()
    assert not cni.leases()


@pytest.mark.parametrize("milliseconds", [0, 20, 40, 60, 80, 120])
def test_killed(endpoint: MakeEndpoint, config: Config, milliseconds: int) -> None:
    """DEL removes the VLAN link of an ADD that was killed."""
    eth0 = endpoint()
    eth0.kill("ADD", config, milliseconds / 1000)
    eth0.delete(config)
    assert "up0.10" not in HOST.links()
    assert not cni.leases()


def test_failed_add(endpoint: MakeEndpoint, config: Config) -> None:
    """An ADD that fails late leaves no VLAN link."""
    config["ipam"]["routes"] = [{"dst": "10.8.0.0/16", "gw": "172.16.0.1"}]
    endpoint().call("ADD", config).error()
    assert "up0.10" not in HOST.links()


def test_base_down(endpoint: MakeEndpoint, config: Config) -> None:
    """The link below must be up."""
    HOST.ip("link", "set", "up0", "down")
    assert '"up0" is down' in endpoint().call("ADD", config).error(NOT_AVAILABLE)["msg"]


def test_the_host_keeps_out(endpoint: MakeEndpoint, config: Config) -> None:
    """A VLAN link that we made gives the host no address there."""
    endpoint().add(config)
    assert HOST.query("addr", "show", "dev", "up0.10")[0]["addr_info"] == []
    assert Path("/proc/sys/net/ipv6/conf/up0.10/disable_ipv6").read_text() == "1\n"


def test_internal(endpoint: MakeEndpoint, config: Config) -> None:
    """An internal network stands on a dummy link, where the kernel has them."""
    internal = cni.without(config, "parent") | {"internal": True}
    before = HOST.links().keys()
    one, other = endpoint(), endpoint()
    (address,) = cni.addresses(one.add(internal))
    other.add(internal)
    (parent,) = HOST.links().keys() - before
    assert HOST.link(parent)["linkinfo"]["info_kind"] == "dummy"
    assert other.netns.reaches(address, seconds=cni.PATIENCE)
    one.delete(internal)
    other.delete(internal)
    assert HOST.links().keys() == before
