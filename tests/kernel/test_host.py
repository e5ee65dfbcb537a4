"""The host plugin: the sandbox is the host's own network namespace."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import cni
from tests.cni import INVALID_CONFIG, INVALID_NETNS, NOT_AVAILABLE, Config, Endpoint
from tests.iproute import HOST, Netns, Snapshot
from tests.kernel.test_firewall import HOST_ADDRESS, another_host

MakeEndpoint = Callable[[], Endpoint]
TakeSnapshot = Callable[..., Snapshot]

DRIFTED = 105
RECORDS = Path("/run/cnm")


@pytest.fixture
def plugin() -> str:
    """Always the host plugin."""
    return "host"


@pytest.fixture
def config(version: str) -> Config:
    """The host's network."""
    return {"cniVersion": version, "name": "shared", "type": "host"}


@pytest.fixture
def uplink(netns: Callable[[], Netns]) -> Netns:
    """Another host, by which the default routes lead."""
    return another_host(netns())


@pytest.fixture
def on_host(binary: Path) -> Callable[[str], Endpoint]:
    """Makes containers-to-be in the host's namespace."""
    return lambda name: Endpoint(binary, str(binary.parent), name, HOST)


def _records() -> list[str]:
    return sorted(str(path.relative_to(RECORDS)) for path in RECORDS.glob("*/*:*"))


def test_add(uplink: Netns, on_host: Any, config: Config, snapshot: TakeSnapshot) -> None:
    """The result has the links of default routes with their addresses; nothing is changed."""
    HOST.ip("link", "add", "unrelated0", "type", "bridge")
    HOST.ip("addr", "add", "10.9.0.1/24", "dev", "unrelated0")
    before = snapshot()
    eth0 = on_host("c1")
    result = eth0.add(config)
    up0 = HOST.link("up0")
    assert result["interfaces"] == [
        {"name": "up0", "mac": up0["address"], "mtu": up0["mtu"], "sandbox": HOST.path}
    ]
    assert result["ips"] == [
        {"address": f"{HOST_ADDRESS[4]}/24", "interface": 0},
        {"address": f"{HOST_ADDRESS[6]}/64", "interface": 0},
    ]
    assert "routes" not in result
    assert _records() == ["shared/c1:eth0"]
    eth0.check(config, result).silent()
    for _ in range(2):
        eth0.delete(config, result)
    assert snapshot() == before


@pytest.mark.parametrize("version", cni.VERSIONS)
def test_versions(uplink: Netns, on_host: Any, config: Config, version: str) -> None:
    """Each version has the host's addresses in its own shape."""
    result = on_host("c1").add(config)
    assert result["cniVersion"] == version
    if version in ("0.1.0", "0.2.0"):
        assert result["ip4"] == {"ip": f"{HOST_ADDRESS[4]}/24"}
        assert result["ip6"] == {"ip": f"{HOST_ADDRESS[6]}/64"}
    else:
        assert cni.addresses(result) == list(HOST_ADDRESS.values())


def test_two_uplinks(
    uplink: Netns, netns: Callable[[], Netns], on_host: Any, config: Config
) -> None:
    """Every link of a default route counts, the lowest metric first."""
    other = netns()
    HOST.ip("link", "add", "up1", "type", "veth", "peer", "name", "eth0", "netns", other.name)
    HOST.ip("addr", "add", "198.51.100.1/24", "dev", "up1")
    HOST.ip("link", "set", "up1", "up")
    HOST.ip("route", "add", "default", "via", "198.51.100.2", "metric", "50")
    result = on_host("c1").add(config)
    assert [each["name"] for each in result["interfaces"]] == ["up0", "up1"]
    assert result["ips"][-1] == {"address": "198.51.100.1/24", "interface": 1}


def test_no_default_route(node: None, on_host: Any, config: Config) -> None:
    """A host that is on no network has nothing to tell."""
    eth0 = on_host("c1")
    result = eth0.add(config)
    assert result == {"cniVersion": config["cniVersion"]}
    eth0.check(config, result).silent()


@pytest.mark.parametrize("command", ["ADD", "CHECK"])
def test_another_namespace(
    endpoint: MakeEndpoint, config: Config, snapshot: TakeSnapshot, command: str
) -> None:
    """Any other sandbox is refused by its path, and nothing is left of the call."""
    eth0 = endpoint()
    before = snapshot(eth0.netns)
    previous = {"prevResult": {"cniVersion": config["cniVersion"]}}
    error = eth0.call(command, config | previous).error(INVALID_NETNS)
    assert eth0.netns.path in error["msg"]
    assert "host" in error["details"]
    assert snapshot(eth0.netns) == before


def test_delete_without_netns(on_host: Any, config: Config) -> None:
    """DEL works whatever became of the path."""
    eth0 = on_host("c1")
    for changes in ({"env_drop": ("CNI_NETNS",)}, {"netns": "/run/netns/absent"}):
        eth0.add(config)
        eth0.delete(config, **changes)
        assert _records() == []


def test_several_containers(uplink: Netns, on_host: Any, config: Config) -> None:
    """The host has room for any number; GC forgets those that are not valid."""
    valid, stale = on_host("c1"), on_host("c2")
    result = valid.add(config)
    assert stale.add(config) == result
    valid.call("GC", cni.collected(config, valid)).silent()
    assert _records() == ["shared/c1:eth0"]
    valid.check(config, result).silent()


def test_second_network(
    uplink: Netns, on_host: Any, endpoint: MakeEndpoint, cni_bin: Path, config: Config
) -> None:
    """One host network only, while it has endpoints; other drivers' networks do not count."""
    bridged = replace(endpoint(), binary=cni_bin / "bridge")
    bridged.add(cni.network())
    first, second = on_host("c1"), on_host("c2")
    first.add(config)
    other = config | {"name": "again"}
    error = second.call("ADD", other).error(INVALID_CONFIG)
    assert '"shared"' in error["msg"] and "c1:eth0" in error["msg"]
    assert '"shared"' in second.call("STATUS", other).error(NOT_AVAILABLE)["msg"]
    assert _records() == [f"blue/{bridged.container_id}:eth0", "shared/c1:eth0"]
    first.call("STATUS", config).silent()
    first.delete(config)
    second.add(other)


def test_damaged_records(uplink: Netns, on_host: Any, config: Config) -> None:
    """Records that make no sense keep nobody from the host's network, nor hide a second one."""
    first, second = on_host("c2"), on_host("c3")
    for network in ("blue", "shared"):
        record = RECORDS / network / "c1:eth0"
        record.parent.mkdir(parents=True)
        record.write_text("{")
    first.add(config)
    error = second.call("ADD", config | {"name": "again"}).error(INVALID_CONFIG)
    assert "c2:eth0" in error["msg"]


@pytest.mark.parametrize(
    ("key", "members"),
    [
        ("ipam", {"ipam": cni.host_local("10.1.0.0/24")}),
        ("ipam", {"ipam": {"type": "static", "addresses": [{"address": "10.1.0.5/24"}]}}),
        (
            "portMappings",
            {"runtimeConfig": {"portMappings": [{"hostPort": 1, "containerPort": 1}]}},
        ),
        ("mac", {"args": {"cni": {"mac": "02:42:0a:01:00:05"}}}),
    ],
)
def test_refused_keys(
    uplink: Netns, on_host: Any, config: Config, snapshot: TakeSnapshot, key: str, members: Config
) -> None:
    """What would change the host is refused by its key; STATUS refuses it likewise."""
    before = snapshot()
    eth0 = on_host("c1")
    assert key in eth0.call("ADD", config | members).error(INVALID_CONFIG)["msg"]
    assert snapshot() == before
    if key == "ipam":
        assert key in eth0.call("STATUS", config | members).error(NOT_AVAILABLE)["msg"]


DRIFTS: dict[str, tuple[list[list[str]], str]] = {
    "address gone": (
        [["addr", "del", "192.0.2.1/24", "dev", "up0"]],
        "addresses of host interface up0: expected 192.0.2.1/24, found 2001:db8::1/64",
    ),
    "link down": ([["link", "set", "up0", "down"]], "up0: expected up, found down"),
    "link gone": ([["link", "del", "up0"]], "up0: expected a link, found no such link"),
    "another MAC": (
        [["link", "set", "up0", "address", "02:00:00:00:00:01"]],
        "found 02:00:00:00:00:01",
    ),
}


@pytest.mark.parametrize("drift", DRIFTS)
def test_drift(uplink: Netns, on_host: Any, config: Config, drift: str) -> None:
    """CHECK compares the host with what ADD told."""
    commands, words = DRIFTS[drift]
    eth0 = on_host("c1")
    result = eth0.add(config)
    for command in commands:
        HOST.ip(*command)
    assert words in eth0.check(config, result).error(DRIFTED)["msg"]
    eth0.delete(config)
