"""SIGKILL at any moment of ADD and DEL: DEL and GC leave nothing, and nobody else is harmed."""

import json
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import cni
from tests.cni import Config, Endpoint, Outcome
from tests.faults import crowd, strace
from tests.faults.conftest import LONG
from tests.faults.crowd import Held
from tests.iproute import HOST, Netns, Snapshot, run

Call = Callable[..., Outcome]
MakeEndpoint = Callable[[], Endpoint]
TakeSnapshot = Callable[..., Snapshot]


def published(config: Config, port: int) -> Config:
    """A network with masquerade, and a published port of an endpoint."""
    ports = [{"hostPort": port, "containerPort": 80, "protocol": "tcp"}]
    return config | {"ipMasq": True, "runtimeConfig": {"portMappings": ports}}


@pytest.fixture
def dual(config: Config) -> Config:
    """A network of both families, where an address rests for a moment."""
    return cni.changed(config, "ipam", cni.host_local("10.1.0.0/24", "fd00:1::/64"))


# --- at one system call of one call


def nothing_left(endpoint: Endpoint) -> None:
    """Assert that nothing of the only endpoint is left, but what its network has."""
    assert not cni.leases()
    assert not [path for path in Path("/run/cnm").rglob("*") if not _is_incidental(path)]
    assert HOST.links().keys() <= {"lo", "blue0"}
    assert endpoint.netns.links().keys() == {"lo"}
    assert not _elements(endpoint), _elements(endpoint)


def _is_incidental(path: Path) -> bool:
    return path.is_dir() or path.name == ".lock"


def _elements(endpoint: Endpoint) -> list[str]:
    """The elements of nftables that name the endpoint."""
    ruleset = json.loads(run("nft", "-j", "list", "ruleset"))["nftables"]
    elements = [each for entry in ruleset for part in entry.values() for each in _of(part)]
    return [text for each in elements if endpoint.container_id in (text := json.dumps(each))]


def _of(part: dict[str, list[object]]) -> list[object]:
    return part.get("elem", []) if isinstance(part, dict) else []


@pytest.mark.parametrize("repair", ["DEL", "GC", "ADD"])
def test_first_add(
    netns: Callable[[], Netns],
    endpoint: MakeEndpoint,
    call: Call,
    dual: Config,
    tmp_path: Path,
    repair: str,
) -> None:
    """Of the ADD that makes the network too."""
    config = published(dual, 8080)
    eth0 = endpoint()
    eth0.add(config)
    _forget_network(eth0, config)
    for at in strace.sample(strace.traced(eth0, "ADD", config, tmp_path), 9):
        _forget_network(eth0, config)
        assert strace.killed(eth0, "ADD", config, at), at
        _repair(eth0, call, config, repair)
        nothing_left(eth0)
        result = eth0.add(config)
        eth0.check(config, result).silent()
        eth0.delete(config)
        nothing_left(eth0)


def _forget_network(endpoint: Endpoint, config: Config) -> None:
    """Have the network's first ADD be the next."""
    endpoint.delete(config)
    run("nft", "flush", "ruleset")
    HOST.ip("link", "delete", "blue0")
    for directory in (cni.LEASES, Path("/run/cnm")):
        run("find", str(directory), "-mindepth", "1", "-delete")


def _repair(endpoint: Endpoint, call: Call, config: Config, by: str) -> None:
    """What comes after a kill. An ADD may find that the dead one had come to its link."""
    if by == "ADD":
        outcome = endpoint.call("ADD", config)
        if outcome.code:
            outcome.error(104)
            endpoint.delete(config)
            endpoint.add(config)
        endpoint.delete(config)
    elif by == "DEL":
        endpoint.delete(config)
    else:
        call("GC", cni.collected(config)).silent()


# --- many calls at once


def _live(endpoint: Endpoint, config: Config, held: Held, chance: random.Random) -> None:
    """ADD and DEL, as a runtime calls them for one attachment, with kills among them."""

    def moment() -> float | None:
        # Of a call in this crowd, some are waiting yet and others are at their last step.
        return 0.001 * 500 ** chance.random() if chance.random() < 0.5 else None

    for _ in range(3 if LONG else 1):
        added = crowd.run(endpoint, "ADD", config, moment())
        held.count("ADD", added)
        if added.code == 0:
            held.take(endpoint, cni.addresses(added.json))
        if chance.random() < 0.3:
            continue  # for GC, or for the next ADD to clear
        held.give_back(endpoint)
        held.count("DEL", crowd.run(endpoint, "DEL", config, moment()))


@pytest.mark.parametrize("plugin", ["bridge", "host-local"])
def test_many_at_once(
    executable: Callable[[str], Path],
    cni_bin: Path,
    netns: Callable[[], Netns],
    call: Call,
    snapshot: TakeSnapshot,
    config: Config,
    plugin: str,
) -> None:
    """200 attachments come and go at once in a pool that is too small for them.

    No address is given to two at a time; what is left after GC is what was there before.
    """
    config |= {"ipam": cni.host_local("10.1.0.0/25", "fd00:1::/120")}
    sandboxes = [netns() for _ in range(20)]
    endpoints = [
        Endpoint(executable(plugin), str(cni_bin), f"c{number}", sandbox, f"eth{number}")
        for number in range(200)
        for sandbox in sandboxes[number % 20 : number % 20 + 1]
    ]
    endpoints[0].add(published(config, 8080))
    endpoints[0].delete(config)
    before = snapshot(*sandboxes)
    held = Held()
    with ThreadPoolExecutor(len(endpoints)) as threads:
        lives = [
            threads.submit(
                _live, each, published(config, 9000 + number), held, random.Random(number)
            )
            for number, each in enumerate(endpoints)
        ]
    for life in lives:
        life.result()
    assert {"ADD done", "ADD killed", "DEL done", "DEL killed"} <= held.counts.keys() <= _EXPECTED
    attached = set(held.holders.values())
    call("GC", cni.collected(config, *attached)).silent()
    assert set(cni.leases()) == held.holders.keys()
    call("GC", cni.collected(config)).silent()
    assert snapshot(*sandboxes) == before


# An ADD may find the pool exhausted, or what a killed one before it left: the link, or for
# host-local alone, which cannot know that its caller died, the address.
_EXPECTED = {"ADD done", "ADD killed", "DEL done", "DEL killed"}
_EXPECTED |= {"ADD error 102", "ADD error 103", "ADD error 104"}
