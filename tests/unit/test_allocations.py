"""Allocations: whatever was done, by us, by others, or half, the files are the truth."""

import os
import shutil
import tempfile
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cnm_core.errors import StateFailure
from cnm_core.inet import format_ip, parse_ip, to_int, to_ip
from cnm_core.model import EndpointKey
from cnm_core.store import allocations, files
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


def content_of(owner: EndpointKey) -> str:
    """What the Go plugin's file for an owner has."""
    return f"{owner.container_id}\r\n{owner.ifname}"


def read(directory: Path) -> Files:
    """The files of all addresses."""
    return {ip: (directory / ip).read_bytes().decode() for ip in IPS if (directory / ip).exists()}


def expected_free(found: Files, pool: tuple[str, str]) -> int | None:
    """The lowest address of a pool that has no file."""
    first, last = map(ip_address, pool)
    return next(
        (
            number
            for number in range(int(first), int(last) + 1)
            if str(type(first)(number)) not in found
        ),
        None,
    )


def check(data_dir: Path) -> None:
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
            assert free == expected_free(found, pool)
    assert read(data_dir / NETWORK) == found


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
        for module in (allocations, files):
            for name, value in list(vars(module).items()):
                if getattr(value, "__module__", "") == "posix":
                    setattr(module, name, mortal(value))
        action()
        status = 0
    finally:
        os._exit(status)


class Life(RuleBasedStateMachine):
    """A directory of allocations, with us and others at work in it."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.files = self.directory / NETWORK
        self.known: Files = {}

    def teardown(self) -> None:
        shutil.rmtree(self.directory)

    def open(self) -> Allocations:
        """As a new process would."""
        return Allocations(str(self.directory), NETWORK)

    def claim(self, owner: EndpointKey, pools: list[tuple[str, str]]) -> list[str]:
        """ADD, up to the claim: one free address of each pool; which they were."""
        with self.open() as seen:
            if seen.of(owner):
                return []
            numbers = []
            for pool in pools:
                first, last = map(parse_ip, pool)
                numbers.append((seen.next_free(to_int(first), to_int(last), len(first)), first))
            if any(number is None for number, _ in numbers):
                return []
            ips = [to_ip(number or 0, len(first)) for number, first in numbers]
            assert seen.claim(ips, owner) is None, "given out twice"
            seen.set_last_reserved(0, ips[0])
            return [format_ip(ip) for ip in ips]

    def release(self, owner: EndpointKey) -> list[str]:
        """DEL."""
        with self.open() as seen:
            return [format_ip(ip) for ip in seen.release(owner)]

    def of(self, owner: EndpointKey) -> set[str]:
        return {ip for ip, content in self.known.items() if CONTENTS[content] == owner}

    owners = st.sampled_from(OWNERS)
    pools = st.sampled_from([[POOLS[0]], [POOLS[1]], list(POOLS)])
    ips = st.sampled_from(IPS)
    steps = st.integers(0, 60)

    @rule(owner=owners, pools=pools)
    def claim_whole(self, owner: EndpointKey, pools: list[tuple[str, str]]) -> None:
        free = [expected_free(self.known, pool) for pool in pools]
        ips = self.claim(owner, pools)
        if self.of(owner) or None in free:
            assert not ips
        else:
            assert [to_int(parse_ip(ip)) for ip in ips] == free
            self.known |= dict.fromkeys(ips, content_of(owner))

    @rule(owner=owners, ips=st.lists(ips, min_size=1, unique=True))
    def claim_certain(self, owner: EndpointKey, ips: list[str]) -> None:
        if self.of(owner):
            return
        with self.open() as seen:
            taken = seen.claim([parse_ip(ip) for ip in ips], owner)
        expected = [ip for ip in ips if ip in self.known]
        assert (None if taken is None else format_ip(taken)) == next(iter(expected), None)
        if not expected:
            self.known |= dict.fromkeys(ips, content_of(owner))

    @rule(owner=owners | st.just(EndpointKey("c3", "")))
    def release_whole(self, owner: EndpointKey) -> None:
        held = self.of(owner)
        assert set(self.release(owner)) == held
        for ip in held:
            del self.known[ip]

    @rule()
    def release_ownerless(self) -> None:
        with self.open() as seen:
            for ip in seen.ownerless():
                seen.release_ownerless(ip)
        self.known = {ip: content for ip, content in self.known.items() if CONTENTS[content]}

    @rule(owner=owners, pools=pools, steps=steps)
    def claim_killed(self, owner: EndpointKey, pools: list[tuple[str, str]], steps: int) -> None:
        killed(steps, lambda: self.claim(owner, pools))
        left = read(self.files)
        new = {ip: content for ip, content in left.items() if ip not in self.known}
        assert left == self.known | new
        assert set(new.values()) <= {content_of(owner)}
        assert len(new) <= len(pools)
        self.known = left

    @rule(owner=owners, steps=steps)
    def release_killed(self, owner: EndpointKey, steps: int) -> None:
        killed(steps, lambda: self.release(owner))
        left = read(self.files)
        gone = self.known.keys() - left.keys()
        assert left == {ip: self.known[ip] for ip in self.known if ip not in gone}
        assert gone <= self.of(owner)
        self.known = left

    @rule(owner=owners)
    def claim_failed(self, owner: EndpointKey) -> None:
        """What comes after the claim fails, and the claim stands."""
        if self.of(owner) or IPS[0] in self.known:
            return
        with pytest.raises(KeyboardInterrupt), self.open() as seen:
            seen.claim([parse_ip(IPS[0])], owner)
            raise KeyboardInterrupt
        self.known[IPS[0]] = content_of(owner)

    @rule(ip=ips, content=st.sampled_from(sorted(CONTENTS)))
    def foreign_claim(self, ip: str, content: str) -> None:
        if ip not in self.known:
            self.files.mkdir(exist_ok=True)
            (self.files / ip).write_bytes(content.encode())
            self.known[ip] = content

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def foreign_release(self, data: st.DataObject) -> None:
        ip = data.draw(st.sampled_from(sorted(self.known)))
        (self.files / ip).unlink()
        del self.known[ip]

    @rule(part=st.sampled_from(["", "owners", "used"]))
    def lose_index(self, part: str) -> None:
        shutil.rmtree(self.directory / ".cnm" / NETWORK / part, ignore_errors=True)

    @precondition(lambda self: (self.directory / ".cnm" / NETWORK).exists())
    @rule(time=st.integers(0, 2**31))
    def restore_index(self, time: int) -> None:
        """A backup, or a clock that was wrong."""
        os.utime(self.directory / ".cnm" / NETWORK, (time, time))

    @invariant()
    def files_are_the_truth(self) -> None:
        """Seen from a copy, so that nothing is repaired between two steps."""
        assert read(self.files) == self.known
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch) / "copy"
            shutil.copytree(self.directory, copy, symlinks=True)
            check(copy)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=25)
