"""A clock that was wrong when an address was released, claimed or recorded, by far or by little.

The clock of one machine cannot be set for one test: instead what files and queue say was
written by another clock. `quarantineSeconds` and `gcGraceSeconds` may take up to twice
their time then, or end at once where the clocks are further apart, but nothing stays forever.
"""

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import cni
from tests.cni import Config, Endpoint, Outcome

REST = 600  # seconds, many more than a test takes
TRY_AGAIN_LATER = 11
YEARS = 4 * 365 * 86400
QUEUE = cni.LEASES / ".cnm/.blue.resting"

Call = Callable[..., Outcome]
MakeEndpoint = Callable[[], Endpoint]


@pytest.fixture
def one_address(config: Config) -> Config:
    """A network with a single address to give, which rests after its release."""
    ipam = cni.host_local("10.1.0.0/30", quarantineSeconds=REST)
    return config | {"ipam": ipam}


def _released(seconds: float) -> None:
    """Have every release been noted by a clock that was that much behind today's."""
    since = int((time.time() - seconds) * 10**9)
    head, *lines = QUEUE.read_text().splitlines()
    changed = [re.sub(r"^\d+", f"{since:020d}", line) for line in lines]
    QUEUE.write_text("\n".join([head, *changed]) + "\n")


@pytest.mark.parametrize("behind", [REST - 60, -(REST - 60)], ids=["past", "future"])
def test_resting(endpoint: MakeEndpoint, one_address: Config, behind: int) -> None:
    """Within the time of rest, to either side, the address rests; and says how long."""
    old, new = endpoint(), endpoint()
    old.add(one_address)
    old.delete(one_address)
    _released(behind)
    error = new.call("ADD", one_address).error(TRY_AGAIN_LATER)
    found = re.search(r"10\.1\.0\.2, is free in (\d+) s", error["msg"])
    assert found and 0 < int(found[1]) <= 2 * REST


_AGES = {"past": REST + 60, "future": -(REST + 60), "years": YEARS, "years ahead": -YEARS}


@pytest.mark.parametrize("behind", [*_AGES.values(), time.time()], ids=[*_AGES, "1970"])
def test_rested(endpoint: MakeEndpoint, one_address: Config, behind: float) -> None:
    """Farther away the address is free, be it that the clock began in 1970 or is years ahead."""
    old, new = endpoint(), endpoint()
    given = cni.addresses(old.add(one_address))
    old.delete(one_address)
    _released(behind)
    assert cni.addresses(new.add(one_address)) == given
    assert not QUEUE.exists()


def test_later_ones_do_not_wait_for_years(endpoint: MakeEndpoint, config: Config) -> None:
    """A release by a clock that was far ahead does not hold those behind it in the queue."""
    ipam = cni.host_local("10.1.0.0/29", quarantineSeconds=REST)
    config = config | {"ipam": ipam}
    endpoints = [endpoint() for _ in range(5)]
    for each in endpoints:
        each.add(config)
    endpoints[0].delete(config)
    _released(-YEARS)
    endpoints[1].delete(config)
    assert cni.addresses(endpoints[2].other("eth1").add(config)) == ["10.1.0.2"]
    endpoints[2].other("eth2").call("ADD", config).error(TRY_AGAIN_LATER)


@pytest.mark.parametrize("off", [YEARS, -YEARS], ids=["past", "future"])
def test_grace(endpoint: MakeEndpoint, call: Call, config: Config, off: int) -> None:
    """What was claimed by a clock years away is no longer young: GC frees it, and nothing else."""
    config = cni.changed(config, "ipam.gcGraceSeconds", REST)
    old, young, valid = endpoint(), endpoint(), endpoint()
    results = [each.add(config) for each in (old, young, valid)]
    then = time.time() - off
    for each, result in zip((old, valid), (results[0], results[2]), strict=True):
        for path in [
            *(cni.LEASES / "blue" / ip for ip in cni.addresses(result)),
            *Path("/run/cnm/blue").glob(f"{each.container_id}:*"),
        ]:
            os.utime(path, (then, then))
    call("GC", cni.collected(config, valid)).silent()
    assert set(cni.leases()) == {*cni.addresses(results[1]), *cni.addresses(results[2])}
    for each, result in zip((young, valid), results[1:], strict=True):
        each.check(config, result).silent()


@pytest.mark.parametrize("seconds", [0, 1, YEARS, 2**33], ids=str)
def test_index(endpoint: MakeEndpoint, config: Config, seconds: int) -> None:
    """Directories of any time, the same even: no address is given that a file is there for."""
    first, *others = (endpoint() for _ in range(3))
    first.add(config)
    (cni.LEASES / "blue/10.1.0.3").write_text("foreign\r\neth0")
    for path in (cni.LEASES / "blue", cni.LEASES / ".cnm/blue"):
        os.utime(path, (time.time() + seconds, time.time() + seconds))
    given = [cni.addresses(each.add(config))[0] for each in others]
    assert given == ["10.1.0.4", "10.1.0.5"]
