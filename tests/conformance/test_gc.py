"""GC (CNI spec 1.1.0, section 2): what belongs to no valid attachment goes."""

from collections.abc import Callable

import pytest

from tests import cni
from tests.cni import INVALID_CONFIG, Config, Endpoint, Outcome
from tests.iproute import HOST, Snapshot, run

Call = Callable[..., Outcome]
MakeEndpoint = Callable[[], Endpoint]
TakeSnapshot = Callable[..., Snapshot]

pytestmark = pytest.mark.since("1.1.0")

VALID_KEYS = ["cni.dev/valid-attachments", "cni.dev/attachments"]


@pytest.mark.parametrize("key", VALID_KEYS)
def test_stale_endpoints_go(
    endpoint: MakeEndpoint, call: Call, snapshot: TakeSnapshot, config: Config, key: str
) -> None:
    """spec: GC removes what is not among the valid attachments, and nothing else.

    The reference library sends them under a second, misnamed key as well.
    """
    stays = endpoint()
    result = stays.add(config)
    before = snapshot(stays.netns)
    stale = [endpoint(), endpoint()]
    for each in stale:
        each.add(config)
    run("ip", "netns", "delete", stale[0].netns.name)
    call("GC", config | {key: [stays.attachment]}).silent()
    assert snapshot(stays.netns) == before
    assert "eth0" not in stale[1].netns.links()
    stays.check(config, result).silent()


def test_nothing_is_stale(
    endpoint: MakeEndpoint, call: Call, snapshot: TakeSnapshot, config: Config
) -> None:
    """spec: valid attachments stay as they are; unknown ones among them do no harm."""
    present = [endpoint(), endpoint()]
    for each in present:
        each.add(config)
    before = snapshot()
    call("GC", cni.collected(config, *present, endpoint())).silent()
    assert snapshot() == before


def test_an_empty_list_means_everything(endpoint: MakeEndpoint, call: Call, config: Config) -> None:
    """spec: with no valid attachment every endpoint of the network is stale."""
    stale = [endpoint(), endpoint()]
    for each in stale:
        each.add(config)
    call("GC", cni.collected(config)).silent()
    assert not cni.leases()
    assert all("eth0" not in each.netns.links() for each in stale)
    for each in stale:
        each.delete(config)


@pytest.mark.needs("addresses")
@pytest.mark.parametrize("absent", [{}, {"cni.dev/valid-attachments": None}], ids=str)
def test_no_list_means_nothing(
    endpoint: MakeEndpoint, call: Call, snapshot: TakeSnapshot, config: Config, absent: Config
) -> None:
    """spec: the runtime must say what is valid; a list left out is no empty list."""
    endpoint().add(config)
    before = snapshot()
    call("GC", config | absent).silent()
    assert snapshot() == before


@pytest.mark.needs("addresses")
@pytest.mark.parametrize(
    "value",
    [
        "x",
        {},
        [5],
        [{}],
        [{"containerID": "c1"}],
        [{"ifname": "eth0"}],
        [{"containerID": 5, "ifname": "eth0"}],
        [{"containerID": "c1", "ifname": ["eth0"]}],
    ],
    ids=str,
)
def test_a_malformed_list(
    endpoint: MakeEndpoint, call: Call, snapshot: TakeSnapshot, config: Config, value: object
) -> None:
    """Where a valid attachment is no object of containerID and ifname nothing is done."""
    endpoint().add(config)
    before = snapshot()
    error = call("GC", config | {"cni.dev/valid-attachments": value}).error(INVALID_CONFIG)
    assert "cni.dev/valid-attachments" in error["msg"]
    assert snapshot() == before


@pytest.mark.needs("addresses")
def test_one_interface_of_a_container(endpoint: MakeEndpoint, call: Call, config: Config) -> None:
    """spec: an attachment is a container and an interface; another interface may be stale."""
    eth0 = endpoint()
    result = eth0.add(config)
    stale = eth0.other("net1")
    stale.add(config)
    call("GC", cni.collected(config, eth0)).silent()
    assert "net1" not in eth0.netns.links()
    assert list(cni.leases()) == cni.addresses(result)
    eth0.check(config, result).silent()


def test_another_network_survives(
    endpoint: MakeEndpoint, call: Call, snapshot: TakeSnapshot, config: Config
) -> None:
    """spec: GC is about one network, though another shares bridge and data directory."""
    green = config | {"name": "green", "ipam": cni.host_local("10.1.0.0/24", rangeStart="")}
    green = cni.changed(green, "ipam.ranges[0][0].rangeStart", "10.1.0.100")
    other = endpoint()
    result = other.add(green)
    before = snapshot(other.netns)
    endpoint().add(config)
    call("GC", cni.collected(config)).silent()
    assert snapshot(other.netns) == before
    other.check(green, result).silent()


@pytest.mark.needs("addresses")
def test_addresses_without_endpoint(endpoint: MakeEndpoint, call: Call, config: Config) -> None:
    """spec: GC removes leaked resources of any kind: reservations that nobody holds."""
    eth0 = endpoint()
    eth0.add(config)
    kept = cni.leases()
    directory = cni.LEASES / "blue"
    (directory / "10.1.0.50").write_text("leaked\r\neth0")
    (directory / "10.1.0.51").write_text(f"{eth0.container_id}\r\nnet9")
    (directory / "10.1.0.52").write_text("")
    call("GC", cni.collected(config, eth0)).silent()
    assert cni.leases() == kept


@pytest.mark.needs("addresses")
def test_old_address_files(endpoint: MakeEndpoint, call: Call, config: Config) -> None:
    """Files of old plugins name no interface: they are valid while their container is."""
    eth0 = endpoint()
    eth0.add(config)
    kept = cni.leases()
    directory = cni.LEASES / "blue"
    (directory / "10.1.0.50").write_text(eth0.container_id)
    (directory / "10.1.0.51").write_text("leaked")
    call("GC", cni.collected(config, eth0)).silent()
    assert cni.leases() == kept | {"10.1.0.50": (eth0.container_id, "")}
    call("GC", cni.collected(config)).silent()
    assert not cni.leases()


@pytest.mark.needs("addresses")
def test_the_search_goes_on_where_it_was(
    endpoint: MakeEndpoint, call: Call, config: Config
) -> None:
    """GC frees addresses only: an address is not given again at once."""
    first = endpoint().add(config)
    call("GC", cni.collected(config)).silent()
    second = endpoint().add(config)
    assert cni.addresses(first) != cni.addresses(second)


@pytest.mark.parametrize(
    ("place", "value"),
    [("ipam.ranges", []), ("mtu", "x"), ("bridge", 5), ("ipam.routes", 5), ("dns", [])],
)
def test_a_configuration_that_became_invalid(
    endpoint: MakeEndpoint, call: Call, config: Config, place: str, value: object
) -> None:
    """GC removes as much as it can."""
    eth0 = endpoint()
    eth0.add(config)
    call("GC", cni.collected(cni.changed(config, place, value))).silent()
    assert not cni.leases()
    assert "eth0" not in eth0.netns.links()


def test_network_that_never_was(call: Call, snapshot: TakeSnapshot, config: Config) -> None:
    """spec: success where there is nothing to collect."""
    before = snapshot()
    call("GC", cni.collected(config)).silent()
    assert snapshot() == before


@pytest.mark.needs("addresses")
def test_it_goes_on_after_a_failure(endpoint: MakeEndpoint, call: Call, config: Config) -> None:
    """spec: GC removes as much as possible, and reports at the end what it could not."""
    stale = [endpoint() for _ in range(3)]
    for each in stale:
        each.add(config)
    stuck = cni.LEASES / "blue" / "10.1.0.3"
    stuck.unlink()
    stuck.mkdir()
    (stuck / "something").touch()
    outcome = call("GC", cni.collected(config))
    if outcome.code:
        assert "10.1.0.3" in outcome.error()["msg"]
    assert not cni.leases()
    assert all("eth0" not in each.netns.links() for each in stale)


@pytest.mark.needs("peer")
def test_the_host_stays_connected(endpoint: MakeEndpoint, call: Call, config: Config) -> None:
    """spec: what endpoints share belongs to the network, not to an endpoint."""
    shared = {each["name"] for each in endpoint().add(config)["interfaces"][:1]}
    call("GC", cni.collected(config)).silent()
    assert shared <= HOST.links().keys()
