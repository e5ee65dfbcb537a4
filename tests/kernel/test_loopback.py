"""The loopback plugin."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import cni
from tests.cni import (
    DECODING_FAILURE,
    INVALID_CONFIG,
    INVALID_NETNS,
    PLUGIN_SPECIFIC,
    Config,
    Endpoint,
)
from tests.iproute import HOST, Netns, run

SANDBOX_GONE = [{"env_drop": ("CNI_NETNS",)}, {"netns": ""}, {"netns": "/run/netns/absent"}]
PREVIOUS = {
    "cniVersion": "1.1.0",
    "interfaces": [{"name": "eth0", "mac": "02:42:00:00:00:01", "sandbox": "/run/netns/x"}],
    "ips": [{"address": "10.1.0.5/24", "gateway": "10.1.0.1", "interface": 0}],
    "routes": [{"dst": "0.0.0.0/0", "mtu": 1400}],
    "dns": {"nameservers": ["10.1.0.1"]},
}


@pytest.fixture
def plugin() -> str:
    """Always the loopback plugin."""
    return "loopback"


@pytest.fixture
def config(version: str) -> Config:
    """What container runtimes configure for it."""
    return {"cniVersion": version, "name": "cni-loopback", "type": "loopback"}


@pytest.fixture
def lo(binary: Path, netns: Callable[[], Netns]) -> Endpoint:
    """The loopback interface of a new sandbox, which the kernel leaves down."""
    sandbox = netns()
    sandbox.ip("link", "set", "lo", "down")
    return Endpoint(binary, str(binary.parent), "c1", sandbox, "lo")


def _up(netns: Netns) -> bool:
    return "UP" in netns.link("lo")["flags"]


@pytest.mark.parametrize("version", cni.WITH_INTERFACES)
def test_add(lo: Endpoint, config: Config, version: str) -> None:
    """ADD sets lo up; the result has it and its addresses."""
    result = lo.add(config)
    assert _up(lo.netns)
    (interface,) = result["interfaces"]
    assert interface["name"] == "lo"
    assert interface["mac"] == "00:00:00:00:00:00"
    assert interface["sandbox"] == lo.netns.path
    assert ("mtu" in interface) is (version == "1.1.0")
    assert [ip["address"] for ip in result["ips"]] == ["127.0.0.1/8", "::1/128"]
    assert {ip["interface"] for ip in result["ips"]} == {0}
    assert lo.netns.reaches("127.0.0.1")
    assert lo.netns.reaches("::1")


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_add_of_old_versions(lo: Endpoint, config: Config, version: str) -> None:
    """ADD works in the versions that have no interfaces."""
    assert lo.add(config)["ip4"]["ip"] == "127.0.0.1/8"
    assert _up(lo.netns)


def test_add_twice(lo: Endpoint, config: Config) -> None:
    """lo is there whatever we do, so that a second ADD does no harm."""
    assert lo.add(config) == lo.add(config)


def test_previous_result(lo: Endpoint, config: Config) -> None:
    """Chained after another plugin it passes that one's result on."""
    assert lo.add(config | {"prevResult": PREVIOUS}) == PREVIOUS
    assert _up(lo.netns)


def test_previous_result_without_sense(lo: Endpoint, config: Config) -> None:
    """Where that makes no sense nothing is changed."""
    lo.call("ADD", config | {"prevResult": {"ips": 7}}).error(DECODING_FAILURE)
    assert not _up(lo.netns)


def test_check(lo: Endpoint, config: Config) -> None:
    """CHECK is an error while lo is down."""
    result = lo.add(config)
    lo.check(config, result).silent()
    lo.netns.ip("link", "set", "lo", "down")
    assert "lo" in lo.check(config, result).error(PLUGIN_SPECIFIC)["msg"]
    lo.call("CHECK", config).error(INVALID_CONFIG)


def test_delete(lo: Endpoint, config: Config) -> None:
    """DEL succeeds, again and again."""
    lo.add(config)
    for _ in range(3):
        lo.delete(config)


@pytest.mark.parametrize("change", SANDBOX_GONE, ids=str)
def test_delete_without_sandbox(lo: Endpoint, config: Config, change: Config) -> None:
    """DEL succeeds where there is no sandbox any more."""
    result = lo.add(config)
    lo.delete(config, result, **change)


def test_delete_of_what_is_no_namespace(lo: Endpoint, config: Config) -> None:
    """DEL succeeds where the path is left without its namespace."""
    lo.add(config)
    run("ip", "netns", "delete", lo.netns.name)
    path = Path(lo.netns.path)
    path.touch()
    lo.delete(config)
    path.unlink()


@pytest.mark.parametrize("command", ["ADD", "DEL"])
def test_the_hosts_own(lo: Endpoint, config: Config, command: str) -> None:
    """The host's lo is never touched."""
    lo.call(command, config, netns=HOST.path).error(INVALID_NETNS)
    assert _up(HOST)


def test_network_commands(lo: Endpoint, config: Config) -> None:
    """GC and STATUS have nothing to do, and leave lo as it is."""
    lo.add(config)
    lo.call("STATUS", config).silent()
    lo.call("GC", cni.collected(config)).silent()
    assert _up(lo.netns)


def test_no_sandbox(lo: Endpoint, config: Config) -> None:
    """ADD without a namespace is an error."""
    lo.call("ADD", config, netns="/run/netns/absent").error(INVALID_NETNS)
