"""STATUS (CNI spec 1.1.0, section 2): whether the next ADD can be served."""

from collections.abc import Callable

import pytest

from tests import cni
from tests.cni import NOT_AVAILABLE, Config, Endpoint, Outcome
from tests.iproute import Snapshot

Call = Callable[..., Outcome]
MakeEndpoint = Callable[[], Endpoint]

pytestmark = pytest.mark.since("1.1.0")


@pytest.fixture
def small(config: Config) -> Config:
    """A network with room for two endpoints."""
    return config | {"ipam": cni.host_local("10.1.0.0/29") | {"ranges": [[_SMALL]]}}


_SMALL = {"subnet": "10.1.0.0/29", "rangeStart": "10.1.0.2", "rangeEnd": "10.1.0.3"}


def test_ready(
    endpoint: MakeEndpoint, call: Call, snapshot: Callable[..., Snapshot], config: Config
) -> None:
    """spec: success is silent and changes nothing, before the first ADD and after it."""
    before = snapshot()
    call("STATUS", config).silent()
    assert snapshot() == before
    endpoint().add(config)
    before = snapshot()
    call("STATUS", config).silent()
    assert snapshot() == before


@pytest.mark.needs("addresses")
def test_addresses_exhausted(endpoint: MakeEndpoint, call: Call, small: Config) -> None:
    """spec: error 50 where a limited resource is used up; ready again when some is free."""
    first = endpoint()
    first.add(small)
    call("STATUS", small).silent()
    endpoint().add(small)
    call("STATUS", small).error(NOT_AVAILABLE)
    first.delete(small)
    call("STATUS", small).silent()


@pytest.mark.needs("addresses")
def test_one_family_exhausted(endpoint: MakeEndpoint, call: Call, small: Config) -> None:
    """spec: an ADD needs an address of every range set, so that one empty set is enough."""
    small["ipam"]["ranges"].append([{"subnet": "fd00:1::/64"}])
    for _ in range(2):
        endpoint().add(small)
    call("STATUS", small).error(NOT_AVAILABLE)


@pytest.mark.needs("addresses")
def test_it_promises_nothing(endpoint: MakeEndpoint, call: Call, small: Config) -> None:
    """spec: other commands work without STATUS, and whatever it said."""
    eth0 = endpoint()
    result = eth0.add(small)
    endpoint().add(small)
    call("STATUS", small)
    eth0.check(small, result).silent()
    eth0.delete(small, result)


@pytest.mark.needs("addresses")
def test_state_that_cannot_be_kept(call: Call, config: Config) -> None:
    """spec: error 50 where an ADD would fail."""
    cni.LEASES.parent.mkdir(exist_ok=True)
    cni.LEASES.write_text("a file where a directory should be")
    call("STATUS", config).error(NOT_AVAILABLE)


@pytest.mark.needs("addresses")
@pytest.mark.parametrize(("place", "value"), [("ipam.ranges", []), ("ipam.ranges", "x")])
def test_invalid_configuration(call: Call, config: Config, place: str, value: object) -> None:
    """spec: the errors of ADD's validation are those of STATUS too."""
    call("STATUS", cni.changed(config, place, value)).error()
