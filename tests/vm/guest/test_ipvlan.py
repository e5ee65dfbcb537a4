"""Ipvlan networks, which the machine's kernel may lack."""

from collections.abc import Callable
from typing import Any

import pytest

from tests import cni
from tests.cni import INVALID_CONFIG, NOT_AVAILABLE, PLUGIN_SPECIFIC, Config, Endpoint
from tests.iproute import HOST, Netns, Snapshot

MakeNetns = Callable[[], Netns]
MakeEndpoint = Callable[[], Endpoint]
TakeSnapshot = Callable[..., Snapshot]

ROUTER = ["10.1.0.1", "fd00:1::1"]


@pytest.fixture
def plugin() -> str:
    """Always the ipvlan plugin."""
    return "ipvlan"


@pytest.fixture
def outside(netns: MakeNetns) -> Netns:
    """The other end of the host's link up0, with addresses."""
    there = netns()
    HOST.ip("link", "add", "up0", "up", "type", "veth", "peer", "eth0", "netns", there.name)
    there.ip("link", "set", "eth0", "up")
    for address in ("10.1.0.1/24", "fd00:1::1/64"):
        there.ip("addr", "add", address, "dev", "eth0", "nodad")
    return there


@pytest.fixture
def config(config: Config, outside: Netns) -> Config:
    """A dual-stack network on up0."""
    return config | {"master": "up0", "ipam": cni.host_local("10.1.0.0/24", "fd00:1::/64")}


def _data(netns: Netns) -> Any:
    return netns.link("eth0")["linkinfo"]["info_data"]


@pytest.mark.parametrize("mode", ["l2", "l3", "l3s"])
def test_mode(endpoint: MakeEndpoint, config: Config, mode: str) -> None:
    """Two containers reach each other in each mode, with the parent's MAC."""
    one, other = endpoint(), endpoint()
    wanted = config | {"mode": mode}
    result = one.add(wanted)
    assert _data(one.netns)["mode"] == mode
    assert result["interfaces"][0]["mac"] == HOST.link("up0")["address"]
    for address in cni.addresses(other.add(wanted)):
        assert one.netns.reaches(address, seconds=cni.PATIENCE)
    one.check(wanted, result).silent()


def test_outside(endpoint: MakeEndpoint, config: Config) -> None:
    """In mode l2, the default, containers are on the parent's network; the host is not."""
    HOST.ip("addr", "add", "10.1.0.200/24", "dev", "up0")
    eth0 = endpoint()
    addresses = cni.addresses(eth0.add(config))
    assert _data(eth0.netns)["mode"] == "l2"
    for address in ROUTER:
        assert eth0.netns.reaches(address, seconds=cni.PATIENCE)
    assert not HOST.reaches(addresses[0], seconds=1)


@pytest.mark.parametrize(("key", "flag"), [("flag", "private"), ("ipvlan_flag", "vepa")])
def test_flag(endpoint: MakeEndpoint, config: Config, key: str, flag: str) -> None:
    """With these flags containers on one parent do not reach each other."""
    one, other = endpoint(), endpoint()
    wanted = config | {key: flag}
    result = one.add(wanted)
    assert not one.netns.reaches(cni.addresses(other.add(wanted))[0], seconds=3)
    one.check(wanted, result).silent()


def test_drift(endpoint: MakeEndpoint, config: Config) -> None:
    """CHECK sees another mode, MTU, address, and a parent that is down."""
    eth0 = endpoint()
    result = eth0.add(config)
    for change, words in (
        ("link set eth0 type ipvlan mode l3", ["mode", "l2 bridge", "l3 bridge"]),
        ("link set eth0 mtu 1400", ["MTU", "1500", "1400"]),
        ("addr del 10.1.0.2/24 dev eth0", ["10.1.0.2/24"]),
    ):
        eth0.netns.ip(*change.split())
        message = eth0.check(config, result).error(PLUGIN_SPECIFIC)["msg"]
        assert all(word in message for word in words), message
    HOST.ip("link", "set", "up0", "down")
    assert '"up0" is down' in eth0.check(config, result).error(PLUGIN_SPECIFIC)["msg"]


def test_delete_and_gc(endpoint: MakeEndpoint, snapshot: TakeSnapshot, config: Config) -> None:
    """DEL and GC leave nothing."""
    one, other = endpoint(), endpoint()
    before = snapshot(one.netns, other.netns)
    one.add(config)
    other.add(config)
    one.delete(config)
    other.call("GC", cni.collected(config)).silent()
    assert snapshot(one.netns, other.netns) == before


def test_no_mac(endpoint: MakeEndpoint, config: Config) -> None:
    """Who asks for a MAC address learns that there is none to choose."""
    error = endpoint().call("ADD", config, args="MAC=02:42:0a:01:00:05").error(INVALID_CONFIG)
    assert "02:42:0a:01:00:05" in error["msg"]


def test_status(call: Callable[..., Any], config: Config) -> None:
    """STATUS is content where ADD would be."""
    call("STATUS", config).silent()


@pytest.mark.parametrize(("first", "second"), [("macvlan", "ipvlan"), ("ipvlan", "macvlan")])
def test_both_kinds_on_a_parent(
    endpoint: MakeEndpoint,
    executable: Callable[[str], Any],
    netns: MakeNetns,
    config: Config,
    first: str,
    second: str,
) -> None:
    """A parent has macvlan links or ipvlan links."""
    for kind in (first, second):
        sandbox = netns()
        binary = executable(kind)
        eth0 = Endpoint(binary, str(binary.parent), f"id-{sandbox.name}", sandbox)
        outcome = eth0.call("ADD", config | {"type": kind})
        if kind == first:
            outcome.result()
        else:
            error = outcome.error(NOT_AVAILABLE)
            assert '"up0"' in error["msg"] and "macvlan" in error["msg"] + error["details"]
