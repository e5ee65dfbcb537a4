"""host-local's choice of addresses against a model: exclusions, requests, rests and grace."""

import shutil
import tempfile
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cnm_core.config.host_local import host_local_config
from cnm_core.errors import (
    AddressInUse,
    InvalidNetworkConfig,
    NotAvailable,
    PoolExhausted,
    TryAgainLater,
)
from cnm_core.inet import format_ip
from cnm_core.ipam import ENVIRONMENT, Request
from cnm_core.ipam.host_local import HostLocal
from cnm_core.model import EndpointKey
from cnm_core.store.allocations import SECOND
from cnm_core.store.resting import BATCH

NETWORK = "blue"
START = 10**18
REST, GRACE = 60, 20
OWNERS = [EndpointKey(f"c{number}", "eth0") for number in range(6)]
IPAM: dict[str, Any] = {
    "ranges": [
        [
            {
                "subnet": "10.1.0.0/28",
                "rangeStart": "10.1.0.2",
                "rangeEnd": "10.1.0.7",
                "exclude": ["10.1.0.4-10.1.0.5", "10.1.0.8/30"],
            },
            {"subnet": "10.1.1.0/31"},
            {"subnet": "10.1.2.9/32"},
        ],
        [{"subnet": "fd00::/125", "auxAddresses": {"router": "fd00::3"}, "gateway": "fd00::2"}],
    ],
    "quarantineSeconds": REST,
    "gcGraceSeconds": GRACE,
}
# What each range set gives, in order.
POOLS = [
    ["10.1.0.2", "10.1.0.3", "10.1.0.6", "10.1.0.7", "10.1.1.1", "10.1.2.9"],
    ["fd00::1", "fd00::4", "fd00::5", "fd00::6", "fd00::7"],
]
NEVER = ["10.1.0.1", "10.1.0.4", "10.1.0.8", "10.1.1.0", "10.9.0.1", "fd00::2", "fd00::3", "fd01::"]


def wanted(*texts: str, source: str = "runtimeConfig.ips") -> tuple[Request, ...]:
    """Requests of one source."""
    return tuple(Request(text, source) for text in texts)


class World:
    """A data directory, a clock that stands still, and drivers made for one call each."""

    def __init__(self, directory: Path, ipam: dict[str, Any]) -> None:
        self.directory = directory
        self.ipam = ipam
        self.now = START

    def driver(self, requests: tuple[Request, ...] = (), **changes: Any) -> HostLocal:
        """A driver as one call makes it."""
        options = host_local_config({**self.ipam, "dataDir": str(self.directory), **changes})
        return HostLocal(NETWORK, options, requests, clock=lambda: self.now)

    def add(self, owner: EndpointKey, *requests: Request, **changes: Any) -> list[str]:
        """ADD: the addresses."""
        leases = self.driver(requests, **changes).request(owner).leases
        return [format_ip(lease.address.ip) for lease in leases]

    @property
    def files(self) -> dict[str, str]:
        """The addresses in use, and what their files have."""
        directory = self.directory / NETWORK
        found = sorted(directory.glob("*")) if directory.exists() else []
        return {path.name: path.read_bytes().decode() for path in found if path.name[0] in "1f"}


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A pool of four addresses that rest after their release."""
    ipam = {"ranges": [[{"subnet": "10.1.0.0/29", "rangeEnd": "10.1.0.5"}]]}
    return World(tmp_path, ipam | {"quarantineSeconds": REST, "gcGraceSeconds": GRACE})


class Pool(RuleBasedStateMachine):
    """Containers come and go, ask for addresses, and time passes."""

    owners = st.sampled_from(OWNERS)
    fits = st.sampled_from(["next-fit", "first-fit"])

    def __init__(self) -> None:
        super().__init__()
        self.world = World(Path(tempfile.mkdtemp()), IPAM)
        self.held: dict[EndpointKey, list[str]] = {}
        self.foreign: set[str] = set()
        self.rested: dict[str, int] = {}
        self.cursors: dict[int, str] = {}

    def teardown(self) -> None:
        """Leave nothing."""
        shutil.rmtree(self.world.directory)

    @property
    def used(self) -> set[str]:
        """The addresses that have files."""
        return self.foreign.union(*self.held.values())

    def resting(self) -> set[str]:
        """The addresses whose time has not come."""
        now = self.world.now
        return {ip for ip, since in self.rested.items() if now - since < REST * SECOND}

    def next_of(self, index: int, fit: str) -> str | None:
        """The address that a range set gives next."""
        pool, cursor = POOLS[index], self.cursors.get(index)
        start = pool.index(cursor) + 1 if fit == "next-fit" and cursor in pool else 0
        blocked = self.used | self.resting()
        return next((ip for ip in pool[start:] + pool[:start] if ip not in blocked), None)

    @rule(owner=owners, fit=fits)
    def add(self, owner: EndpointKey, fit: str) -> None:
        expected = [self.next_of(index, fit) for index in range(len(POOLS))]
        if owner in self.held:
            with pytest.raises(AddressInUse):
                self.world.add(owner, allocation=fit)
        elif None in expected:
            empty = expected.index(None)
            error = TryAgainLater if self.resting() & set(POOLS[empty]) else PoolExhausted
            with pytest.raises(error):
                self.world.add(owner, allocation=fit)
        else:
            self.held[owner] = self.world.add(owner, allocation=fit)
            assert self.held[owner] == expected
            self.cursors = dict(enumerate(self.held[owner]))

    @rule(owner=owners, index=st.integers(0, 1), data=st.data())
    def add_certain(self, owner: EndpointKey, index: int, data: st.DataObject) -> None:
        """One set gives what is asked for, resting or not; the other what is next."""
        ip = data.draw(st.sampled_from(POOLS[index]))
        other = self.next_of(1 - index, "next-fit")
        if owner in self.held or ip in self.used:
            with pytest.raises(AddressInUse):
                self.world.add(owner, *wanted(ip))
        elif other is not None:
            given = self.world.add(owner, *wanted(ip))
            assert (given[index], given[1 - index]) == (ip, other)
            self.held[owner] = given
            self.cursors[1 - index] = other
            self.rested.pop(ip, None)

    @rule(owner=owners, ip=st.sampled_from(NEVER))
    def add_never(self, owner: EndpointKey, ip: str) -> None:
        with pytest.raises(InvalidNetworkConfig, match=ip):
            self.world.add(owner, *wanted(ip))

    @rule(owner=owners)
    def delete(self, owner: EndpointKey) -> None:
        self.world.driver().release(owner)
        self.rested |= dict.fromkeys(self.held.pop(owner, ()), self.world.now)

    @rule(valid=st.sets(owners))
    def collect(self, valid: set[EndpointKey]) -> None:
        """Files are as old as the machine's clock says, far from ours: no grace."""
        self.world.driver().collect(valid)
        for owner in self.held.keys() - valid:
            self.rested |= dict.fromkeys(self.held.pop(owner), self.world.now)
        self.rested |= dict.fromkeys(self.foreign, self.world.now)
        self.foreign.clear()

    @rule(seconds=st.sampled_from([1, REST - 1, REST]))
    def pass_time(self, seconds: int) -> None:
        self.world.now += seconds * SECOND

    @rule(ip=st.sampled_from([*POOLS[0], *POOLS[1]]))
    def foreign_add(self, ip: str) -> None:
        """Somebody who knows of no rests."""
        if ip not in self.used:
            (self.world.directory / NETWORK).mkdir(exist_ok=True)
            (self.world.directory / NETWORK / ip).write_text("foreign\r\neth0")
            self.foreign.add(ip)
            self.rested.pop(ip, None)

    @precondition(lambda self: self.foreign)
    @rule(data=st.data())
    def foreign_delete(self, data: st.DataObject) -> None:
        """An address that was taken out of its rest has ended it, once we have seen that."""
        ip = data.draw(st.sampled_from(sorted(self.foreign)))
        self.world.driver().drift(OWNERS[0], ())
        (self.world.directory / NETWORK / ip).unlink()
        self.foreign.discard(ip)

    @rule()
    def lose_index(self) -> None:
        shutil.rmtree(self.world.directory / ".cnm" / NETWORK, ignore_errors=True)

    @invariant()
    def files_are_what_is_held(self) -> None:
        expected = dict.fromkeys(self.foreign, "foreign\r\neth0")
        for owner, ips in self.held.items():
            expected |= dict.fromkeys(ips, f"{owner.container_id}\r\n{owner.ifname}")
        assert self.world.files == expected


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=80, stateful_step_count=40)


def test_pools() -> None:
    """The model's addresses are those of the configuration."""
    for configs, pool in zip(IPAM["ranges"], POOLS, strict=True):
        assert all(any(ip_address(ip) in ip_network(c["subnet"]) for c in configs) for ip in pool)


# --- rests


def test_rest(world: World) -> None:
    """The error has the address that is free next, and when; then it is given."""
    for owner in OWNERS[:4]:
        world.add(owner)
    for owner in (OWNERS[1], OWNERS[0]):
        world.driver().release(owner)
        world.now += 10 * SECOND
    with pytest.raises(TryAgainLater) as caught:
        world.add(OWNERS[4])
    assert "10.1.0.3, is free in 40 s" in caught.value.msg
    assert caught.value.code == 11
    with pytest.raises(NotAvailable, match=r"10\.1\.0\.3"):
        world.driver().check_status()
    world.now += 40 * SECOND
    world.driver().check_status()
    assert world.add(OWNERS[4]) == ["10.1.0.3"]


def test_rest_is_no_longer_configured(world: World) -> None:
    """Without quarantineSeconds an address is free at once, whenever it was released."""
    for owner in OWNERS[:4]:
        world.add(owner)
    world.driver().release(OWNERS[2])
    assert world.add(OWNERS[4], quarantineSeconds=0) == ["10.1.0.4"]
    assert not list((world.directory / ".cnm").glob("*resting*"))


def test_clock_set_back(world: World) -> None:
    """A rest that began in the far future is over: nobody knows how long it was."""
    for owner in OWNERS[:4]:
        world.add(owner)
    world.now += 3600 * SECOND
    world.driver().release(OWNERS[0])
    world.now -= 3600 * SECOND
    assert world.add(OWNERS[4]) == ["10.1.0.2"]


def test_many_rests_end_at_once(tmp_path: Path) -> None:
    """More than a call looks at in one go: each is found when there is no other."""
    count = 3 * BATCH
    ipam = {"subnet": "10.1.0.0/16", "rangeStart": "10.1.1.0", "quarantineSeconds": REST}
    last = str(ip_address("10.1.1.0") + count - 1)
    world = World(tmp_path, ipam | {"rangeEnd": last, "allocation": "first-fit"})
    owners = [EndpointKey(f"c{number}", "eth0") for number in range(count)]
    for owner in owners:
        world.add(owner)
    for owner in reversed(owners):
        world.driver().release(owner)
    world.now += REST * SECOND
    assert len({world.add(owner)[0] for owner in owners}) == count
    with pytest.raises(PoolExhausted):
        world.add(OWNERS[0].replace(ifname="eth9"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-20]),
        lambda path: path.write_bytes(b"\xff" * 300),
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
    ],
    ids=["cut", "garbage", "empty", "gone"],
)
def test_damaged_rests(world: World, damage: Callable[[Path], Any]) -> None:
    """A damaged queue costs rests, never an address."""
    for owner in OWNERS[:4]:
        world.add(owner)
    world.driver().release(OWNERS[0])
    (queue,) = (world.directory / ".cnm").glob(".*resting")
    damage(queue)
    shutil.rmtree(world.directory / ".cnm" / NETWORK)
    assert world.add(OWNERS[4]) == ["10.1.0.2"]
    world.driver().release(OWNERS[1])
    with pytest.raises(TryAgainLater, match=r"10\.1\.0\.3"):
        world.add(OWNERS[5])


# --- grace


def test_grace(world: World) -> None:
    """GC leaves young addresses alone, and counts from when their files were written."""
    world.add(OWNERS[0])
    written = (world.directory / NETWORK / "10.1.0.2").stat().st_mtime_ns
    (world.directory / NETWORK / "10.1.0.3").touch()
    for age, left in ((GRACE - 1, 2), (GRACE + 3600, 0)):
        world.now = written + age * SECOND
        world.driver().collect(())
        assert len(world.files) == left


# --- requests


REFUSALS: list[tuple[list[str], type[Exception], str]] = [
    (["10.1.0.1"], InvalidNetworkConfig, "x: 10.1.0.1 is never given, it is the gateway of"),
    (["10.1.0.7"], InvalidNetworkConfig, 'x: 10.1.0.7 is in no range of network "blue"'),
    (["fd00::1"], InvalidNetworkConfig, 'x: fd00::1 is in no range of network "blue"'),
    (["10.1.0.4"], AddressInUse, 'x: 10.1.0.4 of network "blue" is held by "c1:eth0"'),
    (["10.1.0.5"], AddressInUse, "is held by a file that names no owner"),
    (["10.1.0.2", "10.1.0.3/29"], InvalidNetworkConfig, "x: 10.1.0.2 and 10.1.0.3/29 are both"),
]


@pytest.mark.parametrize(("texts", "error", "message"), REFUSALS)
def test_refused_requests(
    world: World, texts: list[str], error: type[Exception], message: str
) -> None:
    """An error names who asked, the address, and the holder or the reason."""
    world.add(OWNERS[1], *wanted("10.1.0.4"))
    (world.directory / NETWORK / "10.1.0.5").touch()
    before = world.files
    with pytest.raises(error) as caught:
        world.add(OWNERS[2], *wanted(*texts, source="x"))
    assert message in str(caught.value)
    assert world.files == before


def test_reasons(world: World) -> None:
    """An address that is kept out says by what."""
    members = {"subnet": "10.1.0.0/29", "exclude": ["10.1.0.2-10.1.0.3"]}
    ranges = [[members | {"auxAddresses": {"router": "10.1.0.4"}}]]
    for ip, reason in (
        ("10.1.0.3", "excluded by 10.1.0.2-10.1.0.3"),
        ("10.1.0.4", 'the auxiliary address "router"'),
    ):
        with pytest.raises(InvalidNetworkConfig) as caught:
            world.add(OWNERS[0], *wanted(ip), ranges=ranges)
        assert reason in caught.value.msg


def test_the_strongest_source(world: World) -> None:
    """Of two sources that ask one set for different addresses the first is heard."""
    requests = wanted("10.1.0.4") + wanted("10.1.0.5", source=ENVIRONMENT)
    assert world.add(OWNERS[0], *requests) == ["10.1.0.4"]
    both = wanted("10.1.0.3") + wanted("fd00::5", source=ENVIRONMENT)
    ranges = [*world.ipam["ranges"], [{"subnet": "fd00::/64"}]]
    assert world.add(OWNERS[1], *both, ranges=ranges) == ["10.1.0.3", "fd00::5"]


def test_the_round_goes_on(world: World) -> None:
    """An address that was asked for does not move the place where the search goes on."""
    assert world.add(OWNERS[0]) == ["10.1.0.2"]
    assert world.add(OWNERS[1], *wanted("10.1.0.4/29")) == ["10.1.0.4"]
    assert world.add(OWNERS[2]) == ["10.1.0.3"]


def test_excludes_cost_nothing_each(tmp_path: Path) -> None:
    """Excluded spans are skipped as wholes, however large."""
    subnet = {"subnet": "10.0.0.0/8", "exclude": ["10.0.0.0-10.255.255.200"]}
    assert World(tmp_path, {"ranges": [[subnet]]}).add(OWNERS[0]) == ["10.255.255.201"]
    subnet = {"subnet": "fd00::/16", "exclude": ["fd00::/17"]}
    assert World(tmp_path, {"ranges": [[subnet]]}).add(OWNERS[1]) == ["fd00:8000::"]
