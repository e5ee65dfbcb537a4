"""host-local against a model of it, with everything that may happen to its directory."""

import os
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cnm_core.config.host_local import host_local_config
from cnm_core.errors import (
    AddressInUse,
    Error,
    InvalidNetworkConfig,
    NotAvailable,
    PoolExhausted,
    TryAgainLater,
)
from cnm_core.inet import format_ip
from cnm_core.ipam import Request
from cnm_core.ipam.host_local import HostLocal
from cnm_core.model import EndpointKey
from tests.faults.conftest import LONG

NETWORK = "blue"
SECOND = 10**9
NOBODY = EndpointKey("", "")


@dataclass(frozen=True)
class Pool:
    """A configuration, and by hand what it means: the addresses that each range gives."""

    ipam: dict[str, Any]
    sets: tuple[tuple[tuple[str, ...], ...], ...]
    reserved: tuple[str, ...]
    first_fit: bool = False
    quarantine: int = 0
    grace: int = 0


def _ips(start: str, *last: int) -> tuple[str, ...]:
    return tuple(f"{start}{number:x}" if ":" in start else f"{start}{number}" for number in last)


# One network's configuration in the course of time: others overlap, and all share the files.
POOLS = (
    Pool(
        {"ranges": [[{"subnet": "10.1.0.0/29"}]]},
        ((_ips("10.1.0.", 2, 3, 4, 5, 6),),),
        ("10.1.0.1",),
    ),
    Pool(
        {
            "ranges": [
                [
                    {"subnet": "10.0.255.248/29", "rangeStart": "10.0.255.253"},
                    {"subnet": "10.1.0.0/29", "exclude": ["10.1.0.3-10.1.0.4"]},
                ],
                [{"subnet": "fd00::/126", "auxAddresses": {"router": "fd00::2"}}],
            ],
            "quarantineSeconds": 30,
        },
        (
            (_ips("10.0.255.", 253, 254), _ips("10.1.0.", 2, 5, 6)),
            (_ips("fd00::", 3),),
        ),
        ("10.0.255.249", "10.1.0.1", "10.1.0.3", "10.1.0.4", "fd00::1", "fd00::2"),
        quarantine=30,
    ),
    Pool(
        {
            "subnet": "10.1.0.0/29",
            "ipRange": "10.1.0.4/30",
            "gateway": "10.1.0.6",
            "ranges": [[{"subnet": "fd00::/125", "rangeEnd": "fd00::4"}]],
            "allocation": "first-fit",
            "quarantineSeconds": 60,
            "gcGraceSeconds": 100,
        },
        ((_ips("10.1.0.", 4, 5),), (_ips("fd00::", 2, 3, 4),)),
        ("10.1.0.6", "fd00::1"),
        first_fit=True,
        quarantine=60,
        grace=100,
    ),
    Pool(
        {"ranges": [[{"subnet": "10.1.0.4/31"}, {"subnet": "10.1.0.3/32"}]], "gcGraceSeconds": 50},
        ((_ips("10.1.0.", 5), _ips("10.1.0.", 3)),),
        ("10.1.0.4",),
        grace=50,
    ),
)
SPANS = {  # where a search goes on after an address that is no longer given
    ("10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6"): ("10.1.0.1", "10.1.0.6"),
    ("10.1.0.2", "10.1.0.5", "10.1.0.6"): ("10.1.0.1", "10.1.0.6"),
    ("fd00::3",): ("fd00::1", "fd00::3"),
    ("fd00::2", "fd00::3", "fd00::4"): ("fd00::1", "fd00::4"),
    ("10.1.0.4", "10.1.0.5"): ("10.1.0.4", "10.1.0.6"),
    ("10.1.0.5",): ("10.1.0.4", "10.1.0.5"),
}
IPS = sorted({ip for pool in POOLS for ranges in pool.sets for each in ranges for ip in each})
WANTED = [*IPS, "10.1.0.1", "10.9.0.1", "fd00::2"]
OWNERS = [EndpointKey(f"c{number}", "eth0") for number in range(4)] + [EndpointKey("c1", "eth1")]


def _number(ip: str) -> int:
    return int(ip_address(ip))


def _search(ranges: tuple[tuple[str, ...], ...], last: str | None) -> Iterator[str]:
    """The addresses of a range set in the order in which they are tried."""
    for index, each in enumerate(ranges):
        if last and _is_between(last, *SPANS.get(each, (each[0], each[-1]))):
            yield from (ip for ip in each if _number(ip) > _number(last))
            for other in ranges[index + 1 :] + ranges[:index]:
                yield from other
            yield from (ip for ip in each if _number(ip) <= _number(last))
            return
    for each in ranges:
        yield from each


def _is_between(ip: str, first: str, last: str) -> bool:
    same_version = ip_address(ip).version == ip_address(first).version
    return same_version and _number(first) <= _number(ip) <= _number(last)


class Life(RuleBasedStateMachine):
    """A network's addresses, as they are given, taken back, lost and stolen."""

    owners = st.sampled_from(OWNERS)
    ips = st.sampled_from(IPS)

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.files = self.directory / NETWORK
        self.index = self.directory / ".cnm" / NETWORK
        self.pool = POOLS[0]
        self.boot = 0
        self.now = time.time_ns()
        self.held: dict[str, EndpointKey] = {}
        self.written: dict[str, int] = {}  # when each file was
        self.resting: dict[str, int] = {}  # since when each address is
        self.last: dict[int, str] = {}  # given of each range set
        self.noted: dict[tuple[EndpointKey, str], int] = {}  # the boots in the index

    def teardown(self) -> None:
        """Leave nothing."""
        shutil.rmtree(self.directory)

    # --- the model

    def of(self, owner: EndpointKey) -> list[str]:
        """The addresses of an owner."""
        return [ip for ip, each in self.held.items() if each == owner]

    def look(self) -> None:
        """What a call sees first: claims of others belong to the boot in which it sees them."""
        seen = {}
        for owner in set(self.held.values()):
            boots = {self.noted.get((owner, ip)) for ip in self.of(owner)}
            boot = boots.pop() if len(boots) == 1 else None
            for ip in self.of(owner):
                seen[owner, ip] = self.boot if boot is None else boot
        self.noted = seen
        self.resting = {ip: since for ip, since in self.resting.items() if ip not in self.held}

    def is_stale(self, owner: EndpointKey) -> bool:
        """Whether a reboot ended the owner."""
        return any(self.noted[owner, ip] != self.boot for ip in self.of(owner))

    def is_young(self, owner: EndpointKey, ips: Collection[str]) -> bool:
        """Whether the grace of some addresses lasts."""
        young = any(self.now - self.written[ip] < self.pool.grace * SECOND for ip in ips)
        return young and (owner == NOBODY or not self.is_stale(owner))

    def free(self, ips: Collection[str], *, rest: bool) -> None:
        """Take addresses back."""
        for ip in ips:
            del self.held[ip]
            if rest and self.pool.quarantine:
                self.resting[ip] = self.now

    def pick(self, index: int) -> str | type[Error]:
        """The address that comes next, or why there is none."""
        rest = self.pool.quarantine * SECOND
        self.resting = {ip: at for ip, at in self.resting.items() if self.now - at < rest}
        ranges = self.pool.sets[index]
        order = list(_search(ranges, None if self.pool.first_fit else self.last.get(index)))
        for ip in order:
            if ip not in self.held and ip not in self.resting:
                return ip
        return TryAgainLater if self.resting.keys() & order else PoolExhausted

    def expected(self, owner: EndpointKey, wanted: str | None) -> list[str] | type[Error]:
        """What a request is answered; with what it changes, but for the claim."""
        sets = [[ip for each in ranges for ip in each] for ranges in self.pool.sets]
        if wanted and (wanted in self.pool.reserved or not any(wanted in ips for ips in sets)):
            return InvalidNetworkConfig
        self.look()
        if self.of(owner):
            if not self.is_stale(owner):
                return AddressInUse
            self.free(self.of(owner), rest=False)
        found = []
        for index, ips in enumerate(sets):
            if wanted in ips:
                answer = AddressInUse if wanted in self.held else wanted
            else:
                answer = self.pick(index)
            if not isinstance(answer, str):
                return answer
            found.append(answer)
        return found

    # --- calls

    def driver(self, *requests: Request) -> HostLocal:
        """The driver of one call."""
        config = host_local_config(self.pool.ipam | {"dataDir": str(self.directory)})
        boot = f"{self.boot:08}-"
        return HostLocal(NETWORK, config, requests, (), lambda: self.now, lambda: boot)

    @rule(owner=owners, wanted=st.none() | st.none() | st.sampled_from(WANTED))
    def request(self, owner: EndpointKey, wanted: str | None) -> None:
        driver = self.driver(*([Request(wanted, "CNI_ARGS: IP")] if wanted else []))
        expected = self.expected(owner, wanted)
        if not isinstance(expected, list):
            with pytest.raises(expected) as caught:
                driver.request(owner)
            assert type(caught.value) is expected
            return
        leases = driver.request(owner).leases
        assert [format_ip(lease.address.ip) for lease in leases] == expected
        for index, ip in enumerate(expected):
            assert ip not in self.held, "given twice"
            self.hold(ip, owner)
            self.resting.pop(ip, None)
            self.noted[owner, ip] = self.boot
            if ip != wanted:
                self.last[index] = ip

    def hold(self, ip: str, owner: EndpointKey) -> None:
        """Have a file be as old as this life's clock says."""
        self.held[ip] = owner
        self.written[ip] = self.now
        os.utime(self.files / ip, ns=(self.now, self.now))

    @rule(owner=owners)
    def release(self, owner: EndpointKey) -> None:
        self.look()
        self.driver().release(owner)
        self.free(self.of(owner) or self.of(EndpointKey(owner.container_id, "")), rest=True)

    @rule(valid=st.sets(owners))
    def collect(self, valid: set[EndpointKey]) -> None:
        self.look()
        containers = {key.container_id for key in valid}
        self.driver().collect(valid)
        for owner in set(self.held.values()) - {NOBODY} - valid:
            is_valid = not owner.ifname and owner.container_id in containers
            if not is_valid and not self.is_young(owner, self.of(owner)):
                self.free(self.of(owner), rest=True)
        for ip in self.of(NOBODY):
            if not self.is_young(NOBODY, [ip]):
                self.free([ip], rest=True)

    @rule()
    def check_status(self) -> None:
        self.look()
        answers = []
        for index in range(len(self.pool.sets)):
            answers.append(self.pick(index))
            if not isinstance(answers[-1], str):
                with pytest.raises(NotAvailable):
                    self.driver().check_status()
                return
        self.driver().check_status()

    # --- what others do

    @rule(pool=st.sampled_from(POOLS))
    def configure(self, pool: Pool) -> None:
        self.pool = pool

    @rule(seconds=st.sampled_from([1, 29, 31, 70, 200]))
    def wait(self, seconds: int) -> None:
        self.now += seconds * SECOND

    @rule()
    def reboot(self) -> None:
        self.boot += 1

    @rule(ip=ips, owner=owners | st.sampled_from([EndpointKey("c2", ""), NOBODY]))
    def foreign_claim(self, ip: str, owner: EndpointKey) -> None:
        """As the Go plugin does it, one of today or an old one, and as a crash leaves it."""
        if ip not in self.held:
            self.files.mkdir(exist_ok=True)
            interface = f"\r\n{owner.ifname}" if owner.ifname else ""
            (self.files / ip).write_text(owner.container_id + interface)
            (self.files / "last_reserved_ip.0").write_text(ip)
            self.last[0] = ip
            self.hold(ip, owner)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def foreign_release(self, data: st.DataObject) -> None:
        ip = data.draw(st.sampled_from(sorted(self.held)))
        (self.files / ip).unlink()
        del self.held[ip]

    @rule(part=st.sampled_from(["", "owners", "used"]))
    def lose_index(self, part: str) -> None:
        if (self.index / part).exists():
            shutil.rmtree(self.index / part)
            if part != "used":
                self.noted = {}

    @precondition(lambda self: self.index.exists())
    @rule(damage=st.sampled_from(["bitmap", "owner", "search position"]))
    def damage(self, damage: str) -> None:
        """What is noticed: a change in a directory, or a file that makes no sense."""
        if damage == "bitmap":
            for path in self.index.glob("used/*"):
                path.write_bytes(b"\xa5" * 100)
        elif damage == "owner":
            for path in self.index.glob("owners/*"):
                path.unlink()
                path.symlink_to("nonsense")
            self.noted = {}
        else:
            (self.files / "last_reserved_ip.0").write_text("10.1.")
            self.last.pop(0, None)
        os.utime(self.index)

    @invariant()
    def files_are_as_the_model_says(self) -> None:
        found = {}
        for ip in IPS:
            path = self.files / ip
            if path.exists():
                container_id, _, ifname = path.read_bytes().decode().partition("\r\n")
                found[ip] = EndpointKey(container_id, ifname)
        assert found == self.held


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=2000 if LONG else 60, stateful_step_count=40)
