"""mtu: auto takes the MTU of the host's uplinks."""

from collections.abc import Callable

import pytest

from tests.cni import PLUGIN_SPECIFIC, Config, Endpoint
from tests.iproute import HOST

MakeEndpoint = Callable[[], Endpoint]
BRIDGE = "blue0"


@pytest.fixture
def plugin() -> str:
    """Always the bridge plugin."""
    return "bridge"


@pytest.fixture
def auto(config: Config) -> Config:
    """A network whose MTU is the uplinks'."""
    return config | {"mtu": "auto"}


def _uplink(number: int, mtu: int, *families: int, metric: int = 0) -> None:
    """A link with that MTU, by which default routes leave."""
    name = f"up{number}"
    HOST.ip("link", "add", name, "mtu", str(mtu), "type", "bridge")
    HOST.ip("addr", "add", f"192.0.2.{number}/32", "dev", name)
    HOST.ip("addr", "add", f"2001:db8:{number}::2/64", "dev", name, "nodad")
    HOST.ip("link", "set", name, "up")
    for family in families:
        to = ["default", "dev", name, "metric", str(metric or number)]
        HOST.ip(f"-{family}", "route", "add", *to)


def _mtus(eth0: Endpoint, result: Config) -> list[int]:
    """The MTUs of bridge, host end and container end."""
    host_end = result["interfaces"][1]["name"]
    links = [HOST.link(BRIDGE), HOST.link(host_end), eth0.netns.link("eth0")]
    return [link["mtu"] for link in links]


@pytest.mark.parametrize(
    ("uplinks", "expected"),
    [
        ([], 1500),
        ([(1, 1400, 4)], 1400),
        ([(1, 9000, 4)], 9000),
        ([(1, 9000, 4), (2, 1450, 4)], 1450),
        ([(1, 1450, 4), (2, 9000, 4)], 1450),
        ([(1, 1400), (2, 1450, 4)], 1450),
        ([(1, 1400), (2, 1450, 6)], 1450),
        ([(1, 1450, 4), (2, 1400, 6)], 1400),
    ],
    ids=str,
)
def test_of_the_uplinks(
    endpoint: MakeEndpoint, auto: Config, uplinks: list[tuple[int, ...]], expected: int
) -> None:
    """It is the smallest of the links with default routes; 1500 without such routes."""
    for number, mtu, *families in uplinks:
        _uplink(number, mtu, *families)
    eth0 = endpoint()
    result = eth0.add(auto)
    assert _mtus(eth0, result) == [expected] * 3
    eth0.check(auto, result).silent()


def test_bridge_that_is_there(endpoint: MakeEndpoint, config: Config, auto: Config) -> None:
    """The pair has it on a bridge that is there, too."""
    _uplink(1, 1400, 4)
    endpoint().add(config | {"mtu": 1450})
    eth0 = endpoint()
    result = eth0.add(auto)
    assert eth0.netns.link("eth0")["mtu"] == 1400
    eth0.check(auto, result).silent()


@pytest.mark.parametrize("version", ["1.1.0", "1.0.0"])
def test_check(endpoint: MakeEndpoint, auto: Config, version: str) -> None:
    """What an uplink gets later is no drift, and what the pair gets is.

    Before 1.1.0 a result does not tell what it had.
    """
    versioned = auto | {"cniVersion": version}
    _uplink(1, 1400, 4)
    eth0 = endpoint()
    result = eth0.add(versioned)
    HOST.ip("link", "set", "up1", "mtu", "1300")
    eth0.check(versioned, result).silent()
    host_end = result["interfaces"][1]["name"]
    HOST.ip("link", "set", host_end, "mtu", "1350")
    outcome = eth0.check(versioned, result)
    if version == "1.1.0":
        assert (
            f"MTU of host end {host_end}: expected 1400, found 1350"
            in outcome.error(PLUGIN_SPECIFIC)["msg"]
        )
    else:
        outcome.silent()
