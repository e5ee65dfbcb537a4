"""Hundreds of attachments come and go as runtimes have them, and calls are killed at random.

`CNM_FAULTS_SEED` repeats the choices of a run that failed; its output has the number.
"""

import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests import cni
from tests.cni import Config, Endpoint, Outcome
from tests.faults import crowd
from tests.faults.conftest import LONG
from tests.faults.crowd import Held
from tests.faults.test_kills import published
from tests.iproute import HOST, Netns, Snapshot

ATTACHMENTS, SUBNETS = 500, ("10.1.0.0/25", "fd00:1::/121")
if LONG:
    ATTACHMENTS, SUBNETS = 5000, ("10.1.0.0/22", "fd00:1::/118")
RUNTIMES = 4
AT_ONCE = 6  # attachments of one runtime that live at a time
SANDBOXES = 5  # of one runtime

Call = Callable[..., Outcome]
TakeSnapshot = Callable[..., Snapshot]


@dataclass
class Runtime:
    """One worker of a runtime: it takes DEL for done when it was, and asks again otherwise."""

    endpoints: Iterator[Endpoint]
    config: Config
    held: Held
    chance: random.Random
    free_ports: list[int]
    alive: dict[Endpoint, tuple[Config, Config]] = field(default_factory=dict)

    def live(self) -> None:
        """Have every endpoint for a while; some are alive at the end, some were forgotten."""
        for endpoint in self.endpoints:
            port = self.free_ports.pop(0)
            config = published(self.config, port)
            added = crowd.run(endpoint, "ADD", config, self._moment())
            self.held.count("ADD", added)
            if added.code == 0:
                self.held.take(endpoint, cni.addresses(added.json))
                self.alive[endpoint] = (config, added.json)
            elif self.chance.random() < 0.9:
                self._delete(endpoint, config)
                self.free_ports.append(port)
            if len(self.alive) > AT_ONCE:
                leaving = self.chance.choice(list(self.alive))
                config, result = self.alive.pop(leaving)
                self.held.give_back(leaving)
                if self.chance.random() < 0.95:
                    self._delete(leaving, config | {"prevResult": result})
                    self.free_ports.append(_host_port(config))

    def _delete(self, endpoint: Endpoint, config: Config) -> None:
        deleted = crowd.run(endpoint, "DEL", config, self._moment())
        self.held.count("DEL", deleted)
        while deleted.code != 0:
            deleted = crowd.run(endpoint, "DEL", config, self._moment())
            self.held.count("DEL", deleted)
        if self.chance.random() < 0.2:  # as containerd does when a pod is removed
            again = crowd.run(endpoint, "DEL", cni.without(config, "prevResult"), netns="")
            self.held.count("DEL", again)

    def _moment(self) -> float | None:
        return 0.001 * 60 ** self.chance.random() if self.chance.random() < 0.3 else None


def _host_port(config: Config) -> int:
    (mapping,) = config["runtimeConfig"]["portMappings"]
    return int(mapping["hostPort"])


@pytest.fixture
def chance() -> random.Random:
    """The choices of this run."""
    seed = os.environ.get("CNM_FAULTS_SEED") or str(random.SystemRandom().getrandbits(32))
    print(f"CNM_FAULTS_SEED={seed}")
    return random.Random(seed)


def test_storm(
    executable: Callable[[str], Path],
    cni_bin: Path,
    netns: Callable[[], Netns],
    call: Call,
    snapshot: TakeSnapshot,
    config: Config,
    chance: random.Random,
) -> None:
    """No address is given to two at a time, no call fails that is not killed, nothing is left.

    Addresses and host ports go round several times, so that what one leaves fails another.
    """
    config |= {"ipam": cni.host_local(*SUBNETS)}
    sandboxes = [[netns() for _ in range(SANDBOXES)] for _ in range(RUNTIMES)]
    flat = [sandbox for each in sandboxes for sandbox in each]
    binary, path = executable("bridge"), str(cni_bin)

    def endpoints(of: int) -> Iterator[Endpoint]:
        for number in range(of, ATTACHMENTS, RUNTIMES):
            sandbox = sandboxes[of][number // RUNTIMES % SANDBOXES]
            yield Endpoint(binary, path, f"c{number}", sandbox, f"eth{number}")

    first = Endpoint(binary, path, "first", flat[0])
    first.add(published(config, 8080))
    first.delete(config)
    before = snapshot(*flat)
    held = Held()
    runtimes = [
        Runtime(
            endpoints(of),
            config,
            held,
            random.Random(chance.random()),
            list(range(9000 + 1000 * of, 9000 + 1000 * of + ATTACHMENTS // 10)),
        )
        for of in range(RUNTIMES)
    ]
    with ThreadPoolExecutor(RUNTIMES) as threads:
        lives = [threads.submit(each.live) for each in runtimes]
    for life in lives:
        life.result()
    assert held.counts.keys() == {"ADD done", "ADD killed", "DEL done", "DEL killed"}, held.counts
    alive = {key: value for each in runtimes for key, value in each.alive.items()}
    call("GC", cni.collected(config, *alive)).silent()
    assert set(cni.leases()) == held.holders.keys()
    assert len(HOST.ports("blue0")) == len(alive)
    for endpoint, (own, result) in alive.items():
        endpoint.check(own, result).silent()
    for endpoint in list(alive)[::2]:
        endpoint.delete(alive[endpoint][0])
    nobody = Endpoint(binary, path, "", Netns())
    for _ in range(3):
        crowd.run(nobody, "GC", cni.collected(config), chance.uniform(0.005, 0.1))
    call("GC", cni.collected(config)).silent()
    assert snapshot(*flat) == before
