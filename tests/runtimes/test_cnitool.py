"""A real runtime: cnitool, with a list of plugins."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import cni
from tests.cni import Config
from tests.iproute import HOST, Netns, exchange_by_tcp, run
from tests.runtimes.spy import Spy

CACHE = Path("/var/lib/cni/results")


@dataclass(frozen=True)
class Cnitool:
    """cnitool with one directory of plugins and one of configurations."""

    binary: str
    plugins: str
    configurations: Path

    def configure(self, *plugins: Config, name: str = "blue", version: str = cni.NEWEST) -> None:
        """Write a network's list of plugins."""
        document = {"cniVersion": version, "name": name, "plugins": plugins}
        (self.configurations / f"{name}.conflist").write_text(json.dumps(document))

    def call(
        self, command: str, netns: Netns, name: str = "blue", **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run one of its commands for a network and a namespace."""
        environment = {
            "PATH": cni.SEARCH_PATH,
            "CNI_PATH": self.plugins,
            "NETCONFPATH": str(self.configurations),
            **variables,
        }
        return subprocess.run(
            [self.binary, command, name, netns.path],
            env=environment,
            capture_output=True,
            text=True,
            timeout=cni.PATIENCE,
            check=False,
        )

    def add(self, netns: Netns, **variables: str) -> Config:
        """The result of `add`, which must succeed."""
        done = self.call("add", netns, **variables)
        assert done.returncode == 0, done
        result: Config = json.loads(done.stdout)
        return result

    def silent(self, command: str, netns: Netns, **variables: str) -> None:
        """Run a command that must succeed and has nothing to say."""
        done = self.call(command, netns, **variables)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.fixture
def cnitool(request: pytest.FixtureRequest, cni_bin: Path, tmp_path: Path) -> Cnitool:
    """cnitool, of PATH or of the repository's own tools, with the plugins under test."""
    tools = request.config.rootpath / ".tools/bin"
    binary = shutil.which("cnitool", path=f"{tools}:{os.environ['PATH']}")
    if binary is None:
        pytest.fail("cnitool is missing: run make tools")
    if not (cni_bin / "bridge").exists():
        pytest.fail(f"{cni_bin / 'bridge'} is missing: run make build")
    return Cnitool(binary, str(cni_bin), tmp_path)


@pytest.fixture
def bridge() -> Config:
    """A dual-stack bridge, as it stands in a list of plugins."""
    return {
        "type": "bridge",
        "bridge": "blue0",
        "isDefaultGateway": True,
        "capabilities": {"mac": True},
        "ipam": cni.host_local("10.1.0.0/24", "fd00:1::/64"),
    }


MakeNetns = Callable[[], Netns]


@pytest.mark.parametrize("version", ["0.2.0", "0.4.0", "1.1.0"])
def test_isolated(cnitool: Cnitool, netns: MakeNetns, version: str) -> None:
    """A result without addresses is one to the reference library, whatever its version."""
    cnitool.configure({"type": "none"}, version=version)
    sandbox = netns()
    result = cnitool.add(sandbox)
    assert result["cniVersion"] == version and "ips" not in result and "ip4" not in result
    if version != "0.2.0":
        cnitool.silent("check", sandbox)
    cnitool.silent("del", sandbox)


def test_two_containers(cnitool: Cnitool, bridge: Config, netns: MakeNetns) -> None:
    """Status, add, check, traffic between two containers, and del."""
    cnitool.configure(bridge)
    one, other = netns(), netns()
    cnitool.silent("status", one)
    first, second = cnitool.add(one), cnitool.add(other)
    assert [ip["address"] for ip in first["ips"]] == ["10.1.0.2/24", "fd00:1::2/64"]
    for sandbox in (one, other):
        cnitool.silent("check", sandbox)
    for index, address in enumerate(cni.addresses(second)):
        assert one.reaches(address)
        assert other.reaches(cni.addresses(first)[index])
        payload = os.urandom(100_000)
        assert exchange_by_tcp(one, other, address, payload) == payload
    for sandbox in (one, other):
        cnitool.silent("del", sandbox)
        assert "eth0" not in sandbox.links()
    assert not cni.leases()
    assert not HOST.ports("blue0")
    assert not list(CACHE.iterdir())


def test_results_are_cached(cnitool: Cnitool, bridge: Config, netns: MakeNetns) -> None:
    """The runtime's library keeps the result, where nobody else sees it."""
    cnitool.configure(bridge)
    sandbox = netns()
    result = cnitool.add(sandbox)
    (cached,) = CACHE.iterdir()
    assert json.loads(cached.read_text())["result"] == result


@pytest.mark.parametrize("version", cni.WITH_CHECK)
def test_versions(cnitool: Cnitool, bridge: Config, netns: MakeNetns, version: str) -> None:
    """Lists of every version that has check."""
    cnitool.configure(bridge, version=version)
    sandbox = netns()
    assert cnitool.add(sandbox)["cniVersion"] == version
    cnitool.silent("check", sandbox)
    cnitool.silent("del", sandbox)
    assert not cni.leases()


@pytest.mark.parametrize("version", ["0.2.0", "0.3.1"])
def test_versions_without_check(
    cnitool: Cnitool, bridge: Config, netns: MakeNetns, version: str
) -> None:
    """Lists of versions that are older than check."""
    cnitool.configure(bridge, version=version)
    sandbox = netns()
    cnitool.add(sandbox)
    cnitool.silent("del", sandbox)
    assert not cni.leases()


def test_capabilities(cnitool: Cnitool, bridge: Config, netns: MakeNetns) -> None:
    """The runtime fills in what the configuration declares that it can use."""
    cnitool.configure(bridge)
    sandbox = netns()
    mac = "02:42:00:00:00:01"
    cnitool.add(sandbox, CAP_ARGS=json.dumps({"mac": mac}), CNI_IFNAME="net1")
    assert sandbox.link("net1")["address"] == mac
    cnitool.silent("del", sandbox, CNI_IFNAME="net1")


def test_check_after_a_change(cnitool: Cnitool, bridge: Config, netns: MakeNetns) -> None:
    """An error of check reaches whoever called the runtime."""
    cnitool.configure(bridge)
    sandbox = netns()
    cnitool.add(sandbox)
    sandbox.ip("addr", "flush", "dev", "eth0")
    done = cnitool.call("check", sandbox)
    assert done.returncode != 0
    assert "10.1.0.2" in done.stderr


def test_status_of_a_full_pool(cnitool: Cnitool, bridge: Config, netns: MakeNetns) -> None:
    """The runtime learns that no further container fits."""
    cnitool.configure(bridge | {"ipam": cni.host_local("10.1.0.0/30")})
    one, other = netns(), netns()
    cnitool.add(one)
    assert "10.1.0.2" in cnitool.call("status", one).stderr
    assert "10.1.0.2" in cnitool.call("add", other).stderr
    cnitool.silent("del", one)
    cnitool.silent("status", one)
    cnitool.add(other)


def test_gc_of_cached_attachments(cnitool: Cnitool, bridge: Config, netns: MakeNetns) -> None:
    """cnitool deletes everything that it has in its cache, also where the sandbox is gone.

    It gives the plugin no list of valid attachments after that, by which the plugin
    collects nothing rather than to take it for an empty one.
    """
    cnitool.configure(bridge)
    stale, gone = netns(), netns()
    cnitool.add(stale)
    cnitool.add(gone)
    run("ip", "netns", "delete", gone.name)
    assert cnitool.call("gc", stale).returncode == 0
    assert "eth0" not in stale.links()
    assert not cni.leases()
    assert not list(CACHE.iterdir())


def test_gc_after_the_cache_is_lost(cnitool: Cnitool, bridge: Config, netns: MakeNetns) -> None:
    """With a list of valid attachments GC removes what the runtime has forgotten."""
    cnitool.configure(bridge | {"cni.dev/valid-attachments": []})
    stale, gone = netns(), netns()
    cnitool.add(stale)
    cnitool.add(gone)
    run("ip", "netns", "delete", gone.name)
    shutil.rmtree(CACHE)
    cnitool.silent("gc", stale)
    assert "eth0" not in stale.links()
    assert not cni.leases()
    assert not HOST.ports("blue0")


def test_a_failed_add_leaves_nothing(cnitool: Cnitool, bridge: Config, netns: MakeNetns) -> None:
    """The message of a failure is the plugin's."""
    cnitool.configure(bridge)
    sandbox = netns()
    sandbox.ip("link", "add", "eth0", "type", "bridge")
    done = cnitool.call("add", sandbox)
    assert done.returncode != 0
    assert '"eth0" already exists' in done.stderr
    assert not cni.leases()


def test_calls(cnitool: Cnitool, bridge: Config, netns: MakeNetns, tmp_path: Path) -> None:
    """Each of its commands is one of CNI's; gc deletes what is in the cache first."""
    spy = Spy.on(Path(cnitool.plugins), tmp_path / "spies")
    spied = Cnitool(cnitool.binary, str(spy.directory), cnitool.configurations)
    spied.configure(bridge)
    sandbox = netns()
    spied.silent("status", sandbox)
    spied.add(sandbox)
    spied.silent("check", sandbox)
    spied.silent("del", sandbox)
    spied.add(sandbox)
    spied.call("gc", sandbox)
    expected = ["STATUS", "ADD", "CHECK", "DEL", "ADD", "DEL", "GC"]
    assert spy.commands() == {"bridge": expected}


def test_loopback_in_a_list(cnitool: Cnitool, bridge: Config, netns: MakeNetns) -> None:
    """A chained plugin passes the first one's result on."""
    cnitool.configure(bridge, {"type": "loopback"})
    sandbox = netns()
    sandbox.ip("link", "set", "lo", "down")
    result = cnitool.add(sandbox)
    assert result["interfaces"][-1]["name"] == "eth0"
    assert "UP" in sandbox.link("lo")["flags"]
    cnitool.silent("check", sandbox)
    cnitool.silent("del", sandbox)


def test_a_foreign_ipam_plugin(
    cnitool: Cnitool, bridge: Config, netns: MakeNetns, tmp_path: Path
) -> None:
    """Addresses from Debian's Go plugin under our bridge."""
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "foreign").symlink_to("/usr/lib/cni/host-local")
    mixed = Cnitool(cnitool.binary, f"{cnitool.plugins}:{plugins}", cnitool.configurations)
    mixed.configure(bridge | {"ipam": bridge["ipam"] | {"type": "foreign"}}, version="1.0.0")
    one, other = netns(), netns()
    first, second = mixed.add(one), mixed.add(other)
    assert cni.addresses(first) == ["10.1.0.2", "fd00:1::2"]
    for address in cni.addresses(second):
        assert exchange_by_tcp(one, other, address, b"hello") == b"hello"
    for sandbox in (one, other):
        mixed.silent("check", sandbox)
        mixed.silent("del", sandbox)
    assert not cni.leases()


def test_our_ipam_plugin_under_a_foreign_bridge(
    cnitool: Cnitool, bridge: Config, netns: MakeNetns, tmp_path: Path
) -> None:
    """Addresses from our plugin under Debian's Go bridge."""
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "foreign-bridge").symlink_to("/usr/lib/cni/bridge")
    mixed = Cnitool(cnitool.binary, f"{plugins}:{cnitool.plugins}", cnitool.configurations)
    mixed.configure(bridge | {"type": "foreign-bridge"}, version="1.0.0")
    one, other = netns(), netns()
    mixed.add(one)
    (address, _) = cni.addresses(mixed.add(other))
    assert exchange_by_tcp(one, other, address, b"hello") == b"hello"
    for sandbox in (one, other):
        mixed.silent("check", sandbox)
        mixed.silent("del", sandbox)
    assert not cni.leases()
