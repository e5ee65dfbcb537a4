"""Debian's Go plugins for addresses as delegates, under names that are not ours."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import cni
from tests.cni import PLUGIN_SPECIFIC, Config, Endpoint
from tests.iproute import HOST, Snapshot

MakeEndpoint = Callable[[], Endpoint]
TakeSnapshot = Callable[..., Snapshot]

GO_PLUGINS = Path("/usr/lib/cni")
ROUTES = [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}]
HOST_LOCAL = cni.host_local("10.1.0.0/24", "fd00:1::/64", type="go-host-local", routes=ROUTES)
STATIC = {
    "type": "go-static",
    "addresses": [{"address": "10.1.0.2/24", "gateway": "10.1.0.1"}, {"address": "fd00:1::2/64"}],
    "routes": ROUTES,
}


@pytest.fixture(params=["macvlan", "bridge"])
def plugin(request: pytest.FixtureRequest) -> str:
    """Networks with and without a gateway on the host."""
    name: str = request.param
    return name


@pytest.fixture
def make_eth0(endpoint: MakeEndpoint, tmp_path: Path) -> MakeEndpoint:
    """Makes endpoints whose CNI_PATH has the Go plugins."""
    for name in ("host-local", "static"):
        os.symlink(GO_PLUGINS / name, tmp_path / f"go-{name}")
    return lambda: replace(endpoint(), path=str(tmp_path))


@pytest.fixture
def config(config: Config, plugin: str) -> Config:
    """A network of a version that these plugins know."""
    members: Config = {"cniVersion": "1.0.0"}
    if plugin == "macvlan":
        HOST.ip("link", "add", "up0", "up", "type", "veth", "peer", "name", "far0")
        HOST.ip("link", "set", "far0", "up")
        members["master"] = "up0"
    return config | members


@pytest.mark.parametrize("ipam", [HOST_LOCAL, STATIC], ids=lambda ipam: str(ipam["type"]))
def test_life(
    make_eth0: MakeEndpoint, snapshot: TakeSnapshot, config: Config, plugin: str, ipam: Any
) -> None:
    """ADD, CHECK and DEL; what the delegate gave is what the container has, and goes back."""
    wanted = config | {"ipam": ipam}
    eth0 = make_eth0()
    result = eth0.add(wanted)
    assert cni.addresses(result) == ["10.1.0.2", "fd00:1::2"]
    assert eth0.netns.addresses("eth0") == ["10.1.0.2/24", "fd00:1::2/64"]
    assert eth0.netns.routes(4)[0]["gateway"] == "10.1.0.1"
    if plugin == "bridge":
        assert "10.1.0.1/24" in HOST.addresses("blue0")
    eth0.check(wanted, result).silent()
    eth0.delete(wanted, result)
    assert "eth0" not in eth0.netns.links()
    assert not cni.leases()


def test_pool_exhausted(make_eth0: MakeEndpoint, snapshot: TakeSnapshot, config: Config) -> None:
    """An ADD that gets no address leaves neither link nor bridge nor file."""
    narrow = cni.host_local("10.1.0.0/30", type="go-host-local")
    one, other = make_eth0(), make_eth0()
    one.add(config | {"ipam": narrow})
    before = snapshot(other.netns)
    other.call("ADD", config | {"ipam": narrow}).error()
    assert snapshot(other.netns) == before


def test_first_add_fails(make_eth0: MakeEndpoint, snapshot: TakeSnapshot, config: Config) -> None:
    """A bridge that only the failed ADD needed is gone again."""
    eth0 = make_eth0()
    before = snapshot(eth0.netns)
    bad = {"type": "go-static", "addresses": [{"address": "no address"}]}
    eth0.call("ADD", config | {"ipam": bad}).error(PLUGIN_SPECIFIC)
    assert snapshot(eth0.netns) == before
