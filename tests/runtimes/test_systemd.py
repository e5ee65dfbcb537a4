"""The agent as a service of a real systemd, on one of two hosts of an overlay."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import cni
from tests.hosts import Host, Sandboxes, cluster
from tests.systemd import Systemd, booted

ROOT = Path(__file__).parent.parent.parent
UNIT = "cnm-agent.service"


@pytest.fixture
def hosts(node: None, tmp_path: Path, cni_bin: Path) -> Iterator[list[Host]]:
    """Two hosts; the first keeps its state where that is by default."""
    with cluster(2, tmp_path, cni_bin) as (found, _):
        found[0].overrides |= {"stateDir": "/run/cnm", "dataDir": "/var/lib/cni/networks"}
        yield found


@pytest.fixture
def machine(hosts: list[Host], tmp_path: Path) -> Iterator[Systemd]:
    """A systemd on the first host that knows what `make install` puts in place, and no more."""
    layers = tmp_path / "layers"
    layers.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", layers], check=True)
    try:
        units = layers / "run/units"
        units.mkdir(parents=True)
        words = ["make", "-s", "install", f"DESTDIR={layers}/dest", "PREFIX=/usr/local"]
        subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
        (layers / "dest/usr/local").rename(layers / "usr")
        (layers / "usr/lib/systemd/system" / UNIT).rename(units / UNIT)
        log = units / f"{UNIT}.d/log.conf"
        log.parent.mkdir()
        log.write_text("[Service]\nStandardError=append:/run/agent.log\n")
        with booted(hosts[0].netns, layers, units) as systemd:
            yield systemd
    finally:
        subprocess.run(["umount", layers], check=True)


def configure(machine: Systemd, host: Host) -> None:
    """Write the agent's configuration, where it is by default."""
    document = host.network()
    config = {key: document[key] for key in ("store", "node", "underlay")}
    config["dataDir"] = document["dataDir"]
    file = machine.root / "etc/cnm/agent.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(config))


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + cni.PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_service(machine: Systemd, hosts: list[Host], netns: Sandboxes) -> None:
    """It starts where it is configured, does its work confined, comes back after a kill, and leaves
    traffic alone when it is stopped.
    """
    machine.systemctl("start", UNIT)
    assert machine.property(UNIT, "ConditionResult") == "no"
    configure(machine, hosts[0])
    one, two, three = netns(), netns(), netns()
    hosts[0].add(one)
    machine.systemctl("start", UNIT)
    assert machine.property(UNIT, "SubState") == "running"
    assert "active (running)" in machine.systemctl("status", UNIT)
    first = cni.addresses(hosts[1].add(two))[0]
    assert one.reaches(first, seconds=cni.PATIENCE)

    # What it is for takes files, devices, entries and rules.
    near = hosts[0].netns
    near.ip("link", "delete", "vx-001001")
    near.run(["nft", "delete", "table", "ip", "cnm-overlay"])
    until(lambda: "cnm-overlay" in near.run(["nft", "list", "tables"]))
    assert one.reaches(first, seconds=cni.PATIENCE)
    create = ("network", "create", "--driver", "overlay", "--subnet", "10.8.0.0/24", "red")
    hosts[1].cnm().run(*create)
    conflist = machine.root / "etc/cni/net.d/90-red.conflist"
    until(conflist.exists)
    assert conflist.stat().st_mode & 0o777 == 0o600
    hosts[1].cnm().run("network", "rm", "red")
    until(lambda: not conflist.exists())

    killed = machine.property(UNIT, "MainPID")
    machine.call("kill", "-KILL", killed)
    until(lambda: machine.property(UNIT, "NRestarts") == "1")
    until(lambda: machine.property(UNIT, "SubState") == "running")
    assert machine.property(UNIT, "MainPID") != killed
    second = cni.addresses(hosts[1].add(three))[0]
    assert one.reaches(second, seconds=cni.PATIENCE)

    machine.systemctl("stop", UNIT)
    assert machine.property(UNIT, "Result") == "success"
    assert machine.property(UNIT, "SubState") == "dead"
    assert one.reaches(first) and one.reaches(second)
    assert "cnm-overlay" in near.run(["nft", "list", "tables"])

    # At boot it neither waits for etcd nor fails without it.
    hosts[0].etcd.kill()
    machine.systemctl("start", UNIT)
    assert machine.property(UNIT, "SubState") == "running"
