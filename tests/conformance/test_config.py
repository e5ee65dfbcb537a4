"""The configuration on stdin (CNI spec 1.1.0, section 1)."""

from collections.abc import Callable

import pytest

from tests import cni
from tests.cni import (
    DECODING_FAILURE,
    INCOMPATIBLE_VERSION,
    INVALID_CONFIG,
    IO_FAILURE,
    Config,
    Endpoint,
    Outcome,
)

Call = Callable[..., Outcome]

SANDBOX = {"container_id": "c1", "netns": "/run/netns/absent", "ifname": "eth0"}
COMMANDS = ["ADD", "DEL", "CHECK", "GC", "STATUS"]
MACS = [f"02:42:00:00:00:0{number}" for number in (1, 2, 3)]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("text", [b"", b" \n", b"{", b"{}{}", b"nonsense", b"[]", b'"a"', b"\xff"])
def test_not_one_object(call: Call, command: str, text: bytes) -> None:
    """spec: what cannot be decoded is error 6; a configuration is one JSON object."""
    call(command, text, **SANDBOX).error(DECODING_FAILURE)


@pytest.mark.parametrize("command", COMMANDS)
def test_unreadable_stdin(call: Call, command: str) -> None:
    """spec: error 5 where the configuration cannot be read."""
    call(command, stdin_closed=True, **SANDBOX).error(IO_FAILURE)


@pytest.mark.parametrize("value", [None, "", "absent"])
def test_version_left_out(endpoint: Callable[[], Endpoint], config: Config, value: str) -> None:
    """Reference library: without cniVersion a configuration is of version 0.1.0."""
    unversioned = cni.without(config, "cniVersion")
    if value != "absent":
        unversioned |= {"cniVersion": value}
    result = endpoint().add(unversioned)
    assert result["cniVersion"] == "0.1.0"
    assert "ip4" in result


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("unknown", ["9.9.9", "1.2.0", "0.5.0"])
def test_unknown_version(call: Call, config: Config, command: str, unknown: str) -> None:
    """spec: error 1 for a cniVersion that the plugin does not support."""
    call(command, config | {"cniVersion": unknown}, **SANDBOX).error(INCOMPATIBLE_VERSION)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("unknown", ["1.1", "1.0.0 ", "v1.0.0"])
def test_misspelled_version(call: Call, config: Config, command: str, unknown: str) -> None:
    """A cniVersion that is spelled otherwise is one that the plugin does not support."""
    error = call(command, config | {"cniVersion": unknown}, **SANDBOX).error(INCOMPATIBLE_VERSION)
    assert unknown in error["msg"] + error["details"]


def test_unknown_version_tells_the_known_ones(call: Call, config: Config) -> None:
    """Reference library: the details of error 1 have the versions that would do."""
    error = call("ADD", config | {"cniVersion": "9.9.9"}, **SANDBOX).error(INCOMPATIBLE_VERSION)
    assert all(version in error["details"] for version in cni.VERSIONS)


@pytest.mark.parametrize("value", [1, 1.0, [], {}, True])
def test_version_is_a_string(call: Call, config: Config, value: object) -> None:
    """spec: a cniVersion that is not a string cannot be decoded."""
    error = call("ADD", config | {"cniVersion": value}, **SANDBOX).error(DECODING_FAILURE)
    assert "cniVersion" in error["msg"]


@pytest.mark.parametrize(
    ("command", "since"), [("CHECK", "0.4.0"), ("GC", "1.1.0"), ("STATUS", "1.1.0")]
)
def test_commands_came_with_versions(
    endpoint: Callable[[], Endpoint], config: Config, command: str, since: str
) -> None:
    """spec: CHECK came with 0.4.0, GC and STATUS with 1.1.0; before that they are error 1."""
    eth0 = endpoint()
    for version in cni.VERSIONS[: cni.VERSIONS.index(since)]:
        outcome = eth0.call(command, cni.collected(config) | {"cniVersion": version})
        assert command in outcome.error(INCOMPATIBLE_VERSION)["msg"]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("value", [None, "", "absent"])
def test_missing_name(call: Call, config: Config, command: str, value: str | None) -> None:
    """spec: a network has a name; without one the configuration is invalid."""
    nameless = cni.without(config, "name")
    if value != "absent":
        nameless |= {"name": value}
    assert "name" in call(command, nameless, **SANDBOX).error(INVALID_CONFIG)["msg"]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", ["../x", "a b", "-a", ".a", "é", "a/b", "a\n"])
def test_invalid_name(call: Call, config: Config, command: str, name: str) -> None:
    """spec: a network name starts alphanumeric, then has those, underscores, dots and hyphens."""
    error = call(command, config | {"name": name}, **SANDBOX).error(INVALID_CONFIG)
    assert "name" in error["msg"]


@pytest.mark.needs("addresses")
@pytest.mark.parametrize("name", ["a", "7", "A.b_c-1"])
def test_valid_name(endpoint: Callable[[], Endpoint], config: Config, name: str) -> None:
    """spec: one alphanumeric character is a name; others may follow it."""
    eth0 = endpoint()
    eth0.add(config | {"name": name})
    assert cni.leases(name)
    eth0.delete(config | {"name": name})
    assert not cni.leases(name)


@pytest.mark.parametrize(
    "more",
    [
        {"runtimeConfig": {"portMappings": [], "ips": [], "foreign": {"a": 1}}},
        {"args": {"cni": {"labels": [{"key": "a", "value": "b"}]}, "vendor": {"a": 1}}},
        {"cni.dev/something": {"a": [1, 2]}},
        {"capabilities": {"mac": True, "portMappings": True}},
        {"prevResult": None},
        {"vendorKey": "x", "vendor-object": {"deep": [{"a": None}]}},
        {"disableCheck": False, "plugins": []},
    ],
    ids=lambda more: next(iter(more)),
)
def test_tolerated_keys(
    endpoint: Callable[[], Endpoint], call: Call, config: Config, more: Config
) -> None:
    """spec: reserved keys are the runtime's to use; unknown ones need not be an error."""
    eth0 = endpoint()
    extended = config | more
    result = eth0.add(extended)
    eth0.check(extended, result).silent()
    if config["cniVersion"] == cni.NEWEST:
        call("STATUS", extended).silent()
        call("GC", cni.collected(extended, eth0)).silent()
    eth0.delete(extended, result)


@pytest.mark.needs("mac")
@pytest.mark.parametrize(
    ("sources", "expected"),
    [((0,), 0), ((1,), 1), ((2,), 2), ((0, 1), 1), ((1, 2), 2), ((0, 2), 2), ((0, 1, 2), 2)],
)
def test_precedence_of_equivalent_inputs(
    endpoint: Callable[[], Endpoint], config: Config, sources: tuple[int, ...], expected: int
) -> None:
    """Conventions: runtimeConfig wins over args.cni, and that over CNI_ARGS."""
    if 1 in sources:
        config |= {"args": {"cni": {"mac": MACS[1]}}}
    if 2 in sources:
        config |= {"capabilities": {"mac": True}, "runtimeConfig": {"mac": MACS[2]}}
    args = {"args": f"MAC={MACS[0]}"} if 0 in sources else {}
    result = endpoint().add(config, **args)
    assert result["interfaces"][-1]["mac"] == MACS[expected]


@pytest.mark.needs("interface")
def test_well_known_dns(endpoint: Callable[[], Endpoint], config: Config) -> None:
    """spec: `dns` in the configuration are the resolver settings for the container."""
    dns = {
        "nameservers": ["10.1.0.1", "fd00::1"],
        "domain": "x.test",
        "search": ["a.test", "b.test"],
        "options": ["ndots:5"],
    }
    assert endpoint().add(config | {"dns": dns})["dns"] == dns


@pytest.mark.needs("interface")
@pytest.mark.parametrize("ipam", [{}, {"type": ""}, None], ids=str)
def test_without_address_management(
    endpoint: Callable[[], Endpoint], call: Call, config: Config, ipam: object
) -> None:
    """spec: `ipam` is optional; without a type the network has no addresses."""
    eth0 = endpoint()
    layer2 = config | {"ipam": ipam, "isGateway": False}
    result = eth0.add(layer2)
    assert not result.get("ips")
    assert "eth0" in eth0.netns.links()
    eth0.check(layer2, result).silent()
    if config["cniVersion"] == cni.NEWEST:
        call("STATUS", layer2).silent()
        call("GC", cni.collected(layer2, eth0)).silent()
    eth0.delete(layer2, result)


@pytest.mark.needs("delegates")
@pytest.mark.parametrize("name", ["host-local", "host-local-ipam"])
def test_names_of_our_address_management(
    endpoint: Callable[[], Endpoint], config: Config, name: str
) -> None:
    """`ipam.type` host-local is served under both of its names, with no executable needed."""
    eth0 = endpoint()
    named = cni.changed(config, "ipam.type", name)
    assert cni.addresses(eth0.add(named, path="/nonexistent"))
    eth0.delete(named, path="/nonexistent")
