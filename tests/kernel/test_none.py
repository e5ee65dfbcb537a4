"""The none plugin: lo, up, and nothing else."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import cni
from tests.cni import INVALID_CONFIG, INVALID_NETNS, NOT_AVAILABLE, Config, Endpoint
from tests.iproute import HOST, Netns, Snapshot, run

MakeEndpoint = Callable[[], Endpoint]
TakeSnapshot = Callable[..., Snapshot]

INTERFACE_EXISTS = 104
DRIFTED = 105
RECORDS = Path("/run/cnm/alone")


@pytest.fixture
def plugin() -> str:
    """Always the none plugin."""
    return "none"


@pytest.fixture
def config(version: str) -> Config:
    """A network without anything."""
    return {"cniVersion": version, "name": "alone", "type": "none"}


@pytest.fixture
def eth0(endpoint: MakeEndpoint) -> Endpoint:
    """A container-to-be whose lo is down, as the kernel makes it."""
    made = endpoint()
    made.netns.ip("link", "set", "lo", "down")
    return made


def _up(netns: Netns) -> bool:
    return "UP" in netns.link("lo")["flags"]


@pytest.mark.parametrize("version", cni.WITH_INTERFACES)
def test_add(eth0: Endpoint, config: Config, version: str) -> None:
    """ADD sets lo up; the result has it, and no address, since none leads there."""
    result = eth0.add(config)
    assert _up(eth0.netns)
    assert eth0.netns.reaches("127.0.0.1") and eth0.netns.reaches("::1")
    (interface,) = result["interfaces"]
    assert (interface["name"], interface["sandbox"]) == ("lo", eth0.netns.path)
    assert "ips" not in result and "routes" not in result
    assert result["cniVersion"] == version
    assert set(eth0.netns.links()) == {"lo"}


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0"])
def test_old_result(eth0: Endpoint, config: Config, version: str) -> None:
    """Before 0.3.0 a result has addresses and resolver settings only: the latter are left."""
    dns = {"nameservers": ["192.0.2.53"]}
    assert eth0.add(config | {"dns": dns}) == {"cniVersion": version, "dns": dns}
    assert _up(eth0.netns)
    eth0.delete(config)


def test_nothing_but_lo_changes(eth0: Endpoint, config: Config, snapshot: TakeSnapshot) -> None:
    """The host stays as it is; after DEL there is no record. DEL may come again."""
    eth0.netns.ip("link", "set", "lo", "up")
    before = snapshot(eth0.netns)
    result = eth0.add(config)
    assert [path.name for path in RECORDS.glob("*:*")] == [f"{eth0.container_id}:eth0"]
    eth0.check(config, result).silent()
    for _ in range(2):
        eth0.delete(config, result)
    assert snapshot(eth0.netns) == before
    assert _up(eth0.netns)


def test_again(eth0: Endpoint, config: Config) -> None:
    """ADD of the same container gives the same result."""
    assert eth0.add(config) == eth0.add(config)


def _link(netns: Netns) -> None:
    netns.ip("link", "add", "other0", "type", "bridge")


def _connected(netns: Netns) -> None:
    HOST.ip("link", "add", "near", "type", "veth", "peer", "name", "far", "netns", netns.name)
    netns.ip("addr", "add", "10.9.0.2/24", "dev", "far")
    netns.ip("link", "set", "far", "up")
    netns.ip("route", "add", "default", "via", "10.9.0.1")


APPEARANCES: dict[str, tuple[Callable[[Netns], object], list[str]]] = {
    "a link that is down": (_link, ["interfaces: expected lo only, found other0"]),
    "a way out": (
        _connected,
        [
            "interfaces: expected lo only, found far",
            "addresses of far: expected those of lo only, found 10.9.0.2/24",
            "routes of far: expected those of lo only, found 0.0.0.0/0 via 10.9.0.1",
        ],
    ),
    "an address": (
        lambda netns: netns.ip("addr", "add", "192.0.2.7/32", "dev", "lo"),
        ["addresses of lo: expected those of lo only, found 192.0.2.7/32"],
    ),
    "an IPv6 address": (
        lambda netns: netns.ip("addr", "add", "2001:db8::7/128", "dev", "lo"),
        ["addresses of lo: expected those of lo only, found 2001:db8::7/128"],
    ),
    "a route": (
        lambda netns: netns.ip("route", "add", "10.8.0.0/16", "dev", "lo"),
        ["routes of lo: expected those of lo only, found 10.8.0.0/16"],
    ),
    "a route in another table": (
        lambda netns: netns.ip("-6", "route", "add", "default", "dev", "lo", "table", "77"),
        ["routes of lo: expected those of lo only, found ::/0"],
    ),
}


@pytest.mark.parametrize("appearance", APPEARANCES)
def test_what_appears(endpoint: MakeEndpoint, config: Config, appearance: str) -> None:
    """CHECK reports each thing that appeared since, with what was expected; DEL works."""
    change, words = APPEARANCES[appearance]
    eth0 = endpoint()
    result = eth0.add(config)
    change(eth0.netns)
    message = eth0.check(config, result).error(DRIFTED)["msg"]
    assert all(each in message for each in words), message
    eth0.delete(config)
    assert not list(RECORDS.glob("*:*"))


@pytest.mark.parametrize("appearance", APPEARANCES)
def test_what_is_there_already(
    eth0: Endpoint, config: Config, snapshot: TakeSnapshot, appearance: str
) -> None:
    """ADD refuses a sandbox that is not alone, names what is there, and changes nothing."""
    change, words = APPEARANCES[appearance]
    eth0.netns.ip("link", "set", "lo", "up")
    change(eth0.netns)
    before = snapshot(eth0.netns)
    error = eth0.call("ADD", config).error(INTERFACE_EXISTS)
    assert all(each in error["msg"] for each in words), error
    assert eth0.netns.path in error["msg"]
    assert snapshot(eth0.netns) == before


def test_lo_down(eth0: Endpoint, config: Config) -> None:
    """CHECK reports that lo is down."""
    result = eth0.add(config)
    eth0.netns.ip("link", "set", "lo", "down")
    assert "lo: expected up, found down" in eth0.check(config, result).error(DRIFTED)["msg"]


def test_gc(endpoint: MakeEndpoint, config: Config) -> None:
    """GC forgets what is not valid, sandboxes that are gone among it."""
    valid, gone = endpoint(), endpoint()
    result = valid.add(config)
    gone.add(config)
    run("ip", "netns", "delete", gone.netns.name)
    valid.call("GC", cni.collected(config, valid)).silent()
    assert [path.name for path in RECORDS.glob("*:*")] == [f"{valid.container_id}:eth0"]
    valid.check(config, result).silent()


@pytest.mark.parametrize(
    ("key", "members"),
    [
        ("ipam", {"ipam": cni.host_local("10.1.0.0/24")}),
        ("ipam", {"ipam": {"subnet": "10.1.0.0/24"}}),
        (
            "portMappings",
            {"runtimeConfig": {"portMappings": [{"hostPort": 1, "containerPort": 1}]}},
        ),
        ("mac", {"runtimeConfig": {"mac": "02:42:0a:01:00:05"}}),
    ],
)
def test_refused_keys(
    eth0: Endpoint, config: Config, snapshot: TakeSnapshot, key: str, members: Config
) -> None:
    """What such a network cannot give is refused by its key; STATUS refuses it likewise."""
    before = snapshot(eth0.netns)
    assert key in eth0.call("ADD", config | members).error(INVALID_CONFIG)["msg"]
    assert snapshot(eth0.netns) == before
    if key == "ipam":
        assert key in eth0.call("STATUS", config | members).error(NOT_AVAILABLE)["msg"]


def test_status(eth0: Endpoint, config: Config) -> None:
    """STATUS: always ready."""
    eth0.call("STATUS", config).silent()


def test_not_on_the_host(eth0: Endpoint, config: Config) -> None:
    """The host's own namespace is no sandbox."""
    eth0.call("ADD", config, netns=HOST.path).error(INVALID_NETNS)


def test_sandbox_is_gone(eth0: Endpoint, config: Config) -> None:
    """DEL succeeds without netns."""
    eth0.add(config)
    run("ip", "netns", "delete", eth0.netns.name)
    eth0.delete(config)
    assert not list(RECORDS.glob("*:*"))
