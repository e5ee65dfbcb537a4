"""VLANs of bridge ports under a kernel whose bridges do not filter them; tests/vm has the rest."""

from collections.abc import Callable

import pytest

from cnm_core.kernel import vlan
from cnm_core.kernel.netlink import Socket
from tests import cni
from tests.cni import NOT_AVAILABLE, PLUGIN_SPECIFIC, Config, Endpoint
from tests.iproute import HOST, Snapshot

MakeEndpoint = Callable[[], Endpoint]
TakeSnapshot = Callable[..., Snapshot]
WANTED: list[tuple[Config, str]] = [
    ({"vlan": 10}, "vlan: 10"),
    ({"vlanTrunk": [{"minID": 20, "maxID": 30}, {"id": 5}]}, "vlanTrunk: 5, 20-30"),
]

pytestmark = pytest.mark.skipif(vlan.kernel_filters(Socket()), reason="this kernel filters VLANs")


@pytest.fixture
def plugin() -> str:
    """Always the bridge plugin."""
    return "bridge"


@pytest.mark.parametrize(("members", "key"), WANTED, ids=str)
@pytest.mark.parametrize("present", [True, False])
def test_add(
    endpoint: MakeEndpoint,
    snapshot: TakeSnapshot,
    config: Config,
    members: Config,
    key: str,
    present: bool,
) -> None:
    """ADD says what the kernel lacks, and leaves nothing."""
    if present:
        endpoint().add(config)
    eth0 = endpoint()
    before = snapshot(eth0.netns)
    error = eth0.call("ADD", config | members).error(PLUGIN_SPECIFIC)
    assert key in error["msg"]
    assert "CONFIG_BRIDGE_VLAN_FILTERING" in error["details"]
    assert snapshot(eth0.netns) == before


@pytest.mark.parametrize(("members", "key"), WANTED, ids=str)
def test_status(endpoint: MakeEndpoint, config: Config, members: Config, key: str) -> None:
    """STATUS says that no ADD can be served, and why."""
    error = endpoint().call("STATUS", config | members).error(NOT_AVAILABLE)
    assert key in error["msg"]
    assert "CONFIG_BRIDGE_VLAN_FILTERING" in error["details"]


@pytest.mark.parametrize("members", [{"vlan": 0}, {"vlanTrunk": []}], ids=str)
def test_none(endpoint: MakeEndpoint, config: Config, members: Config) -> None:
    """VLAN 0 and an empty trunk ask for nothing."""
    eth0 = endpoint()
    eth0.check(config | members, eth0.add(config | members)).silent()


@pytest.mark.usefixtures("node")
def test_probes_make_nothing() -> None:
    """The kernel is asked by requests that it refuses, whatever it has."""
    vlan.kernel_filters(Socket())
    vlan.kernel_links(Socket())
    assert HOST.links().keys() == {"lo"}


def test_delete(endpoint: MakeEndpoint, config: Config) -> None:
    """DEL needs no VLANs."""
    eth0 = endpoint()
    eth0.add(config)
    eth0.delete(config | {"vlan": 10})
    assert not cni.leases()
