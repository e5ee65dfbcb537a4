"""Addresses that a configuration or a runtime says, and what is asked of host-local."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import cni
from tests.cni import INVALID_CONFIG, INVALID_ENVIRONMENT, NOT_AVAILABLE, Config, Endpoint
from tests.iproute import Netns

TRY_AGAIN, POOL_EXHAUSTED, ADDRESS_IN_USE = 11, 102, 103

Client = Callable[..., Endpoint]

ADDRESSES = [
    {"address": "10.1.0.5/24", "gateway": "10.1.0.1"},
    {"address": "fd00:1::5/64", "gateway": "fd00:1::1"},
]
ROUTES = [{"dst": "0.0.0.0/0"}, {"dst": "fd08::/48", "gw": "fd00:1::9"}]
DNS = {"nameservers": ["10.1.0.53"], "domain": "a.test", "search": ["b.test"], "options": ["edns0"]}


@pytest.fixture
def client(executable: Callable[[str], Path], cni_bin: Path) -> Client:
    """Makes clients of an IPAM plugin, which does not look into the sandbox."""

    def make(plugin: str, container_id: str) -> Endpoint:
        return Endpoint(executable(plugin), str(cni_bin), container_id, Netns("absent"))

    return make


def network(ipam: Config, **members: Any) -> Config:
    """A network of an IPAM plugin."""
    return {"cniVersion": cni.NEWEST, "name": "blue", "type": "bridge", "ipam": ipam, **members}


def static(*addresses: Config, **members: Any) -> Config:
    """The `ipam` of the static plugin."""
    return {"type": "static", "addresses": list(addresses), **members}


def ask(source: str, *ips: str) -> dict[str, Any]:
    """Members of a configuration, or arguments of a call, by which addresses are asked for."""
    if source == "CNI_ARGS":
        return {"args": f"IP={','.join(ips)}"}
    outer, _, inner = source.partition(".")
    return {"config": {outer: {inner: {"ips": list(ips)}} if inner else {"ips": list(ips)}}}


SOURCES = ["CNI_ARGS", "args.cni", "runtimeConfig"]


# --- static


def test_all_that_is_configured(client: Client) -> None:
    """The result has addresses, gateways, routes and resolver settings as they were given."""
    config = network(static(*ADDRESSES, routes=ROUTES, dns=DNS))
    c1 = client("static", "c1")
    result = c1.add(config)
    assert result["ips"] == ADDRESSES
    assert result["routes"] == ROUTES
    assert result["dns"] == DNS
    c1.check(config, result).silent()
    c1.call("STATUS", config).silent()
    other = cni.changed(config, "ipam.addresses[0].address", "10.1.0.6/24")
    assert "10.1.0.6/24" in c1.check(other, result).error(105)["msg"]
    c1.delete(config)
    c1.delete(config)


@pytest.mark.parametrize("source", SOURCES)
def test_asked_of_static(client: Client, source: str) -> None:
    """Addresses of CNI_ARGS come in addition to the configured ones, others in their place."""
    asked = ask(source, "10.1.0.9/24", "fd00:1::9/64")
    config = network(static(*ADDRESSES)) | asked.pop("config", {})
    found = client("static", "c1").add(config, **asked)["ips"]
    wanted = [{"address": "10.1.0.9/24"}, {"address": "fd00:1::9/64"}]
    assert found == ([*ADDRESSES, *wanted] if source == "CNI_ARGS" else wanted)
    assert client("static", "c2").add(config | {"ipam": static()}, **asked)["ips"] == wanted


def test_gateways_by_the_environment(client: Client) -> None:
    """GATEWAY goes to the addresses of its network; elsewhere it is refused by its value."""
    c1, config = client("static", "c1"), network(static())
    ips = c1.add(config, args="IP=10.1.0.9/24,fd00:1::9/64;GATEWAY=10.1.0.254,fd00:1::fe")["ips"]
    assert [ip["gateway"] for ip in ips] == ["10.1.0.254", "fd00:1::fe"]
    for gateway in ("10.2.0.1", "x"):
        outcome = c1.call("ADD", config, args=f"IP=10.1.0.9/24;GATEWAY={gateway}")
        message = outcome.error(INVALID_ENVIRONMENT)["msg"]
        assert "GATEWAY" in message and gateway in message


@pytest.mark.parametrize(
    ("ipam", "words"),
    [
        (static(), ["ipam.addresses", "missing"]),
        (static({"address": "10.1.0.5"}), ["ipam.addresses[0].address", "10.1.0.5"]),
        (static({"address": "x"}), ["ipam.addresses[0].address", '"x"']),
        (static({"address": 5}), ["ipam.addresses[0].address", "5"]),
        (static({}), ["ipam.addresses[0].address", "missing"]),
        (static(*ADDRESSES, ADDRESSES[0]), ["ipam.addresses", "10.1.0.5/24", "twice"]),
        (
            static({"address": "10.1.0.5/24", "gateway": "fd00::1"}),
            ["ipam.addresses[0].gateway", "fd00::1"],
        ),
        (static(*ADDRESSES, routes=[{"dst": "x"}]), ["ipam.routes[0].dst", '"x"']),
        (static(*ADDRESSES, dns={"nameservers": ["x"]}), ["ipam.dns.nameservers[0]", '"x"']),
    ],
)
def test_static_refused(client: Client, ipam: Config, words: list[str]) -> None:
    """An error names key and value."""
    message = client("static", "c1").call("ADD", network(ipam)).error(INVALID_CONFIG)["msg"]
    assert all(word in message for word in words), message


def test_static_without_prefix(client: Client) -> None:
    """An address that is asked for needs a prefix length where there is no pool to know it."""
    outcome = client("static", "c1").call("ADD", network(static()), args="IP=10.1.0.9")
    assert '"10.1.0.9"' in outcome.error(INVALID_CONFIG)["msg"]


def test_many_addresses_and_routes(endpoint: Callable[[], Endpoint], config: Config) -> None:
    """More than the kernel could answer at once."""
    addresses = [{"address": f"10.{number // 250}.{number % 250}.1/32"} for number in range(400)]
    routes = [{"dst": f"11.{number // 250}.{number % 250}.0/24"} for number in range(600)]
    many = {
        **config,
        "ipMasq": False,
        "isGateway": False,
        "ipam": static(*addresses, routes=routes),
    }
    one = endpoint()
    result = one.add(many)
    assert set(one.netns.addresses("eth0")) == {each["address"] for each in addresses}
    assert len(one.netns.routes(4)) == len(routes)
    one.check(many, result).silent()
    one.delete(many)
    assert set(one.netns.links()) == {"lo"}


def test_static_on_a_bridge(endpoint: Callable[[], Endpoint], config: Config) -> None:
    """Our bridge has the driver in itself; two containers reach each other."""
    one, other = endpoint(), endpoint()
    first = config | {"ipam": static(*ADDRESSES, routes=ROUTES, dns=DNS)}
    second = config | {"ipam": static(), "runtimeConfig": {"ips": ["10.1.0.6/24"]}}
    result = one.add(first)
    assert result["dns"] == DNS
    assert one.netns.addresses("eth0") == ["10.1.0.5/24", "fd00:1::5/64"]
    assert cni.addresses(other.add(second)) == ["10.1.0.6"]
    assert one.netns.reaches("10.1.0.6")
    one.check(first, result).silent()
    one.delete(first)
    other.delete(second)


# --- asked of host-local


def pool(*subnets: str, **members: Any) -> Config:
    """A network of host-local."""
    return network(cni.host_local(*(subnets or ("10.1.0.0/24", "fd00:1::/64")), **members))


@pytest.mark.parametrize("source", SOURCES)
def test_asked_of_host_local(client: Client, source: str) -> None:
    """Each set gives what was asked of it, or else its next; the prefix is the subnet's."""
    c1, c2, c3 = (client("host-local", f"c{number}") for number in (1, 2, 3))
    for each, ips, expected in (
        (c1, ["10.1.0.9"], ["10.1.0.9/24", "fd00:1::2/64"]),
        (c2, ["fd00:1::9/64", "10.1.0.8/16"], ["10.1.0.8/24", "fd00:1::9/64"]),
    ):
        asked = ask(source, *ips)
        result = each.add(pool() | asked.pop("config", {}), **asked)
        assert [ip["address"] for ip in result["ips"]] == expected
        each.check(pool(), result).silent()
    asked = ask(source, "10.1.0.9")
    outcome = c3.call("ADD", pool() | asked.pop("config", {}), **asked)
    message = outcome.error(ADDRESS_IN_USE)["msg"]
    assert source in message and "10.1.0.9" in message and "c1:eth0" in message
    assert ("c3", "eth0") not in cni.leases().values()
    assert cni.addresses(c3.add(pool())) == ["10.1.0.2", "fd00:1::3"]


def test_the_strongest_is_heard(client: Client) -> None:
    """runtimeConfig before args.cni, and that before CNI_ARGS."""
    by_args = pool() | {"args": {"cni": {"ips": ["10.1.0.8"]}}}
    by_runtime = by_args | {"runtimeConfig": {"ips": ["10.1.0.7"]}}
    for number, (config, address) in enumerate(
        [(by_runtime, "10.1.0.7"), (by_args, "10.1.0.8"), (pool(), "10.1.0.9")]
    ):
        result = client("host-local", f"c{number}").add(config, args="IP=10.1.0.9")
        assert cni.addresses(result)[0] == address


@pytest.mark.parametrize(
    ("ip", "words"),
    [
        ("10.2.0.1", ["10.2.0.1", "no range", "blue"]),
        ("fd09::1", ["fd09::1", "no range"]),
        ("10.1.0.0", ["10.1.0.0", "no range"]),
        ("10.1.0.255", ["10.1.0.255", "no range"]),
        ("10.1.0.1", ["10.1.0.1", "the gateway"]),
        ("10.1.0.25", ["10.1.0.25", "excluded by 10.1.0.20-10.1.0.30"]),
        ("10.1.0.40", ["10.1.0.40", 'the auxiliary address "router"']),
    ],
)
def test_not_given(client: Client, ip: str, words: list[str]) -> None:
    """What is outside of the ranges, or reserved, is refused with the reason."""
    reserved = {"exclude": ["10.1.0.20-10.1.0.30"], "auxAddresses": {"router": "10.1.0.40"}}
    config = network({"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24", **reserved}]]})
    outcome = client("host-local", "c1").call("ADD", config, args=f"IP={ip}")
    message = outcome.error(INVALID_CONFIG)["msg"]
    assert all(word in message for word in ("CNI_ARGS", *words)), message
    assert not cni.leases()


@pytest.mark.parametrize("ip", ["10.1.0.300", "x", "10.1.0.9/33", "fe80::1%eth0", "10.1.0.9,"])
def test_malformed_in_the_environment(client: Client, ip: str) -> None:
    """IP= that is no address is an error of the environment that has it."""
    outcome = client("host-local", "c1").call("ADD", pool(), args=f"IP={ip}")
    message = outcome.error(INVALID_ENVIRONMENT)["msg"]
    assert "CNI_ARGS" in message and ip.rpartition(",")[2] in message


# --- ranges of the runtime, order, rests


def test_ranges_of_the_runtime(client: Client) -> None:
    """Its sets come before those of the configuration, which may have none."""
    ranges = [[{"subnet": "10.5.0.0/24", "exclude": ["10.5.0.2"]}], [{"subnet": "fd05::/64"}]]
    runtime = {"runtimeConfig": {"ipRanges": ranges}}
    first = client("host-local", "c1").add(network({"type": "host-local"}) | runtime)
    assert cni.addresses(first) == ["10.5.0.3", "fd05::2"]
    second = client("host-local", "c2").add(pool("10.1.0.0/24") | runtime)
    assert cni.addresses(second) == ["10.5.0.4", "fd05::3", "10.1.0.2"]


def test_first_fit(client: Client) -> None:
    """The lowest address that is free, unlike next-fit."""
    for allocation, expected in (("first-fit", "10.1.0.2"), ("next-fit", "10.1.0.3")):
        config = pool("10.1.0.0/24", allocation=allocation) | {"name": allocation}
        c1 = client("host-local", "c1")
        c1.add(config)
        c1.delete(config)
        assert cni.addresses(c1.add(config)) == [expected]


def test_quarantine(client: Client) -> None:
    """An address rests after its release: not given by itself, but to who asks for it."""
    config = pool("10.1.0.0/30", quarantineSeconds=3600)
    c1, c2 = client("host-local", "c1"), client("host-local", "c2")
    c1.add(config)
    c1.delete(config)
    error = c2.call("ADD", config).error(TRY_AGAIN)
    assert "10.1.0.2, is free in " in error["msg"]
    assert "quarantineSeconds is 3600" in error["details"]
    assert "10.1.0.2" in c2.call("STATUS", config).error(NOT_AVAILABLE)["msg"]
    assert not cni.leases()
    assert cni.addresses(c2.add(config, args="IP=10.1.0.2")) == ["10.1.0.2"]
    c1.call("ADD", config).error(POOL_EXHAUSTED)
    c2.delete(config)
    c1.call("ADD", config).error(TRY_AGAIN)
    assert cni.addresses(c1.add(pool("10.1.0.0/30"))) == ["10.1.0.2"]


def test_quarantine_after_gc(client: Client) -> None:
    """What GC frees rests as well."""
    config = pool("10.1.0.0/30", quarantineSeconds=3600)
    c1 = client("host-local", "c1")
    c1.add(config)
    c1.call("GC", cni.collected(config)).silent()
    assert not cni.leases()
    c1.call("ADD", config).error(TRY_AGAIN)
