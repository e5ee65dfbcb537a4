"""The built bridge plugin does under this kernel what it does under the machine's."""

from collections.abc import Callable

import pytest

from tests import cni
from tests.cni import PLUGIN_SPECIFIC, Config, Endpoint
from tests.iproute import HOST, Snapshot

MakeEndpoint = Callable[[], Endpoint]
TakeSnapshot = Callable[..., Snapshot]

GATEWAYS = ["10.1.0.1", "fd00:1::1"]


@pytest.fixture
def plugin() -> str:
    """Always the bridge plugin."""
    return "bridge"


@pytest.fixture
def dual(config: Config) -> Config:
    """A dual-stack network whose bridge is the gateway."""
    return config | {"ipam": cni.host_local("10.1.0.0/24", "fd00:1::/64")}


def test_add_and_ping(endpoint: MakeEndpoint, dual: Config) -> None:
    """Two containers and the host reach each other by both families."""
    one, other = endpoint(), endpoint()
    added = [*cni.addresses(one.add(dual)), *cni.addresses(other.add(dual))]
    assert HOST.addresses("blue0") == ["10.1.0.1/24", "fd00:1::1/64"]
    for address in (*GATEWAYS, *added):
        assert one.netns.reaches(address, seconds=cni.PATIENCE)
        assert other.netns.reaches(address, seconds=cni.PATIENCE)


def test_check(endpoint: MakeEndpoint, dual: Config) -> None:
    """CHECK has nothing to say after ADD, and something once an address is gone."""
    eth0 = endpoint()
    result = eth0.add(dual)
    eth0.check(dual, result).silent()
    eth0.netns.ip("addr", "flush", "dev", "eth0")
    eth0.check(dual, result).error(PLUGIN_SPECIFIC)


def test_delete(endpoint: MakeEndpoint, snapshot: TakeSnapshot, dual: Config) -> None:
    """DEL leaves nothing of an endpoint, however often it is called."""
    endpoint().add(dual)  # the bridge stays
    eth0 = endpoint()
    before = snapshot(eth0.netns)
    result = eth0.add(dual)
    assert snapshot(eth0.netns) != before
    eth0.delete(dual, result)
    assert snapshot(eth0.netns) == before
    eth0.delete(dual, result)


def test_gc(endpoint: MakeEndpoint, dual: Config) -> None:
    """GC removes the endpoints that are not valid, and no other."""
    valid, stale = endpoint(), endpoint()
    result = valid.add(dual)
    stale.add(dual)
    assert len(HOST.ports("blue0")) == 2
    valid.call("GC", cni.collected(dual, valid)).silent()
    assert len(HOST.ports("blue0")) == 1
    assert sorted(cni.leases()) == sorted(cni.addresses(result))
    valid.check(dual, result).silent()
