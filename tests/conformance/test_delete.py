"""DEL (CNI spec 1.1.0, section 2): it succeeds whatever is left, and leaves nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import cni
from tests.cni import DECODING_FAILURE, INVALID_CONFIG, Config, Endpoint
from tests.iproute import HOST, Snapshot, run

MakeEndpoint = Callable[[], Endpoint]
TakeSnapshot = Callable[..., Snapshot]


@dataclass
class Attached:
    """An endpoint on a network that has another one, and the state before it came."""

    endpoint: Endpoint
    config: Config
    result: Config
    before: Snapshot
    snapshot: TakeSnapshot

    def assert_gone(self) -> None:
        """Nothing of the endpoint is left, and everything else as it was."""
        assert self.snapshot() == self.before


@pytest.fixture
def attached(endpoint: MakeEndpoint, snapshot: TakeSnapshot, config: Config) -> Attached:
    """An endpoint to be deleted, on a network that stays in use."""
    endpoint().add(config)
    before = snapshot()
    eth0 = endpoint()
    result = eth0.add(config)
    assert snapshot() != before
    return Attached(eth0, config, result, before, snapshot)


def _gone(sandbox: str, path: Path) -> None:
    run("ip", "netns", "delete", sandbox)


def _file(sandbox: str, path: Path) -> None:
    _gone(sandbox, path)
    path.touch()


def _directory(sandbox: str, path: Path) -> None:
    _gone(sandbox, path)
    path.mkdir()


def _alive(sandbox: str, path: Path) -> None:
    pass


NETNS_LOSSES = [_alive, _gone, _file, _directory]


@pytest.mark.needs("addresses")
def test_everything_goes(attached: Attached) -> None:
    """spec: DEL undoes ADD: the interface, its address, and what the host has for it."""
    attached.endpoint.delete(attached.config, attached.result)
    assert "eth0" not in attached.endpoint.netns.links()
    attached.assert_gone()


@pytest.mark.needs("addresses")
@pytest.mark.parametrize("loss", NETNS_LOSSES, ids=lambda loss: loss.__name__[1:])
@pytest.mark.parametrize("previous", [True, False], ids=["prevResult", "no prevResult"])
def test_sandbox_lost(
    attached: Attached, loss: Callable[[str, Path], None], previous: bool
) -> None:
    """spec: DEL succeeds where the namespace is gone, or its path means nothing any more."""
    path = Path(attached.endpoint.netns.path)
    loss(attached.endpoint.netns.name, path)
    try:
        attached.endpoint.delete(attached.config, attached.result if previous else None)
        attached.assert_gone()
    finally:
        if path.is_dir():
            path.rmdir()
        elif not path.is_file() or loss is _file:
            path.unlink(missing_ok=True)


@pytest.mark.needs("addresses")
@pytest.mark.parametrize("change", [{"env_drop": ("CNI_NETNS",)}, {"netns": ""}], ids=str)
@pytest.mark.parametrize("loss", [_alive, _gone], ids=["alive", "gone"])
def test_sandbox_not_named(
    attached: Attached, loss: Callable[[str, Path], None], change: Config
) -> None:
    """spec: CNI_NETNS is optional; without it DEL still cleans up on the host."""
    loss(attached.endpoint.netns.name, Path(attached.endpoint.netns.path))
    attached.endpoint.delete(attached.config, **change)
    attached.assert_gone()


@pytest.mark.needs("interface")
def test_a_sandbox_path_in_new_use(attached: Attached) -> None:
    """What another namespace has under the same path is not ours to delete."""
    netns = attached.endpoint.netns
    run("ip", "netns", "delete", netns.name)
    run("ip", "netns", "add", netns.name)
    netns.ip("link", "add", "eth0", "type", "veth", "peer", "name", "peer0")
    attached.endpoint.delete(attached.config, attached.result)
    assert "eth0" in netns.links()
    attached.assert_gone()


@pytest.mark.needs("addresses")
def test_twice(attached: Attached) -> None:
    """spec: DEL for an attachment that was deleted already succeeds."""
    for _ in range(3):
        attached.endpoint.delete(attached.config, attached.result)
        attached.assert_gone()


def test_without_add(endpoint: MakeEndpoint, snapshot: TakeSnapshot, config: Config) -> None:
    """spec: DEL for an attachment that never was succeeds, also where the network never was."""
    before = snapshot()
    endpoint().delete(config)
    assert snapshot() == before
    endpoint().add(config)
    before = snapshot()
    endpoint().delete(config)
    assert snapshot() == before


@pytest.mark.parametrize("version", cni.VERSIONS)
def test_of_each_version(
    endpoint: MakeEndpoint, snapshot: TakeSnapshot, config: Config, version: str
) -> None:
    """spec: prevResult comes with DEL since 0.4.0; DEL succeeds with it and without."""
    versioned = config | {"cniVersion": version}
    endpoint().add(versioned)
    before = snapshot()
    for previous in (True, False):
        eth0 = endpoint()
        result = eth0.add(versioned)
        eth0.delete(versioned, result if previous else None)
        assert snapshot() == before


@pytest.mark.needs("addresses")
@pytest.mark.parametrize("previous", [{}, None, {"cniVersion": "1.0.0"}, {"ips": "x"}], ids=str)
def test_useless_previous_result(attached: Attached, previous: object) -> None:
    """spec: DEL should succeed where prevResult has nothing to offer."""
    attached.endpoint.delete(attached.config | {"prevResult": previous})
    attached.assert_gone()


@pytest.mark.needs("addresses")
@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("ipam.ranges", []),
        ("ipam.ranges", "x"),
        ("ipam.ranges", [[{"subnet": "10.77.0.0/24"}]]),
        ("ipam.ranges[0][0].subnet", "10.1.0.7/24"),
        ("ipam.routes", 5),
        ("ipam.resolvConf", "/nonexistent"),
        ("mtu", "1500"),
        ("mtu", -1),
        ("bridge", 5),
        ("bridge", "another0"),
        ("isGateway", "yes"),
        ("dns", []),
        ("prevResult", "x"),
        ("args", "x"),
        ("runtimeConfig", {"mac": "x"}),
        ("hairpinMode", True),
    ],
)
def test_a_configuration_that_became_invalid(attached: Attached, place: str, value: object) -> None:
    """The configuration should not change before DEL; where it does, DEL works on."""
    attached.endpoint.delete(cni.changed(attached.config, place, value))
    attached.assert_gone()


@pytest.mark.needs("addresses")
def test_address_management_left_the_configuration(attached: Attached) -> None:
    """What ADD allocated is released, though the configuration has no ipam any more."""
    attached.endpoint.delete(cni.without(attached.config, "ipam"))
    attached.assert_gone()


@pytest.mark.needs("addresses")
@pytest.mark.parametrize("name", [None, "../x", 5])
def test_a_network_that_cannot_be_told(attached: Attached, name: object) -> None:
    """spec: without the network's name there is nothing to act on: an error, and no change."""
    before = attached.snapshot()
    error = attached.endpoint.call("DEL", attached.config | {"name": name}).error()
    assert error["code"] in (DECODING_FAILURE, INVALID_CONFIG)
    attached.endpoint.call("DEL", b"{").error(DECODING_FAILURE)
    assert attached.snapshot() == before


@pytest.mark.needs("interface")
def test_container_end_deleted_before(attached: Attached) -> None:
    """spec: DEL succeeds where the interface is gone, and releases the address."""
    attached.endpoint.netns.ip("link", "delete", "eth0")
    attached.endpoint.delete(attached.config, attached.result)
    attached.assert_gone()


@pytest.mark.needs("interface")
def test_everything_deleted_before(endpoint: MakeEndpoint, config: Config) -> None:
    """spec: DEL succeeds where the host's interfaces are gone, and releases the address."""
    eth0 = endpoint()
    result = eth0.add(config)
    for interface in result["interfaces"][:-1]:
        if interface["name"] in HOST.links():
            HOST.ip("link", "delete", interface["name"])
    eth0.delete(config, result)
    assert not cni.leases()


@pytest.mark.needs("interface")
def test_records_lost(attached: Attached) -> None:
    """Without records of its own DEL goes by the namespace and its name."""
    for record in Path("/run/cnm").rglob(f"*{attached.endpoint.container_id}*"):
        record.unlink()
    attached.endpoint.delete(attached.config, attached.result)
    assert "eth0" not in attached.endpoint.netns.links()
    attached.assert_gone()


def test_only_one_container(endpoint: MakeEndpoint, config: Config) -> None:
    """spec: DEL concerns one attachment; another container's stays usable."""
    stays, leaves = endpoint(), endpoint()
    result = stays.add(config)
    leaves.add(config)
    leaves.delete(config)
    stays.check(config, result).silent()


@pytest.mark.needs("addresses")
@pytest.mark.parametrize("milliseconds", range(1, 25, 2))
def test_after_a_killed_add(
    endpoint: MakeEndpoint, snapshot: TakeSnapshot, config: Config, milliseconds: int
) -> None:
    """spec: a runtime calls DEL after a failed ADD; it removes whatever ADD got to make."""
    endpoint().add(config)
    eth0 = endpoint()
    before = snapshot(eth0.netns)
    eth0.kill("ADD", config, milliseconds / 1000)
    eth0.delete(config)
    assert snapshot(eth0.netns) == before
    eth0.check(config, eth0.add(config)).silent()


@pytest.mark.needs("addresses")
@pytest.mark.parametrize("milliseconds", range(2, 20, 3))
def test_add_after_a_killed_add(endpoint: MakeEndpoint, config: Config, milliseconds: int) -> None:
    """After a killed ADD a DEL without namespace will do, and ADD works again."""
    eth0 = endpoint()
    eth0.kill("ADD", config, milliseconds / 1000)
    eth0.delete(config, env_drop=("CNI_NETNS",))
    result = eth0.add(config)
    assert sorted(cni.leases()) == cni.addresses(result)
