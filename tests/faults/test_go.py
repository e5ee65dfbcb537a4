"""A node moves from the Go plugins to ours, or back, with containers that go on running."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import cni
from tests.cni import PLUGIN_SPECIFIC, Config, Endpoint, Outcome
from tests.iproute import HOST, Netns, Snapshot, run

GO_PLUGINS = Path("/usr/lib/cni")
GO_VERSION = "1.0.0"  # the newest that Debian's plugins know

Call = Callable[..., Outcome]
TakeSnapshot = Callable[..., Snapshot]
Client = Callable[[str], Endpoint]


@pytest.fixture
def go_config(config: Config) -> Config:
    """A network that both know."""
    ipam = cni.host_local("10.1.0.0/24", "fd00:1::/64", routes=[{"dst": "0.0.0.0/0"}])
    return config | {"cniVersion": GO_VERSION, "hairpinMode": True, "mtu": 1400, "ipam": ipam}


@pytest.fixture
def ours(executable: Callable[[str], Path], cni_bin: Path, netns: Callable[[], Netns]) -> Client:
    """Makes clients of our bridge."""
    return lambda name: Endpoint(executable("bridge"), str(cni_bin), name, netns())


@pytest.fixture
def theirs(netns: Callable[[], Netns]) -> Client:
    """Makes clients of the Go bridge, and of the Go host-local below it."""
    if not (GO_PLUGINS / "bridge").exists():
        pytest.fail(f"{GO_PLUGINS} has no bridge: install containernetworking-plugins")
    return lambda name: Endpoint(GO_PLUGINS / "bridge", str(GO_PLUGINS), name, netns())


def by(endpoint: Endpoint, other: Endpoint) -> Endpoint:
    """An attachment as the other's plugins see it."""
    return Endpoint(other.binary, other.path, endpoint.container_id, endpoint.netns)


def test_from_theirs_to_ours(ours: Client, theirs: Client, go_config: Config) -> None:
    """What the Go plugins added, ours check and delete; both reach each other meanwhile."""
    old, new = theirs("old"), ours("new")
    result = old.add(go_config)
    other = new.add(go_config)
    assert not set(cni.addresses(result)) & set(cni.addresses(other))
    by(old, new).check(go_config, result).silent()
    assert all(old.netns.reaches(ip) for ip in cni.addresses(other))
    by(old, new).delete(go_config, result)
    assert old.netns.links().keys() == {"lo"}
    assert set(cni.leases()) == set(cni.addresses(other))
    new.check(go_config, other).silent()
    new.delete(go_config, other)
    assert not cni.leases()
    assert not HOST.ports("blue0")


def test_from_ours_to_theirs(ours: Client, theirs: Client, go_config: Config) -> None:
    """What ours added, the Go plugins check and delete."""
    old, new = ours("old"), theirs("new")
    result = old.add(go_config)
    other = new.add(go_config)
    assert not set(cni.addresses(result)) & set(cni.addresses(other))
    by(old, new).check(go_config, result).silent()
    assert all(old.netns.reaches(ip) for ip in cni.addresses(other))
    by(old, new).delete(go_config, result)
    assert old.netns.links().keys() == {"lo"}
    assert set(cni.leases()) == set(cni.addresses(other))
    new.check(go_config, other).silent()
    new.delete(go_config, other)
    assert not cni.leases()
    assert not HOST.ports("blue0")


def test_gc_of_theirs(ours: Client, theirs: Client, go_config: Config, call: Call) -> None:
    """GC by ours frees what the Go plugins gave to containers that are gone, and nothing else."""
    valid, stale, new = theirs("valid"), theirs("stale"), ours("new")
    result = valid.add(go_config)
    stale.add(go_config)
    other = new.add(go_config)
    run("ip", "netns", "delete", stale.netns.name)
    newest = go_config | {"cniVersion": cni.NEWEST}
    call("GC", cni.collected(newest, valid, new)).silent()
    assert set(cni.leases()) == {*cni.addresses(result), *cni.addresses(other)}
    valid.check(go_config, result).silent()
    new.check(go_config, other).silent()


def test_what_theirs_leave_of_ours(
    ours: Client, theirs: Client, go_config: Config, call: Call, snapshot: TakeSnapshot
) -> None:
    """The Go plugins know neither our records nor our nftables; our GC removes them."""
    ports = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]
    config = go_config | {"ipMasq": True, "runtimeConfig": {"portMappings": ports}}
    newest = config | {"cniVersion": cni.NEWEST}
    old, new = ours("old"), ours("new")
    old.add(config)
    old.delete(config)
    before = snapshot(old.netns)
    result = old.add(config)
    by(old, theirs("any")).delete(go_config, result)
    assert old.netns.links().keys() == {"lo"}
    assert not cni.leases()
    assert "old:eth0" in new.call("ADD", config).error(PLUGIN_SPECIFIC)["msg"]
    call("GC", cni.collected(newest)).silent()
    assert snapshot(old.netns) == before
    new.add(config)


def test_what_ours_leave_of_theirs(ours: Client, theirs: Client, go_config: Config) -> None:
    """Our plugins do not touch the rules of iptables that the Go plugins made."""
    config = go_config | {"ipMasq": True}
    old = theirs("old")
    result = old.add(config)
    rules = run("iptables", "-t", "nat", "-S")
    assert "old" in rules
    by(old, ours("any")).delete(config, result)
    assert run("iptables", "-t", "nat", "-S") == rules
