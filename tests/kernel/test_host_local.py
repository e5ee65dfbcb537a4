"""host-local: its files, the order of its addresses, and its life beside the Go plugin."""

import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests import cni
from tests.cni import INVALID_CONFIG, NOT_AVAILABLE, PLUGIN_SPECIFIC, Config, Endpoint
from tests.iproute import Netns, Snapshot

GO_PLUGINS = Path("/usr/lib/cni")
GO_VERSION = "1.0.0"  # the newest that Debian's plugins know
DIRECTORY = cni.LEASES / "blue"
SUBNET = "10.1.0.0/24"

Client = Callable[..., Endpoint]


@pytest.fixture(params=["host-local", "host-local-ipam"])
def either_name(request: pytest.FixtureRequest) -> str:
    """Both names of the executable."""
    name: str = request.param
    return name


@pytest.fixture
def ours(executable: Callable[[str], Path], cni_bin: Path) -> Client:
    """Makes clients of our plugin; an IPAM plugin does not look into the sandbox."""

    def client(container_id: str, name: str = "host-local-ipam") -> Endpoint:
        return Endpoint(executable(name), str(cni_bin), container_id, Netns("absent"))

    return client


@pytest.fixture
def theirs(node: None) -> Client:
    """Makes clients of the Go plugin."""

    def client(container_id: str) -> Endpoint:
        return Endpoint(_go("host-local"), str(GO_PLUGINS), container_id, Netns("absent"))

    return client


def _go(name: str) -> Path:
    path = GO_PLUGINS / name
    if not path.exists():
        pytest.fail(f"{path} is missing: install containernetworking-plugins")
    return path


def pool(*ranges: Any, version: str = GO_VERSION, **members: Any) -> Config:
    """The configuration of a network with one range set for each argument.

    A range set is a subnet, or a list of ranges.
    """
    sets = [[{"subnet": each}] if isinstance(each, str) else each for each in ranges or (SUBNET,)]
    ipam = {"type": "host-local", "ranges": sets, **members}
    return {"cniVersion": version, "name": "blue", "type": "bridge", "ipam": ipam}


def span(start: str, end: str, subnet: str = SUBNET, **members: str) -> Config:
    """A range of a subnet."""
    return {"subnet": subnet, "rangeStart": start, "rangeEnd": end, **members}


def given(endpoint: Endpoint, config: Config) -> str:
    """The one address that an ADD gave."""
    (address,) = cni.addresses(endpoint.add(config))
    return address


# --- the files


def test_address_file(ours: Client, either_name: str) -> None:
    """A file named after the address has container ID and interface name."""
    address = given(ours("c1", either_name), pool())
    assert (DIRECTORY / address).read_bytes() == b"c1\r\neth0"
    assert (DIRECTORY / "last_reserved_ip.0").read_bytes() == address.encode()


def test_files_of_several_sets(ours: Client) -> None:
    """Each range set has a search position of its own."""
    ours("c1").add(pool(SUBNET, "fd00:1::/64"))
    assert cni.leases() == {"10.1.0.2": ("c1", "eth0"), "fd00:1::2": ("c1", "eth0")}
    assert (DIRECTORY / "last_reserved_ip.0").read_text() == "10.1.0.2"
    assert (DIRECTORY / "last_reserved_ip.1").read_text() == "fd00:1::2"


def test_data_dir(ours: Client, tmp_path: Path) -> None:
    """dataDir moves the files."""
    moved = pool(dataDir=str(tmp_path / "deep" / "down"))
    c1 = ours("c1")
    c1.add(moved)
    assert cni.leases("blue", tmp_path / "deep" / "down") == {"10.1.0.2": ("c1", "eth0")}
    assert not DIRECTORY.exists()
    c1.delete(moved)
    assert not cni.leases("blue", tmp_path / "deep" / "down")


def test_networks_share_a_data_dir(ours: Client) -> None:
    """Networks of one dataDir know nothing of each other."""
    green = pool() | {"name": "green"}
    c1 = ours("c1")
    assert given(c1, pool()) == given(c1, green)
    c1.delete(green)
    assert cni.leases() == {"10.1.0.2": ("c1", "eth0")}


# --- which address is next


def test_next_fit(ours: Client) -> None:
    """The search goes on after the address that was given last, and comes round."""
    config = pool([span("10.1.0.2", "10.1.0.5")])
    assert [given(ours(f"c{n}"), config) for n in range(3)] == ["10.1.0.2", "10.1.0.3", "10.1.0.4"]
    ours("c0").delete(config)
    assert given(ours("c3"), config) == "10.1.0.5"
    assert given(ours("c4"), config) == "10.1.0.2"


def test_exhaustion(ours: Client) -> None:
    """A full pool is an error that has the range; any address that becomes free will do."""
    config = pool([span("10.1.0.2", "10.1.0.4")])
    for number in range(3):
        ours(f"c{number}").add(config)
    error = ours("c9").call("ADD", config).error(PLUGIN_SPECIFIC)
    assert "10.1.0.2" in error["msg"]
    assert "10.1.0.4" in error["msg"]
    ours("c1").delete(config)
    assert given(ours("c9"), config) == "10.1.0.3"


def test_exhaustion_of_one_set(ours: Client) -> None:
    """Where one of several sets is full nothing is taken from the others."""
    config = pool([span("10.1.0.2", "10.1.0.2")], "fd00:1::/64")
    ours("c1").add(config)
    before = cni.leases()
    ours("c2").call("ADD", config).error(PLUGIN_SPECIFIC)
    assert cni.leases() == before


def test_ranges_of_a_set(ours: Client) -> None:
    """A set's ranges are used one after the other."""
    config = pool([span("10.1.0.2", "10.1.0.3"), span("10.2.0.8", "10.2.0.9", "10.2.0.0/24")])
    results = [ours(f"c{number}").add(config)["ips"][0] for number in range(4)]
    assert [each["address"] for each in results] == [
        "10.1.0.2/24",
        "10.1.0.3/24",
        "10.2.0.8/24",
        "10.2.0.9/24",
    ]
    assert [each["gateway"] for each in results] == ["10.1.0.1"] * 2 + ["10.2.0.1"] * 2


def test_several_sets(ours: Client) -> None:
    """One address out of each set, in their order."""
    config = pool(SUBNET, "fd00:1::/64", "10.2.0.0/16")
    result = ours("c1").add(config)
    assert result["ips"] == [
        {"address": "10.1.0.2/24", "gateway": "10.1.0.1"},
        {"address": "fd00:1::2/64", "gateway": "fd00:1::1"},
        {"address": "10.2.0.2/16", "gateway": "10.2.0.1"},
    ]
    ours("c1").delete(config)
    assert not cni.leases()


def test_subnet_beside_ranges(ours: Client) -> None:
    """subnet with rangeStart, rangeEnd and gateway is the first set."""
    first = span("10.5.0.7", "10.5.0.9", "10.5.0.0/16", gateway="10.5.0.99")
    assert ours("c1").add(pool("fd00:1::/64", **first))["ips"] == [
        {"address": "10.5.0.7/16", "gateway": "10.5.0.99"},
        {"address": "fd00:1::2/64", "gateway": "fd00:1::1"},
    ]


def test_the_gateway_is_not_given(ours: Client) -> None:
    """The gateway is left out wherever in the range it is."""
    config = pool([span("10.1.0.2", "10.1.0.5", gateway="10.1.0.3")])
    assert [given(ours(f"c{n}"), config) for n in range(3)] == ["10.1.0.2", "10.1.0.4", "10.1.0.5"]
    ours("c9").call("ADD", config).error(PLUGIN_SPECIFIC)


@pytest.mark.parametrize(
    ("subnet", "addresses"),
    [
        ("10.1.0.0/30", ["10.1.0.2"]),
        ("10.1.0.0/29", [f"10.1.0.{n}" for n in range(2, 7)]),
        ("fd00:1::/126", ["fd00:1::2", "fd00:1::3"]),
    ],
)
def test_whole_subnets(ours: Client, subnet: str, addresses: list[str]) -> None:
    """All of a subnet is given but network, gateway and IPv4's broadcast address."""
    config = pool(subnet)
    assert [given(ours(f"c{n}"), config) for n in range(len(addresses))] == addresses
    ours("c9").call("ADD", config).error(PLUGIN_SPECIFIC)


@pytest.mark.parametrize(
    ("subnet", "start", "expected"),
    [
        ("10.0.0.0/8", "10.1.255.255", ["10.1.255.255", "10.2.0.0", "10.2.0.1"]),
        (
            "fd00::/16",
            "fd00:1:2:3:0:ffff:ffff:ffff",
            ["fd00:1:2:3:0:ffff:ffff:ffff", "fd00:1:2:3:1::"],
        ),
    ],
)
def test_large_subnets(ours: Client, subnet: str, start: str, expected: list[str]) -> None:
    """The size of a subnet does not matter."""
    config = pool([{"subnet": subnet, "rangeStart": start}])
    assert [given(ours(f"c{n}"), config) for n in range(len(expected))] == expected


def test_ranges_that_changed(ours: Client) -> None:
    """A search position outside the ranges is no obstacle; old addresses are released."""
    ours("c1").add(pool())
    moved = pool("10.9.0.0/24")
    assert given(ours("c2"), moved) == "10.9.0.2"
    ours("c1").delete(moved)
    assert cni.leases() == {"10.9.0.2": ("c2", "eth0")}


# --- owners


def test_no_second_address(ours: Client) -> None:
    """An attachment that has an address gets no other."""
    c1 = ours("c1")
    address = given(c1, pool())
    before = cni.leases()
    error = c1.call("ADD", pool()).error(PLUGIN_SPECIFIC)
    assert address in error["msg"]
    assert "c1" in error["msg"]
    assert cni.leases() == before


def test_interfaces_of_one_container(ours: Client) -> None:
    """Another interface of the same container gets an address of its own."""
    c1 = ours("c1")
    first, second = given(c1, pool()), given(c1.other("net1"), pool())
    assert first != second
    c1.delete(pool())
    assert cni.leases() == {second: ("c1", "net1")}


def test_delete(ours: Client, either_name: str) -> None:
    """DEL frees the address, and succeeds again and again."""
    c1 = ours("c1", either_name)
    c1.add(pool())
    ours("c2").add(pool())
    for _ in range(3):
        c1.delete(pool())
        assert cni.leases() == {"10.1.0.3": ("c2", "eth0")}


@pytest.mark.parametrize(
    "ipam",
    [
        {"type": "host-local"},
        {"type": "host-local", "ranges": "x"},
        {"type": "host-local", "ranges": [[{"subnet": "x"}]], "routes": 5},
        {},
        None,
    ],
    ids=str,
)
def test_delete_with_invalid_configuration(ours: Client, ipam: Any) -> None:
    """DEL needs no valid ranges."""
    c1 = ours("c1")
    c1.add(pool())
    c1.delete(pool() | {"ipam": ipam})
    assert not cni.leases()


def test_delete_by_an_old_file(ours: Client) -> None:
    """A file that names no interface belongs to all of its container."""
    DIRECTORY.mkdir(parents=True)
    (DIRECTORY / "10.1.0.2").write_text("c1")
    (DIRECTORY / "10.1.0.3").write_text("c10")
    ours("c1").delete(pool())
    assert cni.leases() == {"10.1.0.3": ("c10", "")}


def test_check(ours: Client) -> None:
    """CHECK compares prevResult with the files."""
    config = pool(version=cni.NEWEST)
    c1 = ours("c1")
    result = c1.add(config)
    c1.check(config, result).silent()
    c1.call("CHECK", config).error(INVALID_CONFIG)
    ours("c2").check(config, result).error(PLUGIN_SPECIFIC)
    (DIRECTORY / "10.1.0.2").unlink()
    assert "10.1.0.2" in c1.check(config, result).error(PLUGIN_SPECIFIC)["msg"]


def test_gc(ours: Client) -> None:
    """GC frees what has no valid owner, and leaves other files alone."""
    config = pool(version=cni.NEWEST)
    valid = ours("c1")
    valid.add(config)
    ours("c2").add(config)
    valid.other("net1").add(config)
    valid.call("GC", cni.collected(config, valid)).silent()
    assert cni.leases() == {"10.1.0.2": ("c1", "eth0")}
    assert (DIRECTORY / "last_reserved_ip.0").read_text() == "10.1.0.4"
    assert (DIRECTORY / "lock").exists()


def test_status(ours: Client) -> None:
    """STATUS is an error while a set is full."""
    config = pool([span("10.1.0.2", "10.1.0.2")], version=cni.NEWEST)
    c1 = ours("c1")
    c1.call("STATUS", config).silent()
    c1.add(config)
    c1.call("STATUS", config).error(NOT_AVAILABLE)


# --- the rest of a result


def test_routes(ours: Client) -> None:
    """Routes are passed on, in their normal form."""
    routes = [
        {"dst": "0.0.0.0/0"},
        {"dst": "fd08::/48", "gw": "fd00:1::9"},
        {
            "dst": "10.8.0.0/16",
            "mtu": 1400,
            "advmss": 1300,
            "priority": 7,
            "table": 9,
            "scope": 253,
        },
    ]
    assert ours("c1").add(pool(version=cni.NEWEST, routes=routes))["routes"] == routes


@pytest.mark.parametrize(
    ("text", "dns"),
    [
        ("nameserver 10.1.0.53\n", {"nameservers": ["10.1.0.53"]}),
        (
            "domain a.test\nsearch b.test c.test",
            {"domain": "a.test", "search": ["b.test", "c.test"]},
        ),
        ("options ndots:5 \t edns0\n", {"options": ["ndots:5", "edns0"]}),
        ("# nameserver 1.1.1.1\n; search x\n\nnonsense\nnameserver\n", {}),
    ],
)
def test_resolv_conf(ours: Client, tmp_path: Path, text: str, dns: Config) -> None:
    """resolvConf becomes the result's dns."""
    path = tmp_path / "resolv.conf"
    path.write_text(text)
    assert ours("c1").add(pool(resolvConf=str(path))).get("dns", {}) == dns


def test_linked_resolv_conf(ours: Client, tmp_path: Path) -> None:
    """resolvConf may be a link, as systemd-resolved has it."""
    (tmp_path / "stub").write_text("nameserver 10.1.0.53\n")
    (tmp_path / "resolv.conf").symlink_to("stub")
    config = pool(resolvConf=str(tmp_path / "resolv.conf"))
    assert ours("c1").add(config)["dns"] == {"nameservers": ["10.1.0.53"]}


def test_missing_resolv_conf(ours: Client) -> None:
    """A resolvConf that is not there is an error that has its path; nothing is taken."""
    config = pool(resolvConf="/nonexistent/resolv.conf")
    error = ours("c1").call("ADD", config).error(INVALID_CONFIG)
    assert "/nonexistent/resolv.conf" in error["msg"]
    assert not cni.leases()


# --- state that somebody else made


@pytest.mark.parametrize("content", ["", "\r\n", "c1\r", " ", "\x00\x01", "a b\r\neth0"])
def test_files_that_name_nobody(ours: Client, content: str) -> None:
    """An address whose file makes no sense is in use, until GC."""
    DIRECTORY.mkdir(parents=True)
    (DIRECTORY / "10.1.0.2").write_text(content)
    config = pool([span("10.1.0.2", "10.1.0.3")], version=cni.NEWEST)
    c9 = ours("c9")
    assert given(c9, config) == "10.1.0.3"
    ours("c8").call("ADD", config).error(PLUGIN_SPECIFIC)
    c9.call("GC", cni.collected(config, c9)).silent()
    assert given(ours("c8"), config) == "10.1.0.2"


def test_files_that_come_and_go(ours: Client) -> None:
    """The files are the truth, whoever changed them and however often."""
    config = pool([span("10.1.0.2", "10.1.0.4")])
    assert given(ours("c1"), config) == "10.1.0.2"
    (DIRECTORY / "10.1.0.3").write_text("foreign\r\neth0")
    assert given(ours("c2"), config) == "10.1.0.4"
    (DIRECTORY / "10.1.0.2").unlink()
    assert given(ours("c3"), config) == "10.1.0.2"
    (DIRECTORY / "10.1.0.3").unlink()
    (DIRECTORY / "10.1.0.3").write_text("c4\r\neth0")
    ours("c4").call("ADD", config).error(PLUGIN_SPECIFIC)
    ours("c4").delete(config)
    assert given(ours("c4"), config) == "10.1.0.3"


def test_the_whole_directory_lost(ours: Client) -> None:
    """Whatever else is kept beside the files, without them everything is free."""
    config = pool([span("10.1.0.2", "10.1.0.2")])
    ours("c1").add(config)
    for file in DIRECTORY.iterdir():
        file.unlink()
    DIRECTORY.rmdir()
    ours("c1").delete(config)
    assert given(ours("c2"), config) == "10.1.0.2"


def test_addresses_in_unusual_spelling(ours: Client) -> None:
    """IPv6 addresses are noted in their canonical form."""
    config = pool([span("FD00:1:0:0::A", "fd00:1::000B", "fd00:1:0::/64")])
    assert [given(ours(f"c{n}"), config) for n in range(2)] == ["fd00:1::a", "fd00:1::b"]
    assert list(cni.leases()) == ["fd00:1::a", "fd00:1::b"]


def test_many_at_once(ours: Client) -> None:
    """ADDs at the same time get different addresses, and none is lost."""
    config = pool(SUBNET, "fd00:1::/64")
    clients = [ours(f"c{number}") for number in range(40)]
    with ThreadPoolExecutor(20) as threads:
        results = list(threads.map(lambda client: client.add(config), clients))
    addresses = [address for result in results for address in cni.addresses(result)]
    assert len(set(addresses)) == 80
    assert sorted(cni.leases()) == sorted(addresses)
    with ThreadPoolExecutor(20) as threads:
        list(threads.map(lambda client: client.delete(config), clients))
    assert not cni.leases()


def test_an_index_of_the_same_moment(ours: Client) -> None:
    """An index made when the files were, and never filled, is not taken for theirs."""
    ours("c1").add(pool())
    (index,) = cni.LEASES.glob(".*/blue")
    for part in index.iterdir():
        shutil.rmtree(part)
    now = time.time_ns()
    for directory in (DIRECTORY, index):
        os.utime(directory, ns=(now, now))
    assert given(ours("c2"), pool()) == "10.1.0.3"
    ours("c1").delete(pool())
    assert cni.leases() == {"10.1.0.3": ("c2", "eth0")}


@pytest.mark.parametrize("milliseconds", range(1, 13))
def test_killed_at_first_use(ours: Client, milliseconds: int) -> None:
    """A kill at any moment, also before there was anything, loses no address."""
    for number in range(5):
        config = pool([span("10.1.0.2", "10.1.0.2")]) | {"name": f"blue{number}"}
        ours("c1").kill("ADD", config, milliseconds / 1000)
        ours("c1").delete(config)
        assert not cni.leases(config["name"])
        assert given(ours("c2"), config) == "10.1.0.2"


@pytest.mark.parametrize("milliseconds", range(1, 13))
def test_killed_in_use(ours: Client, milliseconds: int) -> None:
    """A kill at any moment, of ADD or DEL, harms nobody else."""
    config = pool([span("10.1.0.2", "10.1.0.4")])
    ours("c1").add(config)
    for command in ("ADD", "DEL", "ADD"):
        ours("c2").kill(command, config, milliseconds / 1000)
    ours("c2").delete(config)
    assert cni.leases() == {"10.1.0.2": ("c1", "eth0")}
    addresses = {given(ours(f"d{number}"), config) for number in range(2)}
    assert addresses == {"10.1.0.3", "10.1.0.4"}


# --- beside the Go plugin


def test_files_are_those_of_the_go_plugin(ours: Client, theirs: Client) -> None:
    """Both plugins write the same files."""
    config = pool(SUBNET, "fd00:1::/64")
    found = []
    for client in (ours, theirs):
        client("c1").add(config)
        names = ("10.1.0.2", "fd00:1::2", "last_reserved_ip.0", "last_reserved_ip.1")
        found.append({name: (DIRECTORY / name).read_bytes() for name in names})
        client("c1").delete(config)
        for file in DIRECTORY.iterdir():
            file.unlink()
    assert found[0] == found[1]


def test_results_are_those_of_the_go_plugin(ours: Client, theirs: Client, tmp_path: Path) -> None:
    """Both plugins answer the same."""
    config = pool(
        [span("10.1.0.7", "10.1.0.9", gateway="10.1.0.99")],
        "fd00:1::/64",
        routes=[{"dst": "0.0.0.0/0"}, {"dst": "10.8.0.0/16", "gw": "10.1.0.5"}],
    )
    results = []
    for number, client in enumerate((ours, theirs)):
        config["ipam"]["dataDir"] = str(tmp_path / str(number))
        result = client("c1").add(config)
        results.append(result | {"dns": result.get("dns", {})})
    assert results[0] == results[1]


@pytest.mark.parametrize("order", ["ours first", "theirs first"])
def test_taking_turns(ours: Client, theirs: Client, order: str) -> None:
    """Each deletes what the other added, and gives no address that the other gave."""
    config = pool()
    one, other = (ours, theirs) if order == "ours first" else (theirs, ours)
    addresses = [given((one, other)[n % 2](f"c{n}"), config) for n in range(6)]
    assert addresses == [f"10.1.0.{n + 2}" for n in range(6)]
    other("c0").delete(config)
    one("c1").delete(config)
    assert sorted(cni.leases()) == addresses[2:]
    more = [given(client(f"d{n}"), config) for n, client in enumerate((one, other))]
    assert not set(more) & set(addresses)
    for number in range(2, 6):
        (one, other)[(number + 1) % 2](f"c{number}").delete(config)
    assert sorted(cni.leases()) == more


def test_neither_gives_an_address_twice(ours: Client, theirs: Client) -> None:
    """In a small pool with much coming and going every address has one owner."""
    config = pool("10.1.0.0/28")
    owners: dict[str, str] = {}
    for number in range(40):
        client = (ours, theirs, ours)[number % 3]
        if len(owners) == 13:
            address, owner = next(iter(owners.items()))
            (theirs, ours, ours)[number % 3](owner).delete(config)
            del owners[address]
        address = given(client(f"c{number}"), config)
        assert address not in owners
        owners[address] = f"c{number}"
        assert cni.leases() == {ip: (owner, "eth0") for ip, owner in sorted(owners.items())}


def test_both_at_once(ours: Client, theirs: Client) -> None:
    """Both work on one directory at the same time."""
    config = pool()
    clients = [(ours, theirs)[number % 2](f"c{number}") for number in range(30)]
    with ThreadPoolExecutor(10) as threads:
        addresses = list(threads.map(lambda client: given(client, config), clients))
    assert len(set(addresses)) == 30
    assert sorted(cni.leases()) == sorted(addresses)


def test_a_duplicate_of_the_go_plugins(ours: Client, theirs: Client) -> None:
    """An attachment to which the Go plugin gave an address gets no other from ours."""
    theirs("c1").add(pool())
    ours("c1").call("ADD", pool()).error(PLUGIN_SPECIFIC)
    assert cni.leases() == {"10.1.0.2": ("c1", "eth0")}


def test_gc_of_the_go_plugins_addresses(ours: Client, theirs: Client) -> None:
    """What the Go plugin gave is collected like our own."""
    for number in range(3):
        theirs(f"c{number}").add(pool())
    newest = pool(version=cni.NEWEST)
    ours("c1").call("GC", cni.collected(newest, ours("c1"))).silent()
    assert cni.leases() == {"10.1.0.3": ("c1", "eth0")}


# --- as delegates


def test_the_go_plugin_under_our_bridge(
    executable: Callable[[str], Path],
    netns: Callable[[], Netns],
    snapshot: Callable[..., Snapshot],
    tmp_path: Path,
) -> None:
    """Our bridge runs the Go plugin as a foreign one."""
    (tmp_path / "foreign").symlink_to(_go("host-local"))
    config = cni.network("bridge", GO_VERSION) | pool()
    config["ipam"]["type"] = "foreign"
    _life_of_two(executable("bridge"), str(tmp_path), config, netns, snapshot)


def test_our_plugin_under_the_go_bridge(
    executable: Callable[[str], Path],
    netns: Callable[[], Netns],
    snapshot: Callable[..., Snapshot],
    either_name: str,
) -> None:
    """The Go bridge runs our plugin by either of its names."""
    config = cni.network("bridge", GO_VERSION) | pool()
    config["ipam"]["type"] = either_name
    path = str(executable(either_name).parent)
    _life_of_two(_go("bridge"), path, config, netns, snapshot)


def _life_of_two(
    bridge: Path,
    path: str,
    config: Config,
    netns: Callable[[], Netns],
    snapshot: Callable[..., Snapshot],
) -> None:
    """Two endpoints come, reach each other, and go."""
    config |= {"bridge": "blue0", "isGateway": True}
    one, other = (Endpoint(bridge, path, cid, netns()) for cid in ("c1", "c2"))
    first = one.add(config)
    before = snapshot(one.netns)
    second = other.add(config)
    assert cni.leases() == {"10.1.0.2": ("c1", "eth0"), "10.1.0.3": ("c2", "eth0")}
    assert one.netns.reaches(*cni.addresses(second))
    for endpoint, result in ((one, first), (other, second)):
        endpoint.check(config, result).silent()
    other.delete(config, second)
    assert snapshot(one.netns) == before
    one.delete(config, first)
    assert not cni.leases()
