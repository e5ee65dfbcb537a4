"""No room, no permission, no descriptors: a clear error, nothing half done, and then it works."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import cni
from tests.cni import Config, Endpoint, Outcome
from tests.faults import strace
from tests.faults.test_kills import dual, published
from tests.iproute import Snapshot, run

KERNEL_REFUSED, STATE_FAILURE = 100, 101
NO_SPACE = "No space left on device"

Call = Callable[..., Outcome]
MakeEndpoint = Callable[[], Endpoint]
TakeSnapshot = Callable[..., Snapshot]

__all__ = ["dual"]


@contextmanager
def tmpfs(path: Path, *options: str) -> Iterator[Path]:
    """A file system of its own at a path."""
    path.mkdir(parents=True, exist_ok=True)
    run("mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(path))
    try:
        yield path
    finally:
        when_idle("umount", str(path))


def when_idle(*command: str) -> None:
    """Run a command that a file system in use refuses.

    A process that waits for the kernel to free a link has its network's lock open until then.
    """
    deadline = time.monotonic() + cni.PATIENCE
    while True:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        assert "busy" in done.stderr and time.monotonic() < deadline, done
        time.sleep(0.05)


def _moved(config: Config, directory: Path) -> Config:
    """All state in one directory."""
    config = cni.changed(config, "ipam.dataDir", f"{directory}/data")
    return config | {"stateDir": f"{directory}/state"}


def _remount(directory: Path, *options: str) -> None:
    when_idle("mount", "-o", ",".join(("remount", *options)), str(directory))


@pytest.mark.parametrize("kind", ["nr_inodes", "size"])
def test_less_and_less_room(
    endpoint: MakeEndpoint, snapshot: TakeSnapshot, dual: Config, tmp_path: Path, kind: str
) -> None:
    """ADD works, or fails with error 101 and is undone; DEL works; all works again with room."""
    unit = 1 if kind == "nr_inodes" else 4096
    with tmpfs(tmp_path / "state", f"{kind}={64 * unit}") as directory:
        config = published(_moved(dual, directory), 8080)
        other, eth0 = endpoint(), endpoint()
        other.add(config | {"runtimeConfig": {}})
        eth0.add(config)
        eth0.delete(config)
        before = snapshot(other.netns, eth0.netns, directories=(directory,))
        used = _used(directory, kind)
        failures = 0
        for room in range(8):
            _remount(directory, f"{kind}={(used + room) * unit}")
            outcome = eth0.call("ADD", config)
            failures += outcome.code != 0
            if outcome.code:
                error = outcome.error(STATE_FAILURE)
                assert str(directory) in error["msg"] and NO_SPACE in error["msg"], error
                assert "free some space" in error["details"]
                assert _seen(snapshot, other, eth0, directory) == before, room
            eth0.delete(config)
            assert _seen(snapshot, other, eth0, directory) == before, room
        assert 0 < failures < 8
        other.delete(config)
        assert not cni.leases("blue", directory / "data")


def _seen(snapshot: TakeSnapshot, other: Endpoint, eth0: Endpoint, directory: Path) -> Snapshot:
    return snapshot(other.netns, eth0.netns, directories=(directory,))


def _used(directory: Path, kind: str) -> int:
    option = "--output=iused" if kind == "nr_inodes" else "--output=used"
    number = int(run("df", option, str(directory)).split()[1])
    return number if kind == "nr_inodes" else -(-number // 4)


@pytest.mark.parametrize(
    ("error", "situation"), [("ENOSPC", "first"), ("ENOSPC", "next"), ("EIO", "next")]
)
def test_any_write_that_fails(
    endpoint: MakeEndpoint,
    snapshot: TakeSnapshot,
    dual: Config,
    tmp_path: Path,
    error: str,
    situation: str,
) -> None:
    """Whichever call on a file fails, the attachment is whole, or nothing is left of it."""
    config = published(dual, 8080)
    eth0 = endpoint()
    eth0.add(config)
    eth0.delete(config)
    before = snapshot(eth0.netns)
    if situation == "first":
        _forget_files()
    points = strace.traced(eth0, "ADD", config, tmp_path)
    eth0.delete(config)
    for at in strace.sample([each for each in points if _is_of_a_file(each)], 3):
        if situation == "first":
            _forget_files()
        outcome = strace.failing(eth0, "ADD", config, at, error)
        if outcome.code:
            assert '"/' in outcome.error(STATE_FAILURE)["msg"], at
            assert snapshot(eth0.netns) == before, at
            outcome = eth0.call("ADD", config)
        eth0.check(config, outcome.result()).silent()
        eth0.delete(config)
        assert snapshot(eth0.netns) == before, at


def _forget_files() -> None:
    run("find", str(cni.LEASES), "/run/cnm", "-mindepth", "1", "-delete")


def _is_of_a_file(point: strace.Point) -> bool:
    """Not of a socket, of a setting or of the answer."""
    return not any(each in point.arguments for each in ("<socket:", "</proc/", "<pipe:"))


@pytest.mark.parametrize("command", ["ADD", "DEL"])
def test_few_descriptors(
    endpoint: MakeEndpoint, snapshot: TakeSnapshot, dual: Config, command: str
) -> None:
    """With too few descriptors a call says so; DEL takes what it may have left."""
    config = published(dual, 8080)
    eth0 = endpoint()
    eth0.add(config)
    eth0.delete(config)
    before = snapshot(eth0.netns)
    codes = []
    for limit in range(3, 14):
        if command == "DEL":
            eth0.add(config)
        outcome = _with_descriptors(limit, eth0, command, config)
        codes.append(outcome.code)
        if outcome.code:
            assert "Too many open files" in outcome.error()["msg"], limit
            assert "ulimit -n" in outcome.json["details"], outcome
            assert outcome.json["code"] != 999, outcome
        eth0.delete(config)
        assert snapshot(eth0.netns) == before, limit
    assert codes == sorted(codes, reverse=True) and codes[-1] == 0 and codes[0] != 0


def _with_descriptors(limit: int, endpoint: Endpoint, command: str, config: Config) -> Outcome:
    done = subprocess.run(
        ["prlimit", f"--nofile={limit}:{limit}", endpoint.binary],
        input=cni.encoded(config),
        capture_output=True,
        env=cni.environment(command, **endpoint.variables),
        timeout=cni.PATIENCE,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def test_no_more_processes(endpoint: MakeEndpoint, snapshot: TakeSnapshot, dual: Config) -> None:
    """DEL waits for the kernel itself where it can have no child that does."""
    eth0 = endpoint()
    eth0.add(dual)
    eth0.delete(dual)
    before = snapshot(eth0.netns)
    eth0.add(dual)
    strace.failing(eth0, "DEL", dual, strace.Point("clone", 1, ""), "EAGAIN").silent()
    assert snapshot(eth0.netns) == before


@pytest.mark.parametrize("plugin", ["bridge", "macvlan"])
@pytest.mark.parametrize("error", ["EMFILE", "ENFILE", "ENOMEM"])
def test_a_namespace_that_cannot_be_opened(
    endpoint: MakeEndpoint, config: Config, tmp_path: Path, plugin: str, error: str
) -> None:
    """DEL does not take a sandbox for gone, and its address for free, for lack of means."""
    eth0 = endpoint()
    if plugin == "macvlan":
        run("ip", "link", "add", "up0", "up", "type", "veth", "peer", "up1")
        run("ip", "link", "set", "up1", "up")
        config["master"] = "up0"
    eth0.add(config)
    points = strace.traced(eth0, "DEL", config, tmp_path)
    (at,) = [each for each in points if f'"{eth0.netns.path}"' in each.arguments]
    eth0.add(config)
    refused = strace.failing(eth0, "DEL", config, at, error).error(KERNEL_REFUSED)
    assert eth0.netns.path in refused["msg"]
    assert "eth0" in eth0.netns.links() and cni.leases()
    eth0.delete(config)
    assert "eth0" not in eth0.netns.links() and not cni.leases()
