"""Allocations: whatever was done, by us, by others, or half, the files are the truth."""

import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cnm_core.config.host_local import HostLocalConfig
from cnm_core.errors import StateFailure
from cnm_core.inet import format_ip, parse_ip, to_int, to_ip
from cnm_core.ipam.host_local import HostLocal
from cnm_core.model import EndpointKey
from cnm_core.store import allocations, files, resting
from cnm_core.store.allocations import Allocations

NETWORK = "blue"
# Across two blocks of the index, and a second family.
POOLS = (("10.0.255.253", "10.1.0.3"), ("fd00::1", "fd00::4"))
IPS = [
    format_ip(to_ip(number, len(parse_ip(first))))
    for first, last in POOLS
    for number in range(to_int(parse_ip(first)), to_int(parse_ip(last)) + 1)
]
OWNERS = [EndpointKey("c1", "eth0"), EndpointKey("c1", "eth1"), EndpointKey("c2", "eth0")]
# What others write: today's Go plugin, an old one, a crash, a vandal.
CONTENTS: dict[str, EndpointKey | None] = {
    **{f"{key.container_id}\r\n{key.ifname}": key for key in OWNERS},
    "c3": EndpointKey("c3", ""),
    "c3\n": EndpointKey("c3", ""),
    "": None,
    "../c1\r\neth0": None,
    "c1\r\n/etc": None,
}
Files = dict[str, str]
RELEASED, REST = 10**18, 30  # nanoseconds since 1970, and seconds


def content_of(owner: EndpointKey) -> str:
    """What the Go plugin's file for an owner has."""
    return f"{owner.container_id}\r\n{owner.ifname}"


def read(directory: Path) -> Files:
    """The files of all addresses."""
    return {ip: (directory / ip).read_bytes().decode() for ip in IPS if (directory / ip).exists()}


def expected_free(used: Collection[str], pool: tuple[str, str]) -> int | None:
    """The lowest address of a pool that is not used."""
    first, last = map(ip_address, pool)
    return next(
        (
            number
            for number in range(int(first), int(last) + 1)
            if str(type(first)(number)) not in used
        ),
        None,
    )


def check(data_dir: Path, resting: Collection[str] = ()) -> None:
    """Assert that a process that comes now sees what the files say, and changes none."""
    found = read(data_dir / NETWORK)
    owned: dict[EndpointKey, set[str]] = {}
    for ip, content in found.items():
        owner = CONTENTS[content]
        if owner is not None:
            owned.setdefault(owner, set()).add(ip)
    with Allocations(str(data_dir), NETWORK) as seen:
        assert {key: set(map(format_ip, seen.of(key))) for key in seen.owners()} == owned
        assert {ip for ip, content in found.items() if CONTENTS[content] is None} == set(
            map(format_ip, seen.ownerless())
        )
        for ip in IPS:
            owner = CONTENTS[found[ip]] or EndpointKey("", "") if ip in found else None
            assert seen.owner_of(parse_ip(ip)) == owner
        for pool in POOLS:
            first, last = map(parse_ip, pool)
            free = seen.next_free(to_int(first), to_int(last), len(first))
            assert free == expected_free({*found, *resting}, pool)
        assert sorted(format_ip(ip) for _, ip in seen.resting()) == sorted(resting)
    assert read(data_dir / NETWORK) == found


def check_copy(data_dir: Path, resting: Collection[str] = ()) -> None:
    """As `check`, and leave everything as it is."""
    with tempfile.TemporaryDirectory() as scratch:
        check(shutil.copytree(data_dir, Path(scratch, "copy"), symlinks=True), resting)


def killed(steps: int, action: Callable[[], object]) -> bool:
    """Run an action in a process that dies before its next system call after some; whether it did.

    The fork has a copy of the modules, so that nothing needs to be put back.
    """
    child = os.fork()
    if child == 0:
        _run_and_die(steps, action)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def _run_and_die(steps: int, action: Callable[[], object]) -> NoReturn:
    remaining = iter(range(steps))

    def mortal(function: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            if next(remaining, None) is None:
                os._exit(9)
            return function(*args, **kwargs)

        return call

    status = 1
    try:
        for module in (allocations, files, resting):
            for name, value in list(vars(module).items()):
                if getattr(value, "__module__", "") == "posix":
                    setattr(module, name, mortal(value))
        action()
        status = 0
    finally:
        os._exit(status)


def claim(data_dir: Path, owner: EndpointKey, *pools: tuple[str, str]) -> list[str]:
    """ADD, up to the claim: a free address of each pool; none where a pool is exhausted."""
    with Allocations(str(data_dir), NETWORK) as seen:
        if seen.of(owner):
            return []
        ips = []
        for pool in pools:
            first, last = map(parse_ip, pool)
            free = seen.next_free(to_int(first), to_int(last), len(first))
            if free is None:
                return []
            ips.append(to_ip(free, len(first)))
        assert seen.claim(ips, owner) is None, "given out twice"
        seen.set_last_reserved(0, ips[0])
        return list(map(format_ip, ips))


def release(data_dir: Path, owner: EndpointKey, rest_since: int | None = None) -> list[str]:
    """DEL; the addresses that were freed."""
    with Allocations(str(data_dir), NETWORK) as seen:
        return list(map(format_ip, seen.release(owner, rest_since=rest_since)))


def wake(data_dir: Path, now: int) -> bool:
    """Let addresses be free that have rested long enough by then."""
    with Allocations(str(data_dir), NETWORK) as seen:
        return seen.wake(now, REST)


def release_ownerless(data_dir: Path) -> None:
    """GC, of what is nobody's."""
    with Allocations(str(data_dir), NETWORK) as seen:
        for ip in seen.ownerless():
            seen.release_ownerless(ip)


def test_ended_rests_wake_nobody(tmp_path: Path) -> None:
    """An address that was given before its rest ended is not free when it would have ended."""
    owner, ip = OWNERS[0], parse_ip(IPS[0])
    with Allocations(str(tmp_path), NETWORK) as seen:
        assert seen.claim([ip], owner) is None
    release(tmp_path, owner, RELEASED)
    with Allocations(str(tmp_path), NETWORK) as seen:
        assert seen.claim([ip], owner) is None
        seen.wake_early(ip)
    assert not wake(tmp_path, RELEASED + REST * 10**9)
    check(tmp_path)


class Life(RuleBasedStateMachine):
    """A directory of allocations, with us and others at work in it."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.files = self.directory / NETWORK
        self.index = self.directory / ".cnm" / NETWORK
        self.known: Files = {}
        self.resting: set[str] = set()

    def teardown(self) -> None:
        """Leave nothing."""
        shutil.rmtree(self.directory)

    def of(self, owner: EndpointKey) -> set[str]:
        """The addresses that an owner is known to have."""
        return {ip for ip, content in self.known.items() if CONTENTS[content] == owner}

    owners = st.sampled_from(OWNERS)
    pools = st.sampled_from([[POOLS[0]], [POOLS[1]], list(POOLS)])
    ips = st.sampled_from(IPS)
    steps = st.integers(0, 60)

    @rule(owner=owners, pools=pools)
    def claim_whole(self, owner: EndpointKey, pools: list[tuple[str, str]]) -> None:
        free = [expected_free({*self.known, *self.resting}, pool) for pool in pools]
        ips = claim(self.directory, owner, *pools)
        if self.of(owner) or None in free:
            assert not ips
        else:
            assert [to_int(parse_ip(ip)) for ip in ips] == free
            self.known |= dict.fromkeys(ips, content_of(owner))

    @rule(owner=owners, ips=st.lists(ips, min_size=1, unique=True))
    def claim_certain(self, owner: EndpointKey, ips: list[str]) -> None:
        if self.of(owner):
            return
        with Allocations(str(self.directory), NETWORK) as seen:
            taken = seen.claim([parse_ip(ip) for ip in ips], owner)
            for ip in ips if taken is None else ():
                seen.wake_early(parse_ip(ip))
        expected = [ip for ip in ips if ip in self.known]
        assert (None if taken is None else format_ip(taken)) == next(iter(expected), None)
        if not expected:
            self.known |= dict.fromkeys(ips, content_of(owner))
            self.resting.difference_update(ips)

    @rule(owner=owners | st.just(EndpointKey("c3", "")), rest=st.booleans())
    def release_whole(self, owner: EndpointKey, rest: bool) -> None:
        held = self.of(owner)
        assert set(release(self.directory, owner, RELEASED if rest else None)) == held
        for ip in held:
            del self.known[ip]
        self.resting |= held if rest else set()

    @rule(early=st.booleans())
    def wake(self, early: bool) -> None:
        """Rests end after their time, also if the clock was set back for long."""
        elapsed = (REST - early) * 10**9
        assert wake(self.directory, RELEASED + elapsed) == (bool(self.resting) and not early)
        if not early:
            self.resting.clear()

    @rule()
    def release_ownerless(self) -> None:
        release_ownerless(self.directory)
        self.known = {ip: content for ip, content in self.known.items() if CONTENTS[content]}

    @rule(owner=owners, pools=pools, steps=steps)
    def claim_killed(self, owner: EndpointKey, pools: list[tuple[str, str]], steps: int) -> None:
        killed(steps, lambda: claim(self.directory, owner, *pools))
        left = read(self.files)
        new = {ip: content for ip, content in left.items() if ip not in self.known}
        assert left == self.known | new
        assert set(new.values()) <= {content_of(owner)}
        assert len(new) <= len(pools)
        self.known = left

    @rule(owner=owners, steps=steps, rest=st.booleans())
    def release_killed(self, owner: EndpointKey, steps: int, rest: bool) -> None:
        killed(steps, lambda: release(self.directory, owner, RELEASED if rest else None))
        left = read(self.files)
        gone = self.known.keys() - left.keys()
        assert left == {ip: self.known[ip] for ip in self.known if ip not in gone}
        assert gone <= self.of(owner)
        self.known = left
        self.resting |= gone if rest else set()
        if rest:  # or else what it was about to release would rest once anybody releases it
            with Allocations(str(self.directory), NETWORK):
                pass

    @rule(steps=steps)
    def wake_killed(self, steps: int) -> None:
        """All that were due, or none."""
        killed(steps, lambda: wake(self.directory, RELEASED + REST * 10**9))
        with Allocations(str(self.directory), NETWORK) as seen:
            left = {format_ip(ip) for _, ip in seen.resting()}
        assert left in (set(), self.resting)
        self.resting = left

    @rule(owner=owners)
    def claim_failed(self, owner: EndpointKey) -> None:
        """What comes after the claim fails, and the claim stands."""
        if self.of(owner) or IPS[0] in {*self.known, *self.resting}:
            return
        seen = Allocations(str(self.directory), NETWORK)
        with pytest.raises(KeyboardInterrupt), seen:
            seen.claim([parse_ip(IPS[0])], owner)
            raise KeyboardInterrupt
        self.known[IPS[0]] = content_of(owner)

    @rule(ip=ips, content=st.sampled_from(sorted(CONTENTS)))
    def foreign_claim(self, ip: str, content: str) -> None:
        if ip not in self.known:
            self.files.mkdir(exist_ok=True)
            (self.files / ip).write_bytes(content.encode())
            self.known[ip] = content
            if ip in self.resting:
                # Until one of ours has seen it, it would rest on once it is free.
                with Allocations(str(self.directory), NETWORK):
                    pass
                self.resting.remove(ip)

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def foreign_release(self, data: st.DataObject) -> None:
        ip = data.draw(st.sampled_from(sorted(self.known)))
        (self.files / ip).unlink()
        del self.known[ip]

    @rule(part=st.sampled_from(["", "owners", "used"]))
    def lose_index(self, part: str) -> None:
        shutil.rmtree(self.index / part, ignore_errors=True)

    @precondition(lambda self: self.index.exists())
    @rule(time=st.integers(0, 2**31))
    def restore_index(self, time: int) -> None:
        """A backup, or a clock that was wrong."""
        os.utime(self.index, (time, time))

    @invariant()
    def files_are_the_truth(self) -> None:
        """Seen from a copy, so that nothing is repaired between two steps."""
        assert read(self.files) == self.known
        check_copy(self.directory, self.resting)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=40, stateful_step_count=20)


def _claim_one(data_dir: Path) -> object:
    return claim(data_dir, OWNERS[0], POOLS[0])


def _claim_two(data_dir: Path) -> object:
    return claim(data_dir, OWNERS[0], *POOLS)


def _release_two(data_dir: Path) -> object:
    return release(data_dir, OWNERS[1])


def _let_two_rest(data_dir: Path) -> object:
    return release(data_dir, OWNERS[1], RELEASED)


ACTIONS = [_claim_one, _claim_two, _release_two, _let_two_rest, release_ownerless]


@pytest.mark.parametrize("situation", ["new", "in use", "without index"])
@pytest.mark.parametrize("coarse", [False, True], ids=["fine clock", "coarse clock"])
@pytest.mark.parametrize("action", ACTIONS)
def test_killed_at_every_system_call(
    tmp_path: Path, action: Callable[[Path], object], coarse: bool, situation: str
) -> None:
    """Whatever a kill leaves, the next process sees the files, and touches nobody else's.

    With a coarse clock, directories that change in one tick have the same time.
    """
    for steps in itertools.count():
        data_dir = tmp_path / str(steps)
        data_dir.mkdir()
        network, index = data_dir / NETWORK, data_dir / ".cnm" / NETWORK
        if situation != "new":
            claim(data_dir, OWNERS[1], *POOLS)
            (network / IPS[1]).touch()
            check(data_dir)
        if situation == "without index":
            shutil.rmtree(index)
        died = killed(steps, lambda: action(data_dir))  # noqa: B023 - called at once
        if coarse and index.exists() and _recent(network) and _recent(index):
            tick = network.stat().st_mtime_ns
            os.utime(network, ns=(tick, tick))
            os.utime(index, ns=(tick, tick))
        left = read(network)
        rested = {IPS[0], IPS[-4]} - left.keys() if action is _let_two_rest else set()
        check_copy(data_dir, rested if situation != "new" else ())
        wake(data_dir, RELEASED + REST * 10**9)
        given = claim(data_dir, OWNERS[2], POOLS[0])
        assert given and read(network) == left | dict.fromkeys(given, content_of(OWNERS[2]))
        release_ownerless(data_dir)
        for owner in OWNERS:
            release(data_dir, owner)
        assert read(network) == {}
        check(data_dir)
        if not died:
            return


def _recent(directory: Path) -> bool:
    """Whether a directory has changed since it was last found in step with another."""
    return time.time() - directory.stat().st_mtime < 1


def test_no_address_twice(tmp_path: Path) -> None:
    """Processes that claim at the same time get addresses of their own."""
    pool = ("10.9.0.1", "10.9.0.200")
    children = []
    for process in range(8):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                for number in range(25):
                    assert claim(tmp_path, EndpointKey(f"p{process}-{number}", "eth0"), pool)
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 8
    found = [path.read_text() for path in (tmp_path / NETWORK).glob("10.*")]
    assert len(found) == len(set(found)) == 200
    assert claim(tmp_path, OWNERS[0], pool) == []


def _truncate(data_dir: Path) -> None:
    os.truncate(data_dir / NETWORK / IPS[0], 0)


def _overwrite(data_dir: Path) -> None:
    (data_dir / NETWORK / IPS[0]).write_text(content_of(OWNERS[1]))


def _lose_bitmap(data_dir: Path) -> None:
    for path in (data_dir / ".cnm" / NETWORK / "used").iterdir():
        os.truncate(path, 0)


def _lose_owners(data_dir: Path) -> None:
    for path in (data_dir / ".cnm" / NETWORK / "owners").iterdir():
        path.unlink()


DAMAGES = [_truncate, _overwrite, _lose_bitmap, _lose_owners]


@pytest.mark.parametrize("damage", DAMAGES)
def test_claim_after_a_power_cut(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """What was lost without a trace in any time costs one call that fails, at most."""
    claim(tmp_path, OWNERS[0], POOLS[0])
    damage(tmp_path)
    release(tmp_path, OWNERS[0])
    taken = None
    for owner in OWNERS[1:]:
        with Allocations(str(tmp_path), NETWORK) as seen:
            first, last = (to_int(parse_ip(ip)) for ip in POOLS[0])
            free = seen.next_free(first, last, 4)
            assert free is not None
            taken = seen.claim([to_ip(free, 4)], owner)
    assert taken is None


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("released", [False, True], ids=["used", "released"])
def test_collect_after_a_power_cut(
    tmp_path: Path, damage: Callable[[Path], None], released: bool
) -> None:
    """GC frees what nobody valid has, whatever the index says."""
    claim(tmp_path, OWNERS[0], POOLS[0])
    damage(tmp_path)
    if released:
        release(tmp_path, OWNERS[0])
    HostLocal(NETWORK, HostLocalConfig(data_dir=str(tmp_path))).collect(())
    assert read(tmp_path / NETWORK) == {}
    check(tmp_path)


def test_last_reserved(tmp_path: Path) -> None:
    """The address given out last, of each range set, in the Go plugin's file."""
    ip = parse_ip(IPS[0])
    with Allocations(str(tmp_path), NETWORK) as seen:
        assert seen.last_reserved(1) is None
        seen.set_last_reserved(1, ip)
        assert seen.last_reserved(1) == ip
        assert seen.last_reserved(0) is None
    path = tmp_path / NETWORK / "last_reserved_ip.1"
    assert path.read_text() == IPS[0]
    for content, expected in (("", None), ("10.0", None), ("\xff", None), (f"{IPS[0]}\n", ip)):
        path.write_text(content)
        with Allocations(str(tmp_path), NETWORK) as seen:
            assert seen.last_reserved(1) == expected


def test_exists(tmp_path: Path) -> None:
    """To look makes nothing; to enter makes the directories, for their owner only."""
    seen = Allocations(str(tmp_path / "data"), NETWORK)
    assert not seen.exists()
    assert not any(tmp_path.iterdir())
    with seen:
        assert seen.exists()
    assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_dir()} == {0o700}


@pytest.mark.parametrize("present", [True, False], ids=["file", "dangling"])
@pytest.mark.parametrize("place", ["lock", "last_reserved_ip.0"])
def test_planted_link(tmp_path: Path, place: str, present: bool) -> None:
    """A symbolic link in the place of a file is not followed: an error, and nothing written."""
    target, data_dir = tmp_path / "target", tmp_path / "data"
    planted = data_dir / NETWORK / place
    _plant(planted, target, present)
    with pytest.raises(StateFailure, match="Too many levels of symbolic links") as caught:
        claim(data_dir, OWNERS[0], POOLS[0])
    assert f'"{planted}"' in caught.value.msg
    _untouched(target, present)


@pytest.mark.parametrize("present", [True, False], ids=["file", "dangling"])
def test_planted_claim(tmp_path: Path, present: bool) -> None:
    """A link where claims are prepared is removed or refused, but not followed."""
    target, data_dir = tmp_path / "target", tmp_path / "data"
    _plant(data_dir / f".cnm/.{NETWORK}.claim", target, present)
    with suppress(StateFailure):
        claim(data_dir, OWNERS[0], POOLS[0])
    _untouched(target, present)


@pytest.mark.parametrize("present", [True, False], ids=["file", "dangling"])
def test_planted_address(tmp_path: Path, present: bool) -> None:
    """A link with an address's name keeps the address from being given out; GC removes it."""
    target, data_dir = tmp_path / "target", tmp_path / "data"
    planted = data_dir / NETWORK / IPS[0]
    _plant(planted, target, present)
    assert claim(data_dir, OWNERS[0], POOLS[0]) == [IPS[1]]
    with Allocations(str(data_dir), NETWORK) as seen:
        assert seen.ownerless() == [parse_ip(IPS[0])]
        assert seen.claim([parse_ip(IPS[0])], OWNERS[1]) == parse_ip(IPS[0])
    release_ownerless(data_dir)
    assert not planted.is_symlink()
    _untouched(target, present)


def _plant(link: Path, target: Path, present: bool) -> None:
    if present:
        target.write_text("precious")
    link.parent.mkdir(parents=True)
    link.symlink_to(target)


def _untouched(target: Path, present: bool) -> None:
    assert target.read_text() == "precious" if present else not target.exists()


def test_names_that_look_like_ours(tmp_path: Path) -> None:
    """Networks whose names differ in what we append to them do not meet."""
    for owner in OWNERS:
        for network in (NETWORK, f"{NETWORK}.claim", f"{NETWORK}.lock", f"{NETWORK}.new"):
            with Allocations(str(tmp_path), network) as seen:
                assert seen.claim([parse_ip(IPS[OWNERS.index(owner)])], owner) is None
    check(tmp_path)
