"""State on other file systems than a disk's: overlayfs, and such as became read-only.

Everything that is tried elsewhere has its state on tmpfs.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests import cni
from tests.cni import NOT_AVAILABLE, Config, Endpoint, Outcome
from tests.faults import strace
from tests.faults.test_full import STATE_FAILURE, tmpfs, when_idle
from tests.faults.test_kills import dual, published
from tests.iproute import HOST, Snapshot, run

SEVERAL = 107
READ_ONLY = "Read-only file system"

Call = Callable[..., Outcome]
MakeEndpoint = Callable[[], Endpoint]
TakeSnapshot = Callable[..., Snapshot]

__all__ = ["dual"]


def _placed(config: Config, data: Path, state: Path) -> Config:
    """With addresses and records in these directories."""
    return cni.changed(config, "ipam.dataDir", str(data)) | {"stateDir": str(state)}


@contextmanager
def _overlaid(lower: Path, layers: Path) -> Iterator[None]:
    """What is done in a directory goes into a layer of an overlay over it."""
    with tmpfs(layers):
        (layers / "upper").mkdir()
        (layers / "work").mkdir()
        options = f"lowerdir={lower},upperdir={layers}/upper,workdir={layers}/work"
        run("mount", "-t", "overlay", "-o", options, "overlay", str(lower))
        try:
            yield
        finally:
            when_idle("umount", str(lower))


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """A directory of a file system of its own."""
    with tmpfs(tmp_path / "state") as directory:
        yield directory


def test_over_a_lower_layer(
    endpoint: MakeEndpoint,
    call: Call,
    snapshot: TakeSnapshot,
    dual: Config,
    state: Path,
    tmp_path: Path,
) -> None:
    """What the lower layer knows is checked, deleted and not given again, by many at once."""
    config = _placed(dual, state / "data", state / "state") | {"ipMasq": True}
    old, stale, *new = (endpoint() for _ in range(10))
    namespaces = [each.netns for each in (old, stale, *new)]
    new[0].add(config)
    new[0].delete(config)
    before = snapshot(*namespaces, directories=(state,))
    results = [each.add(published(config, 8080 + index)) for index, each in enumerate((old, stale))]
    taken = {ip for each in results for ip in cni.addresses(each)}
    with _overlaid(state, tmp_path / "layers"):
        old.check(published(config, 8080), results[0]).silent()
        with ThreadPoolExecutor(4) as threads:
            given = [set(cni.addresses(each)) for each in threads.map(_add(config), new)]
        assert sum(map(len, given)) == len(set().union(*given)) == 16
        assert taken.isdisjoint(set().union(*given))
        call("GC", cni.collected(config, old, *new[1:])).silent()
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda each: each.delete(config), [old, *new[1:]]))
        assert snapshot(*namespaces, directories=(state,)) == before
    assert set(cni.leases("blue", state / "data")) == taken


def _add(config: Config) -> Callable[[Endpoint], Config]:
    return lambda endpoint: endpoint.add(config)


@pytest.mark.parametrize("command", ["ADD", "DEL"])
def test_killed_over_a_lower_layer(
    endpoint: MakeEndpoint,
    snapshot: TakeSnapshot,
    dual: Config,
    state: Path,
    tmp_path: Path,
    command: str,
) -> None:
    """A kill at any change of a file is repaired by DEL as on a disk."""
    config = published(_placed(dual, state / "data", state / "state"), 8080)
    other, eth0 = endpoint(), endpoint()
    other.add(config | {"runtimeConfig": {}})
    eth0.add(config)
    eth0.delete(config)
    before = snapshot(other.netns, eth0.netns, directories=(state,))
    if command == "DEL":
        eth0.add(config)
    points = strace.traced(eth0, command, config, tmp_path)
    eth0.delete(config)
    for number, at in enumerate(strace.sample(points, 7)):
        if command == "DEL":
            eth0.add(config)
        with _overlaid(state, tmp_path / f"layers{number}"):
            assert strace.killed(eth0, command, config, at), at
            eth0.delete(config)
            assert snapshot(other.netns, eth0.netns, directories=(state,)) == before, at
        eth0.delete(config)


@pytest.fixture
def directories(tmp_path: Path) -> Iterator[dict[str, Path]]:
    """Where addresses and records are, on file systems of their own."""
    with ExitStack() as mounts:
        yield {
            name: mounts.enter_context(tmpfs(tmp_path / name)) for name in ("dataDir", "stateDir")
        }


def _remount(option: str, *directories: Path) -> None:
    for each in directories:
        when_idle("mount", "-o", f"remount,{option}", str(each))


@pytest.mark.parametrize("read_only", [("dataDir",), ("stateDir",), ("dataDir", "stateDir")])
def test_read_only(
    endpoint: MakeEndpoint,
    call: Call,
    snapshot: TakeSnapshot,
    dual: Config,
    directories: dict[str, Path],
    read_only: tuple[str, ...],
) -> None:
    """ADD and STATUS say which directory; DEL does all but that, and what nobody has is gone."""
    config = published(_placed(dual, *directories.values()), 8080)
    eth0, never, new = endpoint(), endpoint(), endpoint()
    namespaces = [each.netns for each in (eth0, never, new)]
    eth0.add(config)
    eth0.delete(config)
    before = snapshot(*namespaces, directories=tuple(directories.values()))
    eth0.add(config)
    ours = [directories[name] for name in read_only]
    _remount("ro", *ours)
    added = snapshot(*namespaces, directories=tuple(directories.values()))
    _refused(new.call("ADD", published(config, 8081)), STATE_FAILURE, ours)
    _refused(call("STATUS", config), NOT_AVAILABLE, ours)
    assert snapshot(*namespaces, directories=tuple(directories.values())) == added
    never.delete(config)
    for _ in range(2):
        _refused(eth0.call("DEL", config), STATE_FAILURE, ours)
        assert eth0.netns.links().keys() == {"lo"}
        assert not HOST.ports("blue0")
        assert "8080" not in run("nft", "list", "ruleset")
    _refused(call("GC", cni.collected(config)), range(STATE_FAILURE, SEVERAL + 1), ours)
    _remount("rw", *ours)
    eth0.delete(config)
    assert snapshot(*namespaces, directories=tuple(directories.values())) == before


def _refused(outcome: Outcome, code: int | range, directories: list[Path]) -> None:
    error = outcome.error(code)
    assert READ_ONLY in error["msg"], error
    assert any(str(each) in error["msg"] for each in directories), error
    assert ".new" not in error["msg"], error
    assert "remount it, or move the directory" in error["details"]


@pytest.mark.parametrize("missing", ["dataDir", "stateDir"])
def test_read_only_from_the_beginning(
    endpoint: MakeEndpoint, call: Call, dual: Config, directories: dict[str, Path], missing: str
) -> None:
    """Nothing was ever written there: DEL and GC have nothing to do, the others say so."""
    paths = {**directories, missing: directories[missing] / "below"}
    config = _placed(dual, *paths.values())
    _remount("ro", directories[missing])
    eth0 = endpoint()
    _refused(eth0.call("ADD", config), STATE_FAILURE, [directories[missing]])
    _refused(call("STATUS", config), NOT_AVAILABLE, [directories[missing]])
    eth0.delete(config)
    assert eth0.netns.links().keys() == {"lo"}
