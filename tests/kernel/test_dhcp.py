"""Addresses by DHCP: Debian's dhcp plugin and its daemon as a delegate, dnsmasq as the server."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests import cni
from tests.cni import Config, Endpoint
from tests.iproute import HOST, Netns, Snapshot

MakeNetns = Callable[[], Netns]
MakeEndpoint = Callable[[], Endpoint]

GO_PLUGINS = Path("/usr/lib/cni")
SERVER = "10.77.0.1"


@pytest.fixture(params=["macvlan", "bridge"])
def plugin(request: pytest.FixtureRequest) -> str:
    """Networks whose containers are on the server's link."""
    name: str = request.param
    return name


@pytest.fixture
def outside(netns: MakeNetns, plugin: str) -> Netns:
    """Where the server is: at the other end of up0, which is the parent or a port of the bridge."""
    there = netns()
    HOST.ip("link", "add", "up0", "up", "type", "veth", "peer", "eth0", "netns", there.name)
    there.ip("link", "set", "eth0", "up")
    there.ip("addr", "add", f"{SERVER}/24", "dev", "eth0")
    if plugin == "bridge":
        HOST.ip("link", "add", "blue0", "up", "type", "bridge")
        HOST.ip("link", "set", "up0", "master", "blue0")
    return there


@pytest.fixture
def leases(outside: Netns, tmp_path: Path) -> Iterator[Path]:
    """The server's file of leases, one a line: expiry, MAC, address, name, client ID."""
    path = tmp_path / "leases"
    command = f"""dnsmasq -k --no-ping --no-resolv --no-hosts --conf-file=/dev/null --port=0
        --interface=eth0 --bind-interfaces --except-interface=lo --user=root
        --dhcp-range=10.77.0.50,10.77.0.99,255.255.255.0,2m
        --dhcp-leasefile={path} --pid-file={tmp_path}/dnsmasq.pid"""
    with _running("ip", "netns", "exec", outside.name, *command.split()):
        _until((tmp_path / "dnsmasq.pid").exists)  # it listens by then
        yield path


@pytest.fixture
def daemon(node: None, tmp_path: Path) -> Iterator[Path]:
    """The socket of the dhcp plugin's daemon."""
    path = tmp_path / "dhcp.sock"
    with _running(str(GO_PLUGINS / "dhcp"), "daemon", "-socketpath", str(path)):
        _until(path.exists)
        yield path


@contextmanager
def _running(*command: str) -> Iterator[None]:
    """Have a server run meanwhile."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            yield
        finally:
            server.terminate()


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + cni.PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def config(config: Config, plugin: str, outside: Netns, tmp_path: Path) -> Config:
    """A network that asks the server; Debian's plugin knows no newer version."""
    members = {"master": "up0"} if plugin == "macvlan" else {}
    ipam = {"type": "dhcp", "daemonSocketPath": str(tmp_path / "dhcp.sock")}
    return cni.without(config, "isGateway") | {"cniVersion": "1.0.0", "ipam": ipam} | members


@pytest.fixture
def eth0(endpoint: MakeEndpoint) -> Endpoint:
    """An endpoint whose CNI_PATH has the Go plugins."""
    return replace(endpoint(), path=str(GO_PLUGINS))


def test_lease(eth0: Endpoint, config: Config, leases: Path, daemon: Path) -> None:
    """ADD gets a lease for the container's MAC and uses it; DEL gives it back."""
    result = eth0.add(config)
    (address,) = cni.addresses(result)
    interface = result["interfaces"][-1]
    assert eth0.netns.addresses("eth0") == [f"{address}/24"]
    (line,) = leases.read_text().splitlines()
    assert line.split()[1:3] == [interface["mac"], address]
    assert result["ips"][0]["gateway"] == SERVER
    assert {"dst": "0.0.0.0/0", "gw": SERVER} in result["routes"]
    assert eth0.netns.reaches(SERVER)
    eth0.check(config, result).silent()
    eth0.delete(config, result)
    assert "eth0" not in eth0.netns.links()
    _until(lambda: leases.read_text() == "")


@pytest.mark.parametrize("plugin", ["bridge"], indirect=True)
def test_gateway_of_the_bridge(eth0: Endpoint, config: Config, leases: Path, daemon: Path) -> None:
    """A bridge that is to be the gateway gets its address once the lease tells it."""
    eth0.add(config | {"isGateway": True})
    assert HOST.addresses("blue0") == [f"{SERVER}/24"]


def test_no_daemon(eth0: Endpoint, config: Config, snapshot: Callable[..., Snapshot]) -> None:
    """Without the daemon ADD fails with the plugin's words and leaves nothing but the record.

    The runtime is to send DEL, which fails alike until there is a daemon: a lease may be held.
    """
    before = snapshot(eth0.netns)
    error = eth0.call("ADD", config).error()
    assert "dhcp.sock" in error["msg"] + error.get("details", "")
    after = snapshot(eth0.netns)
    assert (after.links, after.addresses) == (before.links, before.addresses)
