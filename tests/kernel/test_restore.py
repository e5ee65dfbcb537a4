"""The next ADD after somebody flushed our tables makes all of it again, from the records."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import cni
from tests.cni import Config, Endpoint
from tests.iproute import HOST, Netns, run
from tests.kernel.test_firewall import (
    ADDRESS_IN_USE,
    DRIFTED,
    HOST_ADDRESS,
    OUTSIDE_ADDRESS,
    another_host,
    caller,
    kept_apart,
    mapping,
    numbered,
    published,
    publishing,
    rules,
    serving,
)

MakeEndpoint = Callable[[], Endpoint]

DAMAGES = {
    "ruleset flushed": ["flush ruleset"],
    "tables deleted": ["delete table ip cnm", "delete table ip6 cnm", "delete table bridge cnm"],
    "tables flushed": ["flush table ip cnm", "flush table ip6 cnm", "flush table bridge cnm"],
    "one table deleted": ["delete table ip6 cnm"],
    "base chains flushed": ["flush chain ip cnm published", "flush chain ip6 cnm prerouting"],
    "one base chain deleted": ["delete chain ip cnm raw"],
}


@pytest.fixture
def plugin() -> str:
    """Always the bridge plugin."""
    return "bridge"


@pytest.fixture
def outside(netns: Callable[[], Netns]) -> Netns:
    """Another host."""
    return another_host(netns())


@pytest.fixture
def blue(config: Config) -> Config:
    """A dual-stack network that uses every table."""
    subnets = cni.host_local("10.1.0.0/24", "fd00:1::/64")
    members = {"isDefaultGateway": True, "ipMasq": True, "macspoofchk": True, "ipam": subnets}
    return config | members


def state() -> list[str]:
    """All that nft lists, but for handles and the order."""
    listed = json.loads(run("nft", "-j", "list", "ruleset"))["nftables"]
    found = []
    for entry in listed:
        for kind, each in entry.items():
            if kind != "metainfo":
                each.pop("handle", None)
                each["elem"] = sorted(map(json.dumps, each.get("elem", [])))
                found.append(json.dumps({kind: each}, sort_keys=True))
    return sorted(found)


@pytest.mark.parametrize("damage", DAMAGES)
def test_everything_comes_back(
    endpoint: MakeEndpoint, outside: Netns, blue: Config, damage: str
) -> None:
    """One ADD, on whatever network with rules, restores those of all others and their ports."""
    green = numbered(blue, "green", 2) | {"hostIPv4": HOST_ADDRESS[4]}
    inner = numbered(blue, "inner", 3) | {"internal": True, "ipMasq": False}
    inner = inner | {"isDefaultGateway": False, "isGateway": True}
    attached = [
        (endpoint(), publishing(blue, mapping(8001, 80), mapping(8002, 80, "udp", "127.0.0.1"))),
        (endpoint(), publishing(green, mapping(8003, 80, "tcp"))),
        (endpoint(), green),
        (endpoint(), inner),
    ]
    results = [each.add(config) for each, config in attached]
    before = state()
    for command in DAMAGES[damage]:
        run("nft", command)
    assert state() != before
    last = endpoint()
    last.add(blue)
    last.delete(blue)
    assert state() == before
    for (each, config), result in zip(attached, results, strict=True):
        each.check(config, result).silent()
    with serving(attached[1][0].netns, "tcp", 80) as service:
        assert caller(outside, service, HOST_ADDRESS[4], 8003)
        assert caller(outside, service, HOST_ADDRESS[6], 8003)
    with serving(outside, "tcp", 7000) as service:
        for family in (4, 6):
            seen = caller(attached[2][0].netns, service, OUTSIDE_ADDRESS[family], 7000)
            assert seen == HOST_ADDRESS[family]
    assert kept_apart(outside, attached[3][0].netns, *cni.addresses(results[3]))


OWN = {
    "masquerade flushed": "flush chain ip cnm nat-blue",
    "isolation flushed": "flush chain ip6 cnm to-blue",
    "way from the bridge gone": 'delete element ip cnm forward_from { "blue0" }',
    "network gone": "delete element ip6 cnm networks { fd00:1::/64 }",
}


@pytest.mark.parametrize("damage", OWN)
def test_chains_of_the_network(endpoint: MakeEndpoint, blue: Config, damage: str) -> None:
    """The next ADD on a network repairs what is its own."""
    first, second = endpoint(), endpoint()
    result = first.add(blue)
    before = state()
    run("nft", OWN[damage])
    first.check(blue, result).error(DRIFTED)
    second.add(blue)
    second.delete(blue)
    assert state() == before
    first.check(blue, result).silent()


def test_a_port_is_still_its_holders(endpoint: MakeEndpoint, blue: Config) -> None:
    """The port of a living container comes back before somebody else may take it."""
    config = publishing(blue, mapping(8001, 80))
    holder, late = endpoint(), endpoint()
    result = holder.add(config)
    run("nft", "flush", "ruleset")
    message = late.call("ADD", config).error(ADDRESS_IN_USE)["msg"]
    assert holder.container_id in message
    holder.check(config, result).silent()


def test_a_port_that_went_to_another(endpoint: MakeEndpoint, blue: Config) -> None:
    """What somebody else has by now is left to him; CHECK of the first says who that is."""
    config = publishing(blue, mapping(8001, 80))
    first, second, third = endpoint(), endpoint(), endpoint()
    result = first.add(config)
    for family in ("ip", "ip6"):
        run("nft", "flush", "map", family, "cnm", "ports")
    second.add(config)
    run("nft", "flush", "chain", "ip", "cnm", "output")
    third.add(blue)
    message = first.check(config, result).error(DRIFTED)["msg"]
    assert "port 8001/tcp of the host: expected" in message
    assert second.container_id in message


def test_damaged_and_foreign_records(endpoint: MakeEndpoint, blue: Config) -> None:
    """Records that cannot be read do not keep the others from coming back."""
    config = publishing(blue, mapping(8001, 80))
    first, second = endpoint(), endpoint()
    first.add(config)
    Path("/run/cnm/blue/broken:eth0").write_text("{")
    Path("/run/cnm/stray").write_text("not a directory")
    expected = published()
    run("nft", "flush", "ruleset")
    second.add(blue)
    assert published() == expected


def test_records_of_before(endpoint: MakeEndpoint, blue: Config) -> None:
    """A record that says nothing of policies is one without."""
    first, second = endpoint(), endpoint()
    first.add(publishing(blue, mapping(8001, 80)))
    record = Path("/run/cnm/blue", f"{first.container_id}:eth0")
    fields = json.loads(record.read_text())
    del fields["policy"]
    record.write_text(json.dumps(fields))
    run("nft", "flush", "ruleset")
    second.add(blue)
    assert published() == {"ip tcp . 8001": "10.1.0.2 . 80", "ip6 tcp . 8001": "fd00:1::2 . 80"}


def test_nothing_of_plain_networks(endpoint: MakeEndpoint, blue: Config, config: Config) -> None:
    """Networks without rules get none."""
    plain = config | {"name": "plain", "bridge": "plain0", "ipam": cni.host_local("10.7.0.0/24")}
    endpoint().add(plain)
    first = endpoint()
    first.add(blue)
    expected = rules()
    run("nft", "flush", "ruleset")
    second = endpoint()
    second.add(blue)
    assert rules() == expected
    assert "plain" not in run("nft", "list", "ruleset")
    assert "plain0" in HOST.links()
