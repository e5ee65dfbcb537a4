"""Networks of every driver but bridge, from `cnm network create` to `rm`, with cnitool between."""

from collections.abc import Callable

import pytest

from tests.commands import FAILED, IN_THE_WAY, INVALID, Cnm
from tests.iproute import HOST, Netns, Snapshot, exchange_by_tcp

MakeNetns = Callable[[], Netns]
TakeSnapshot = Callable[..., Snapshot]


@pytest.fixture
def lan(netns: MakeNetns) -> Netns:
    """A station on a network outside, 192.168.1.254, which the host reaches by its link up0."""
    outside = netns()
    HOST.ip("link", "add", "up0", "type", "veth", "peer", "name", "eth0", "netns", outside.name)
    HOST.ip("addr", "add", "192.168.1.10/24", "dev", "up0")
    HOST.ip("link", "set", "up0", "up")
    HOST.ip("route", "add", "default", "via", "192.168.1.254")
    outside.ip("addr", "add", "192.168.1.254/24", "dev", "eth0")
    outside.ip("link", "set", "eth0", "up")
    return outside


def test_my_macvlan_network(cnm: Cnm, lan: Netns, netns: MakeNetns, snapshot: TakeSnapshot) -> None:
    """On the default route's link: containers reach the network outside, and each other."""
    before = snapshot()
    words = ("--driver", "macvlan", "--subnet=192.168.1.0/24", "my-macvlan-network")
    cnm.run("network", "create", *words)
    assert cnm.plugin("my-macvlan-network") == {
        "type": "macvlan",
        "capabilities": {"ips": True, "mac": True},
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "192.168.1.0/24"}]]},
    }
    one, other = netns(), netns()
    cnm.add("my-macvlan-network", one)
    cnm.add("my-macvlan-network", other)
    (address,) = other.addresses("eth0")
    assert exchange_by_tcp(one, other, address.partition("/")[0], b"hello") == b"hello"
    assert exchange_by_tcp(one, lan, "192.168.1.254", b"hello") == b"hello"
    shown = cnm.inspect("my-macvlan-network")
    assert {each["IPv4Address"] for each in shown["Containers"].values()} >= {address}
    assert (shown["Driver"], shown["IPAM"]["Driver"]) == ("macvlan", "default")
    for sandbox in (one, other):
        assert cnm.cnitool("check", "my-macvlan-network", sandbox.path).code == 0
        cnm.delete("my-macvlan-network", sandbox)
    cnm.run("network", "rm", "my-macvlan-network")
    assert snapshot() == before
    assert not list(cnm.networks.iterdir())


def test_macvlan_options(cnm: Cnm, lan: Netns, netns: MakeNetns) -> None:
    """Docker's: parent, mode, MTU; a gateway that is given is the default route."""
    words = ("--subnet", "192.168.1.0/24", "--gateway", "192.168.1.254", "--mtu", "1400")
    options = ("-o", "parent=up0", "-o", "macvlan_mode=private")
    cnm.run("network", "create", "--driver", "macvlan", *words, *options, "lan")
    plugin = cnm.plugin("lan")
    assert (plugin["parent"], plugin["macvlan_mode"], plugin["mtu"]) == ("up0", "private", 1400)
    shown = cnm.inspect("lan")
    assert [each["Name"] for each in shown["Kernel"]["Links"]] == ["up0"]
    assert shown["Options"]["macvlan_mode"] == "private"
    sandbox = netns()
    cnm.run("network", "connect", "lan", sandbox.name)
    (default,) = [each for each in sandbox.routes(4) if each["dst"] == "default"]
    assert default["gateway"] == "192.168.1.254"
    assert sandbox.link("eth0")["mtu"] == 1400
    cnm.run("network", "rm", "-f", "lan")
    assert "eth0" not in sandbox.links()


def test_macvlan_refusals(cnm: Cnm, lan: Netns) -> None:
    """By the driver's own checks, before anything is written."""
    create = ("network", "create", "--driver", "macvlan")
    cnm.call(*create, "-o", "parent=nope0", "x").fails(FAILED, "nope0")
    cnm.call(*create, "-o", "macvlan_mode=loud", "x").fails(INVALID, "macvlan_mode", "loud")
    cnm.call(*create, "--internal", "-o", "parent=up0", "x").fails(INVALID, "internal", "parent")
    cnm.call(*create, "-o", "com.docker.network.bridge.name=b", "x").fails(FAILED, "no such option")
    cnm.run(*create, "--subnet", "192.168.1.0/24", "x")
    taken = cnm.call(*create, "--subnet", "192.168.1.0/25", "y")
    taken.fails(IN_THE_WAY, '192.168.1.0/24 of network "x"')


def test_ipvlan_is_written(cnm: Cnm, lan: Netns) -> None:
    """A network for kernels that have ipvlan; the file does not need it."""
    words = ("--subnet", "192.168.1.0/24", "-o", "parent=up0", "-o", "ipvlan_mode=l3", "vlan")
    cnm.run("network", "create", "--driver", "ipvlan", *words)
    plugin = cnm.plugin("vlan")
    assert (plugin["parent"], plugin["ipvlan_mode"]) == ("up0", "l3")
    assert plugin["capabilities"] == {"ips": True}
    cnm.run("network", "rm", "vlan")


def test_my_host_network(cnm: Cnm, lan: Netns, snapshot: TakeSnapshot) -> None:
    """The host's own namespace, as it is; there is one such network."""
    before = snapshot()
    cnm.run("network", "create", "--driver", "host", "my-host-network")
    assert cnm.file("my-host-network")["plugins"] == [{"type": "host"}]
    second = cnm.call("network", "create", "--driver", "host", "another")
    second.fails(IN_THE_WAY, 'only one instance of "host" network is allowed', "my-host-network")
    result = cnm.add("my-host-network", HOST)
    assert [each["address"] for each in result["ips"]] == ["192.168.1.10/24"]
    assert len(cnm.inspect("my-host-network")["Containers"]) == 1
    refused = cnm.call("network", "connect", "my-host-network", lan.name)
    refused.fails(FAILED, "host")
    assert cnm.cnitool("check", "my-host-network", HOST.path).code == 0
    cnm.delete("my-host-network", HOST)
    cnm.run("network", "rm", "my-host-network")
    assert snapshot() == before
    assert not list(cnm.networks.iterdir())


def test_my_none_network(cnm: Cnm, netns: MakeNetns, snapshot: TakeSnapshot) -> None:
    """Loopback and nothing else."""
    before = snapshot()
    cnm.run("network", "create", "--driver", "none", "my-none-network")
    second = cnm.call("network", "create", "--driver", "none", "another")
    second.fails(IN_THE_WAY, 'only one instance of "none" network is allowed')
    sandbox = netns()
    cnm.add("my-none-network", sandbox)
    assert sandbox.links().keys() == {"lo"}
    assert not sandbox.reaches("192.0.2.1", seconds=1)
    (endpoint,) = cnm.inspect("my-none-network")["Containers"].values()
    assert (endpoint["IPv4Address"], endpoint["Sandbox"]) == ("", sandbox.path)
    assert cnm.cnitool("check", "my-none-network", sandbox.path).code == 0
    cnm.delete("my-none-network", sandbox)
    cnm.run("network", "rm", "my-none-network")
    assert snapshot() == before
    assert not list(cnm.networks.iterdir())


@pytest.mark.parametrize("driver", ["host", "none"])
@pytest.mark.parametrize(
    "words",
    [
        ("--subnet", "10.0.0.0/24"),
        ("--gateway", "10.0.0.1"),
        ("--ipv6",),
        ("--internal",),
        ("--mtu", "1400"),
    ],
)
def test_nothing_to_choose(cnm: Cnm, driver: str, words: tuple[str, ...]) -> None:
    """Host and none have no subnets, nor anything else."""
    cnm.call("network", "create", "--driver", driver, *words, "x").fails(FAILED, driver)
