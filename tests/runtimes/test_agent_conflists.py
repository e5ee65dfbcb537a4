"""Files of networks that the agent writes where another host has made the network."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cnm_core.config.overlay import overlay_config
from cnm_core.store.membership import open_membership
from tests import cni
from tests.commands import IN_THE_WAY, NOT_FOUND, Cnm
from tests.hosts import Host, Sandboxes, cluster

CREATE = ("network", "create", "--driver", "overlay", "--subnet", "10.7.0.0/24")


@pytest.fixture
def hosts(node: None, tmp_path: Path, cni_bin: Path) -> Iterator[list[Host]]:
    """Two hosts; the second one has an agent."""
    with cluster(2, tmp_path, cni_bin) as (found, _):
        found[1].start_agent()
        yield found


@pytest.fixture
def both(hosts: list[Host]) -> list[Cnm]:
    """The command line on each of them."""
    return [host.cnm() for host in hosts]


def await_file(host: Host, name: str = "blue", *, there: bool = True) -> Path:
    """Wait until a host has a file of the network, or has none any more; its path."""
    path = host.networks / f"90-{name}.conflist"
    deadline = time.monotonic() + cni.PATIENCE
    while path.exists() != there:
        assert time.monotonic() < deadline, host.log.read_text()
        time.sleep(0.05)
    return path


def network_of(cnm: Cnm) -> cni.Config:
    """What a runtime hands to the plugin."""
    return {**cnm.plugin("blue"), "name": "blue", "cniVersion": cnm.file("blue")["cniVersion"]}


def test_file_comes_and_goes(hosts: list[Host], both: list[Cnm], netns: Sandboxes) -> None:
    """What one host makes can be used on the other, and goes when it is removed on either."""
    first, second = both
    first.run(*CREATE, "--label", "tier=db", "--internal", "-o", "port=8472", "blue")
    path = await_file(hosts[1])
    assert path.stat().st_mode & 0o777 == 0o600
    for key in ("vni", "port", "mtu", "subnets", "internal", "capabilities"):
        assert second.plugin("blue")[key] == first.plugin("blue")[key]
    for key in ("node", "underlay", "stateDir", "dataDir", "store"):
        assert second.plugin("blue")[key] == hosts[1].network()[key]
    (row,) = second.lines("network", "ls")
    assert (row["Name"], row["Driver"], row["Scope"]) == ("blue", "overlay", "global")
    shown = second.inspect("blue")
    assert shown["Labels"] == {"tier": "db"} and shown["Internal"] is True
    assert [each["Name"] for each in shown["Peers"]] == ["host-1", "host-2"]
    second.run("network", "validate", str(path))
    one, other = netns(), netns()
    hosts[1].add(one, network_of(second))
    first.call("network", "rm", "blue").fails(IN_THE_WAY, "endpoints on other hosts")
    hosts[0].add(other, network_of(first))
    late = hosts[0].call("ADD", network_of(first), netns()).result()
    assert one.reaches(cni.addresses(late)[0], seconds=cni.PATIENCE)
    for host, cnm in zip(hosts, both, strict=True):
        host.call(
            "GC", {**network_of(cnm), "cniVersion": "1.1.0", "cni.dev/valid-attachments": []}, one
        )
    first.run("network", "rm", "blue")
    await_file(hosts[1], there=False)
    hosts[1].await_event("conflist-removed")
    assert not list((hosts[1].directory / "run").rglob("*blue*"))
    assert not list((hosts[1].directory / "lib").rglob("*blue*"))
    assert "conflists/blue" not in hosts[0].etcd.keys("conflists/")
    # And the other way round: what the first host has made itself goes by its agent, too.
    hosts[0].start_agent()
    first.run(*CREATE, "blue")
    await_file(hosts[1])
    second.run("network", "rm", "blue")
    await_file(hosts[0], there=False)


def test_agent_was_away(hosts: list[Host], both: list[Cnm]) -> None:
    """What has come and gone while an agent was away is made up for at its start."""
    first, _ = both
    hosts[1].stop_agent()
    first.run(*CREATE, "blue")
    assert not (hosts[1].networks / "90-blue.conflist").exists()
    hosts[1].start_agent()
    await_file(hosts[1])
    hosts[1].stop_agent()
    first.run("network", "rm", "blue")
    assert (hosts[1].networks / "90-blue.conflist").exists()
    hosts[1].start_agent()
    await_file(hosts[1], there=False)


def test_foreign_files(hosts: list[Host], both: list[Cnm]) -> None:
    """A file that is somebody else's is neither written over nor removed, and that is said."""
    first, second = both
    foreign = {
        "90-blue.conflist": {"cniVersion": "1.0.0", "name": "other", "plugins": [{"type": "x"}]},
        "10-red.conflist": {"cniVersion": "1.0.0", "name": "red", "plugins": [{"type": "bridge"}]},
    }
    paths = [second.put(name, content) for name, content in foreign.items()]
    before = [path.read_bytes() for path in paths]
    first.run(*CREATE, "blue")
    first.run("network", "create", "--driver", "overlay", "--subnet", "10.8.0.0/24", "red")
    first.run("network", "create", "--driver", "overlay", "--subnet", "10.9.0.0/24", "green")
    deadline = time.monotonic() + cni.PATIENCE
    while not (hosts[1].networks / "90-green.conflist").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    while hosts[1].events().count("conflist-in-the-way") < 2:
        assert time.monotonic() < deadline, hosts[1].log.read_text()
        time.sleep(0.05)
    assert hosts[1].events().count("conflist-in-the-way") == 2
    for name in ("blue", "red"):
        first.run("network", "rm", name)
    first.run("network", "rm", "green")
    while (hosts[1].networks / "90-green.conflist").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert [path.read_bytes() for path in paths] == before
    assert second.call("network", "inspect", "green").code == NOT_FOUND


def test_foreign_state(hosts: list[Host], both: list[Cnm], netns: Sandboxes) -> None:
    """What cannot be removed of a network is named, and the agent goes on with all else."""
    first, second = both
    first.run(*CREATE, "blue")
    path = await_file(hosts[1])
    sandbox = netns()
    hosts[1].add(sandbox, network_of(second))
    hosts[1].delete(sandbox, network_of(second))
    foreign = hosts[1].directory / "run/blue/.somebody-elses"
    foreign.touch()
    first.run("network", "rm", "blue")
    hosts[1].await_event("failed")
    (failed,) = [line for line in hosts[1].log.read_text().splitlines() if '"failed"' in line]
    assert "run/blue" in failed
    first.run("network", "create", "--driver", "overlay", "--subnet", "10.8.0.0/24", "red")
    await_file(hosts[1], "red")
    assert path.exists()
    foreign.unlink()
    await_file(hosts[1], there=False)
    assert hosts[1].events().count("failed") == 1


def test_other_cluster(hosts: list[Host], both: list[Cnm]) -> None:
    """A network of another cluster on the same host is no business of this one's agent."""
    _, second = both
    alone = replace(second, agent=hosts[1].directory / "nothing.json")
    alone.run(*CREATE, "-o", f"underlay={hosts[1].address}", "alone")
    both[0].run("network", "create", "--driver", "overlay", "--subnet", "10.8.0.0/24", "blue")
    await_file(hosts[1])
    assert (hosts[1].networks / "90-alone.conflist").exists()
    alone.run("network", "rm", "alone")


def test_nonsense(hosts: list[Host], both: list[Cnm]) -> None:
    """What makes no sense becomes no file, and takes none away."""
    first, _ = both
    first.run(*CREATE, "blue")
    path = await_file(hosts[1])
    before = path.read_bytes()
    nonsense = ("{", "[]", '{"cniVersion": "9", "cnm": {}}', '{"cnm": 1}', "[" * 5000)
    for number, value in enumerate(nonsense):
        hosts[0].etcd.put("conflists/blue", value)
        deadline = time.monotonic() + cni.PATIENCE
        while hosts[1].events().count("ignored") <= number:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert path.read_bytes() == before
    network = hosts[0].etcd.keys("networks/")["networks/blue"]
    hosts[0].etcd.put("networks/blue", "{}")
    hosts[0].etcd.put("conflists/blue", json.dumps({"cniVersion": "1.0.0", "cnm": {}}))
    while "networks/blue" not in hosts[1].log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert path.read_bytes() == before
    hosts[0].etcd.put("networks/blue", network)
    hosts[0].etcd.put("conflists/blue", json.dumps({"cniVersion": "1.1.0", "cnm": {"x": 1}}))
    while '"1.1.0"' not in await_file(hosts[1]).read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_in_use(hosts: list[Host], both: list[Cnm], netns: Sandboxes) -> None:
    """A file stays while containers here use it, though the cluster has forgotten the network."""
    first, second = both
    first.run(*CREATE, "blue")
    path = await_file(hosts[1])
    one = netns()
    config = network_of(second)
    hosts[1].add(one, config)
    for key in ("networks/blue", "vnis/4097", "conflists/blue"):
        hosts[0].etcd.delete(key)
    hosts[1].await_event("conflist-in-use")
    assert path.exists()
    hosts[1].delete(one, config)
    hosts[1].stop_agent()
    hosts[1].start_agent()
    await_file(hosts[1], there=False)


def test_network_gone(hosts: list[Host], both: list[Cnm], netns: Sandboxes) -> None:
    """What the store has of a file goes with its network, though a version forgot to remove it."""
    first, second = both
    first.run(*CREATE, "--label", "tier=db", "blue")
    path = await_file(hosts[1])
    one, config = netns(), network_of(second)
    hosts[1].add(one, config)
    hosts[1].stop_agent()
    for key in ("networks/blue", "vnis/4097"):
        hosts[0].etcd.delete(key)
    hosts[1].start_agent()
    hosts[1].await_event("conflist-forgotten")
    hosts[1].await_event("conflist-in-use")
    assert not hosts[0].etcd.keys("conflists/")
    assert path.exists()
    hosts[1].delete(one, config)
    hosts[1].stop_agent()
    hosts[1].start_agent()
    await_file(hosts[1], there=False)
    # Nothing of it comes back with another network of that name.
    first.run("network", "rm", "blue")
    first.run(*CREATE, "blue")
    await_file(hosts[1])
    assert second.inspect("blue")["Labels"] == {}


def test_network_back(hosts: list[Host], both: list[Cnm]) -> None:
    """A network that has come back since somebody looked keeps what the store has of its file."""
    first, _ = both
    shared = open_membership(overlay_config(hosts[0].network()), print).cluster
    first.run(*CREATE, "blue")
    assert not shared.forget_conflist("blue")
    assert list(shared.conflists()) == ["blue"]
    hosts[0].etcd.delete("networks/blue")
    assert shared.forget_conflist("blue")
    assert not shared.conflists()
