"""A kernel that has no nf_tables: its module is not loaded, and cannot be."""

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import cni
from tests.cni import NOT_AVAILABLE, Config, Endpoint
from tests.iproute import run

MakeEndpoint = Callable[[], Endpoint]

MODPROBE = Path("/proc/sys/kernel/modprobe")


@pytest.fixture
def plugin() -> str:
    """Always the bridge plugin."""
    return "bridge"


@pytest.fixture
def without(node: None) -> Iterator[None]:
    """The kernel while it may load no module, and has not loaded this one but the others."""
    run("modprobe", "-a", "bridge", "veth")
    _unload()
    helper = MODPROBE.read_text()
    MODPROBE.write_text("/bin/false")
    yield
    MODPROBE.write_text(helper)


def _unload() -> None:
    """Unload the module, and before it those that use it.

    Namespaces of earlier tests go in their own time, and hold it until then.
    """
    deadline = time.monotonic() + cni.PATIENCE
    while Path("/sys/module/nf_tables").exists():
        holders = [each.name for each in Path("/sys/module/nf_tables/holders").iterdir()]
        done = subprocess.run(
            ["modprobe", "-r", *holders, "nf_tables"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0 or time.monotonic() < deadline, done.stderr
        time.sleep(0.1)


def test_networks_with_rules(without: None, endpoint: MakeEndpoint, config: Config) -> None:
    """STATUS, ADD and CHECK say what is missing, and ADD leaves nothing."""
    masqueraded = config | {"ipMasq": True}
    eth0 = endpoint()
    error = eth0.call("STATUS", masqueraded).error(NOT_AVAILABLE)
    assert error["msg"].startswith("nftables: the kernel does not have it")
    assert "nf_tables" in error["details"]
    error = eth0.call("ADD", masqueraded).error()
    assert error["msg"].startswith("nftables: the kernel does not have it")
    assert not cni.leases() and "eth0" not in eth0.netns.links()


def test_networks_without_rules(without: None, endpoint: MakeEndpoint, config: Config) -> None:
    """They work as ever, and GC collects what there is."""
    eth0 = endpoint()
    eth0.call("STATUS", config).silent()
    eth0.check(config, eth0.add(config)).silent()
    Path("/run/cnm/blue", f"{eth0.container_id}:eth0").unlink()
    eth0.call("GC", cni.collected(config)).silent()
    assert "eth0" not in eth0.netns.links() and not cni.leases()
