"""One host with an older version's plugins and agent, two with ours; `make test-beside`."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import cni
from tests.hosts import Host, Sandboxes, cluster
from tests.iproute import HOST, Netns

Placed = list[tuple[Host, Netns, cni.Config]]


@pytest.fixture
def hosts(
    node: None, tmp_path: Path, cni_bin: Path, request: pytest.FixtureRequest
) -> Iterator[list[Host]]:
    """Three hosts with agents, the first of the older version."""
    older = request.config.getoption("--older")
    if older is None:
        pytest.skip("needs another version's executables: make test-beside VERSION=COMMIT")
    with cluster(3, tmp_path, cni_bin) as (found, _):
        found[0].bin = older
        for host in found:
            host.start_agent()
        yield found


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + cni.PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def place(hosts: list[Host], netns: Sandboxes) -> Placed:
    """A container on each host, in that order."""
    sandboxes = [(host, netns()) for host in hosts]
    return [(host, sandbox, host.add(sandbox)) for host, sandbox in sandboxes]


def all_reach_all(placed: Placed) -> None:
    """Assert that each container reaches each."""
    addresses = [cni.addresses(result)[0] for _, _, result in placed]
    assert all(at.reaches(to, seconds=cni.PATIENCE) for _, at, _ in placed for to in addresses)


def change_version(host: Host, to: Path) -> None:
    """Have other executables on a host, as an upgrade does, while its containers run."""
    host.stop_agent()
    host.bin = to
    host.start_agent()


@pytest.mark.parametrize("first", ["older", "newer"])
def test_beside(hosts: list[Host], netns: Sandboxes, first: str) -> None:
    """Whoever makes the network: all reach all, what comes later too, and nobody removes another's.

    So it is after the older host was upgraded, and after it went back.
    """
    etcd, older, newer = hosts[0].etcd, hosts[0].bin, hosts[1].bin
    order = hosts if first == "older" else hosts[::-1]
    placed = place(order, netns)
    network = json.loads(etcd.keys()["networks/blue"])
    later = place(order, netns)
    all_reach_all(placed + later)
    for host, sandbox, result in placed + later:
        host.check(sandbox, result).silent()
    for host, sandbox, _ in later:
        host.delete(sandbox)
    kept = {f"id-{sandbox.name}:eth0" for _, sandbox, _ in placed}
    for host, sandbox, _ in placed:
        valid = [{"containerID": f"id-{sandbox.name}", "ifname": "eth0"}]
        host.call("GC", host.network(**{"cni.dev/valid-attachments": valid}), HOST).silent()
    assert {key.rpartition("/")[2] for key in etcd.keys("endpoints/")} == kept
    all_reach_all(placed)
    for version in (newer, older):
        change_version(hosts[0], version)
        placed += place(hosts, netns)
        all_reach_all(placed)
    assert json.loads(etcd.keys()["networks/blue"]) == network
    for host, sandbox, _ in placed:
        host.delete(sandbox)
    assert not etcd.keys("endpoints/") and not etcd.keys("ips/")
