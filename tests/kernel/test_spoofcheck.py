"""macspoofchk: a container sends from its own MAC address or not at all."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import cni
from tests.cni import Config, Endpoint
from tests.iproute import run

MakeEndpoint = Callable[[], Endpoint]
FOREIGN = "02:00:00:00:00:77"


@pytest.fixture
def plugin() -> str:
    """Always the bridge plugin."""
    return "bridge"


@pytest.fixture
def checked(config: Config) -> Config:
    """A network whose ports may send from their own MAC address only."""
    return config | {"macspoofchk": True}


def _ruleset() -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(run("nft", "-j", "list", "ruleset"))["nftables"]
    return listed


def _elements() -> int:
    sets = [each["set"] for each in _ruleset() if "set" in each]
    return sum(len(each.get("elem", [])) for each in sets if each["family"] == "bridge")


def test_foreign_source(endpoint: MakeEndpoint, checked: Config) -> None:
    """Frames from another MAC address than the container's own reach nobody."""
    one, other = endpoint(), endpoint()
    address = cni.addresses(one.add(checked))[0].partition("/")[0]
    mac = other.add(checked)["interfaces"][2]["mac"]
    assert other.netns.reaches(address)
    other.netns.ip("link", "set", "eth0", "address", FOREIGN)
    assert not other.netns.reaches(address, seconds=1)
    other.netns.ip("link", "set", "eth0", "address", mac)
    assert other.netns.reaches(address)


def test_elements_come_and_go(endpoint: MakeEndpoint, checked: Config) -> None:
    """Two elements for each endpoint, by one rule; none after DEL and GC."""
    one, other = endpoint(), endpoint()
    one.add(checked)
    rules = sum("rule" in each for each in _ruleset())
    other.add(checked)
    assert _elements() == 4
    assert sum("rule" in each for each in _ruleset()) == rules
    one.delete(checked)
    one.delete(checked)
    assert _elements() == 2
    other.call("GC", cni.collected(checked)).silent()
    assert _elements() == 0


def test_nothing_without_it(endpoint: MakeEndpoint, config: Config) -> None:
    """A network that does not ask for it makes no table."""
    endpoint().add(config)
    assert not [each for each in _ruleset() if "table" in each]


def test_check(endpoint: MakeEndpoint, checked: Config) -> None:
    """CHECK notices that the elements are gone."""
    eth0 = endpoint()
    result = eth0.add(checked)
    eth0.check(checked, result).silent()
    run("nft", "delete", "table", "bridge", "cnm")
    error = eth0.check(checked, result).error()
    assert "source check" in error["msg"]


@pytest.mark.parametrize("name", ["checked", "sources"])
@pytest.mark.parametrize("command", ["DEL", "GC"])
def test_one_element_gone(endpoint: MakeEndpoint, checked: Config, name: str, command: str) -> None:
    """CHECK reports it; DEL, and GC without a record, remove the other one."""
    eth0 = endpoint()
    result = eth0.add(checked)
    run("nft", "flush", "set", "bridge", "cnm", name)
    assert "source check" in eth0.check(checked, result).error()["msg"]
    if command == "GC":
        Path("/run/cnm/blue", f"{eth0.container_id}:eth0").unlink()
    eth0.call(command, cni.collected(checked)).silent()
    assert _elements() == 0


def test_rule_gone(endpoint: MakeEndpoint, checked: Config) -> None:
    """CHECK notices that the rule is gone; the next ADD makes it again, once."""
    eth0, other = endpoint(), endpoint()
    result = eth0.add(checked)
    expected = _ruleset()
    run("nft", "flush", "chain", "bridge", "cnm", "prerouting")
    error = eth0.check(checked, result).error()
    assert "table bridge cnm: expected 1 rule, found 0 rules" in error["msg"]
    other.add(checked)
    other.delete(checked)
    assert sum("rule" in each for each in _ruleset()) == sum("rule" in each for each in expected)
    eth0.check(checked, result).silent()


def test_failed_add_leaves_nothing(endpoint: MakeEndpoint, checked: Config) -> None:
    """An ADD that fails after the check was set up takes it back."""
    route = {"dst": "10.9.0.0/16", "gw": "192.0.2.77"}
    broken = cni.changed(checked, "ipam.routes", [route])
    endpoint().call("ADD", broken).error()
    assert _elements() == 0
