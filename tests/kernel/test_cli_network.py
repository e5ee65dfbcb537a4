"""`cnm network create`, `ls`, `inspect`, `rm` and `prune`, by the built command."""

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.commands import FAILED, IN_THE_WAY, INTERRUPTED, INVALID, NOT_FOUND, USAGE, Cnm
from tests.iproute import HOST, Netns, Snapshot, exchange_by_tcp, run
from tests.remote_ipam import Driver

MakeNetns = Callable[[], Netns]
TakeSnapshot = Callable[..., Snapshot]

FOREIGN: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "name": "theirs",
    "nerdctlID": "5ca1ab1e",
    "nerdctlLabels": {"color": "red"},
    "plugins": [
        {
            "type": "bridge",
            "bridge": "br-theirs",
            "isGateway": True,
            "ipMasq": True,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "172.17.0.0/24"}]]},
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}


def subnet_of(cnm: Cnm, name: str) -> list[str]:
    return [pool["Subnet"] for pool in cnm.inspect(name)["IPAM"]["Config"]]


def nothing_left(before: Snapshot, after: Snapshot) -> None:
    """Assert that a host is as it was, but for tables of ours that are empty, and forwarding."""
    assert (after.links, after.addresses, after.routes) == (
        before.links,
        before.addresses,
        before.routes,
    )
    assert after.files == before.files
    assert "elements" not in after.rules
    assert "chain nat-" not in after.rules


def test_create(cnm: Cnm) -> None:
    """A network with Docker's defaults: a way out, published ports, a subnet of its own."""
    identity = cnm.run("network", "create", "blue").strip()
    assert len(identity) == 64
    about = cnm.file("blue")
    assert about.pop("cnm").keys() == {"created"}
    assert about == {
        "cniVersion": "1.0.0",
        "name": "blue",
        "plugins": [
            {
                "type": "bridge",
                "bridge": f"br-{identity[:12]}",
                "isGateway": True,
                "isDefaultGateway": True,
                "ipMasq": True,
                "capabilities": {"ips": True, "mac": True, "portMappings": True},
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": "172.17.0.0/16", "gateway": "172.17.0.1"}]],
                },
            }
        ],
    }
    assert [path.name for path in cnm.networks.iterdir()] == ["90-blue.conflist"]


def test_create_changes_no_kernel_state(cnm: Cnm, snapshot: TakeSnapshot) -> None:
    """Making a network is writing a file; removing it before its first container, too."""
    before = snapshot()
    cnm.run("network", "create", "--ipv6", "blue")
    assert snapshot() == before
    assert cnm.run("network", "rm", "blue") == "blue\n"
    nothing_left(before, snapshot())
    assert not list(cnm.networks.iterdir())


def test_all_options(cnm: Cnm) -> None:
    """Docker's words for each, and what they become."""
    cnm.run(
        *("network", "create", "--driver", "bridge", "--subnet", "10.9.0.0/24"),
        *("--ip-range", "10.9.0.128/25", "--gateway", "10.9.0.5"),
        *("--aux-address", "router=10.9.0.129", "--subnet", "fd00:9::/64"),
        *("--gateway", "fd00:9::9", "--ipam-opt", "allocation=first-fit"),
        *("--ipam-opt", "quarantineSeconds=30", "--label", "tier=web", "--label", "bare"),
        *("--mtu", "1400", "-o", "com.docker.network.bridge.name=br-blue"),
        *("-o", "com.docker.network.bridge.enable_icc=false"),
        *("-o", "com.docker.network.bridge.enable_ip_masquerade=false"),
        *("-o", "com.docker.network.bridge.host_binding_ipv4=127.0.0.1", "-o", "macspoofchk=true"),
        "blue",
    )
    plugin = cnm.plugin("blue")
    ipam = plugin.pop("ipam")
    assert plugin == {
        "type": "bridge",
        "bridge": "br-blue",
        "isGateway": True,
        "isDefaultGateway": True,
        "ipMasq": False,
        "icc": False,
        "hostBindingIPv4": "127.0.0.1",
        "macspoofchk": True,
        "mtu": 1400,
        "capabilities": {"ips": True, "mac": True, "portMappings": True},
    }
    assert ipam == {
        "type": "host-local",
        "allocation": "first-fit",
        "quarantineSeconds": 30,
        "ranges": [
            [
                {
                    "subnet": "10.9.0.0/24",
                    "ipRange": "10.9.0.128/25",
                    "gateway": "10.9.0.5",
                    "auxAddresses": {"router": "10.9.0.129"},
                }
            ],
            [{"subnet": "fd00:9::/64", "gateway": "fd00:9::9"}],
        ],
    }
    shown = cnm.inspect("blue")
    assert shown["Labels"] == {"tier": "web", "bare": ""}
    assert shown["Options"]["com.docker.network.bridge.enable_icc"] == "false"
    assert shown["IPAM"]["Options"] == {"allocation": "first-fit", "quarantineSeconds": "30"}
    assert (shown["EnableIPv4"], shown["EnableIPv6"]) == (True, True)


def test_internal_and_layer_2(cnm: Cnm) -> None:
    """Internal networks have a gateway for the host and no way out; none means no addresses."""
    cnm.run("network", "create", "--internal", "inner")
    plugin = cnm.plugin("inner")
    assert (plugin["internal"], plugin["isGateway"]) == (True, True)
    assert not plugin.keys() & {"ipMasq", "isDefaultGateway"}
    assert "portMappings" not in plugin["capabilities"]
    assert cnm.inspect("inner")["Internal"] is True
    cnm.run("network", "create", "--ipam-driver", "none", "flat")
    assert cnm.plugin("flat").keys() == {"type", "bridge", "capabilities"}
    assert cnm.inspect("flat")["IPAM"] == {"Driver": "null", "Options": {}, "Config": []}


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        (("--subnet", "10.0.0.1/24"), FAILED, ("--subnet", "10.0.0.1/24", "10.0.0.0/24")),
        (("--subnet", "10.0.0/24"), FAILED, ("--subnet", "10.0.0/24")),
        (("--gateway", "10.1.1.1"), FAILED, ("no matching subnet for gateway 10.1.1.1",)),
        (
            ("--subnet", "10.0.0.0/24", "--ip-range", "10.1.0.0/25"),
            FAILED,
            ("no matching subnet for ip-range 10.1.0.0/25", "10.0.0.0/24"),
        ),
        (
            ("--subnet", "10.0.0.0/24", "--ip-range", "10.0.0.0/25", "--ip-range", "10.0.0.128/25"),
            FAILED,
            ("cannot configure multiple ranges (10.0.0.0/25, 10.0.0.128/25)",),
        ),
        (
            ("--subnet", "10.0.0.0/24", "--gateway", "10.0.0.1", "--gateway", "10.0.0.2"),
            FAILED,
            ("cannot configure multiple gateways (10.0.0.1, 10.0.0.2)",),
        ),
        (
            ("--subnet", "10.0.0.0/24", "--aux-address", "a=10.0.1.1"),
            FAILED,
            ("no matching subnet for aux-address 10.0.1.1",),
        ),
        (("--aux-address", "=10.0.1.1"), USAGE, ("--aux-address", "KEY=VALUE")),
        (
            ("--subnet", "10.0.0.0/24", "--subnet", "10.0.0.0/25"),
            IN_THE_WAY,
            ("10.0.0.0/25", "overlaps with 10.0.0.0/24 of the same network"),
        ),
        (
            ("--subnet", "10.0.0.0/24", "--subnet", "10.0.1.0/24"),
            FAILED,
            ("does not support multiple subnets", "10.0.0.0/24, 10.0.1.0/24"),
        ),
        (("--mtu", "70000"), INVALID, ("mtu", "70000", "65535")),
        (("--mtu", "67"), INVALID, ("mtu", "67", "68")),
        (("-o", "colour=red"), FAILED, ("-o colour=red", "com.docker.network.bridge.name")),
        (("-o", "icc=maybe"), INVALID, ("icc", "true or false", "maybe")),
        (("-o", "icc=true", "-o", "com.docker.network.bridge.enable_icc=true"), FAILED, ("twice",)),
        (("-o", "com.docker.network.bridge.name=a-very-long-name"), INVALID, ("bridge", "15")),
        (("-o", "com.docker.network.bridge.name=lo"), FAILED, ('link "lo" exists',)),
        (("--internal", "-o", "ipMasq=true"), INVALID, ("internal", "ipMasq")),
        (("--ipam-opt", "colour=red"), FAILED, ("--ipam-opt colour=red", "allocation")),
        (("--ipam-opt", "allocation=any"), INVALID, ("ipam/allocation", "any")),
        (("--ipam-driver", "none", "--subnet", "10.0.0.0/24"), FAILED, ("--subnet", "none")),
        (("--driver", "nope"), USAGE, ("--driver", "nope", "bridge")),
        (("--subnet", "127.0.0.0/24"), IN_THE_WAY, ("overlaps", "127.0.0.1/8", "lo")),
        (("--subnet", "10.0.0.5/32"), INVALID, ("isGateway", "10.0.0.5/32 leaves the bridge no")),
        (("--subnet", "224.0.0.0/24"), INVALID, ("ipam/ranges/0/0/subnet", "multicast")),
        (
            ("--subnet", "10.0.0.0/30", "--aux-address", "a=10.0.0.2"),
            INVALID,
            ("ipam/ranges/0/0", "no address to give out"),
        ),
    ],
)
def test_refusals(
    cnm: Cnm, words: tuple[str, ...], code: int, parts: tuple[str, ...], snapshot: TakeSnapshot
) -> None:
    """One line on stderr names what is wrong; nothing is written."""
    before = snapshot()
    cnm.call("network", "create", *words, "blue").fails(code, *parts)
    assert not cnm.networks.exists() or not list(cnm.networks.iterdir())
    assert snapshot() == before


@pytest.mark.parametrize("name", ["a b", "../x", "-x", "", "ü"])
def test_bad_names(cnm: Cnm, name: str) -> None:
    """Names are those that CNI allows, since they become file names."""
    done = cnm.call("network", "create", "--", name)
    assert done.code == USAGE
    assert not cnm.networks.exists() or not list(cnm.networks.iterdir())


def test_longest_name(cnm: Cnm) -> None:
    """One that is too long for a file's name is refused, and nothing else."""
    done = cnm.call("network", "create", "x" * 231)
    assert done.code == USAGE and "at most 230 characters" in done.err
    cnm.run("network", "create", "x" * 230)
    cnm.run("network", "rm", "x" * 230)


@pytest.mark.parametrize("words", [("network", "ls"), ("network", "create", "red"), ("doctor",)])
@pytest.mark.parametrize(("stdout", "code"), [(">&-", None), ("2>&- >&-", None), (">/dev/full", 1)])
def test_nowhere_to_write(cnm: Cnm, stdout: str, code: int | None, words: tuple[str, ...]) -> None:
    """Without stdout nothing is said, and nothing else is written into; a full one is said."""
    cnm.run("network", "create", "blue")
    expected = cnm.call(*words).code if words != ("network", "create", "red") else 0
    sh = replace(cnm, binary=Path("/bin/sh"))
    done = sh.call("-c", f'"$0" "$@" {stdout}', str(cnm.binary), *words)
    assert done.code == (expected if code is None else code), done
    assert "Traceback" not in done.err and "PYI" not in done.err
    if code is not None:
        assert done.err == "cnm: cannot write to stdout: No space left on device\n"
    assert json.loads((cnm.networks / "90-blue.conflist").read_text())


def test_nested_without_end(cnm: Cnm) -> None:
    """A file of too many levels is left out, as one that is no JSON is."""
    cnm.run("network", "create", "blue")
    (cnm.networks / "deep.conflist").write_text('{"a":' * 100000)
    done = cnm.call("network", "ls", "--quiet")
    assert done.code == 0 and "deep.conflist is left out: not JSON" in done.err
    assert "more than 64 levels" in cnm.call("doctor").out


def test_names_are_taken_once(cnm: Cnm) -> None:
    """Whatever file has the name."""
    cnm.run("network", "create", "blue")
    before = (cnm.networks / "90-blue.conflist").read_bytes()
    cnm.call("network", "create", "blue").fails(IN_THE_WAY, '"blue" already exists', "90-blue")
    assert (cnm.networks / "90-blue.conflist").read_bytes() == before
    cnm.put("10-foreign.conf", {"name": "red", "type": "ptp"})
    cnm.call("network", "create", "red").fails(IN_THE_WAY, '"red" already exists', "10-foreign")


def test_what_a_killed_call_left(cnm: Cnm) -> None:
    """Half a file is no network, and in nobody's way."""
    cnm.put(".90-blue.conflist.new", "{")
    assert cnm.run("network", "ls", "-q") == ""
    cnm.run("network", "create", "blue")
    assert [path.name for path in cnm.networks.iterdir()] == ["90-blue.conflist"]


def test_at_the_same_time(cnm: Cnm) -> None:
    """Each network gets a subnet of its own, and a name only one of those who want it."""
    names = ["one", "two", "three", "one", "two", "three"]
    with ThreadPoolExecutor(len(names)) as pool:
        done = list(pool.map(lambda name: cnm.call("network", "create", name), names))
    assert sorted(each.code for each in done) == [0, 0, 0, *[IN_THE_WAY] * 3]
    subnets = {subnet for each in cnm.lines("network", "ls") for subnet in each["Subnets"]}
    assert subnets == {"172.17.0.0/16", "172.18.0.0/16", "172.19.0.0/16"}


def test_one_bridge_is_one_network(cnm: Cnm) -> None:
    """A bridge's name that another network has is refused, naming it."""
    name = "com.docker.network.bridge.name=br-x"
    cnm.run("network", "create", "-o", name, "blue")
    cnm.call("network", "create", "-o", name, "red").fails(IN_THE_WAY, "br-x", '"blue"')


def test_default_pools(cnm: Cnm) -> None:
    """Docker's pools in its order, past networks, files of others, addresses and routes."""
    cnm.put("nerdctl.conflist", FOREIGN)
    HOST.ip("link", "add", "up0", "type", "veth", "peer", "name", "up1")
    HOST.ip("link", "set", "up0", "up")
    HOST.ip("addr", "add", "172.19.4.1/24", "dev", "up0")
    HOST.ip("route", "add", "172.20.0.0/15", "via", "172.19.4.2")
    HOST.ip("route", "add", "default", "via", "172.19.4.2")
    for name in ("one", "two", "three"):
        cnm.run("network", "create", name)
    assert subnet_of(cnm, "one") == ["172.18.0.0/16"]
    assert subnet_of(cnm, "two") == ["172.22.0.0/16"]
    assert subnet_of(cnm, "three") == ["172.23.0.0/16"]
    cnm.run("network", "rm", "one")
    cnm.run("network", "create", "four")
    assert subnet_of(cnm, "four") == ["172.18.0.0/16"]


def test_any_subnet_of_a_size(cnm: Cnm) -> None:
    """0.0.0.0/24 is any /24 of the pools, and ::/80 any /80."""
    cnm.run("network", "create", "--subnet", "0.0.0.0/24", "--subnet", "::/80", "one")
    cnm.run("network", "create", "--subnet", "0.0.0.0/24", "two")
    (first, ipv6), (second,) = subnet_of(cnm, "one"), subnet_of(cnm, "two")
    assert (first, second) == ("172.17.0.0/24", "172.17.1.0/24")
    assert ipv6.startswith("fd") and ipv6.endswith("/80")


def test_ipv6(cnm: Cnm) -> None:
    """--ipv6 adds a unique local /64; --no-ipv4 leaves it alone."""
    cnm.run("network", "create", "--ipv6", "--no-ipv4", "one")
    cnm.run("network", "create", "--ipv6", "two")
    (first,), (_, second) = subnet_of(cnm, "one"), subnet_of(cnm, "two")
    assert first.startswith("fd") and first.endswith("::/64") and first != second


def test_configured_pools(cnm: Cnm) -> None:
    """Other pools, until they are used up."""
    cnm.pools.write_text(json.dumps({"ipv4": [{"base": "10.50.0.0/23", "size": 24}]}))
    cnm.run("network", "create", "one")
    cnm.run("network", "create", "two")
    assert (subnet_of(cnm, "one"), subnet_of(cnm, "two")) == (["10.50.0.0/24"], ["10.50.1.0/24"])
    cnm.call("network", "create", "three").fails(FAILED, "fully subnetted", "--subnet", "prune")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "pools.json"),
        ('{"ipv4": [{"base": "10.0.0.0/16", "size": 8}]}', "size: must be from 16 to 30, got 8"),
        ('{"ipv4": [{"base": "fd00::/48", "size": 64}]}', "of that version only, got fd00::/48"),
        ('{"ipv4": [{"base": "10.0.0.1/16", "size": 24}]}', "ipv4[0].base"),
        ('{"ipv4": [{"size": 24}]}', "ipv4[0].base: is missing"),
    ],
)
def test_damaged_pools(cnm: Cnm, content: str, problem: str) -> None:
    """The file's path and what is wrong in it."""
    cnm.pools.write_text(content)
    cnm.call("network", "create", "one").fails(INVALID, str(cnm.pools), problem)


def test_overlaps_are_named(cnm: Cnm) -> None:
    """What a subnet overlaps with: networks of ours and of others, addresses, routes."""
    cnm.put("nerdctl.conflist", FOREIGN)
    cnm.run("network", "create", "--subnet", "10.1.0.0/16", "blue")
    HOST.ip("link", "add", "up0", "type", "veth", "peer", "name", "up1")
    HOST.ip("link", "set", "up0", "up")
    HOST.ip("addr", "add", "10.2.3.4/24", "dev", "up0")
    HOST.ip("route", "add", "10.3.0.0/24", "via", "10.2.3.1")
    HOST.ip("route", "add", "10.64.0.0/10", "via", "10.2.3.1")
    for subnet, what in (
        ("10.1.2.0/24", '10.1.0.0/16 of network "blue"'),
        ("10.0.0.0/8", '10.1.0.0/16 of network "blue"'),
        ("172.17.0.0/30", '172.17.0.0/24 of network "theirs"'),
        ("10.2.0.0/16", "address 10.2.3.4/24 of up0"),
        ("10.3.0.0/16", "the host's route to 10.3.0.0/24"),
    ):
        done = cnm.call("network", "create", "--subnet", subnet, "red")
        done.fails(IN_THE_WAY, f"subnet {subnet} overlaps with {what}", "another subnet")
    cnm.run("network", "create", "--subnet", "10.64.1.0/24", "red")  # inside a wider route


def test_a_bridge_that_is_there(cnm: Cnm, netns: MakeNetns) -> None:
    """May have an address of the subnet already, and stays when the network goes."""
    HOST.ip("link", "add", "br-mine", "type", "bridge")
    HOST.ip("addr", "add", "10.7.0.1/24", "dev", "br-mine")
    HOST.ip("link", "set", "br-mine", "up")
    name = "com.docker.network.bridge.name=br-mine"
    cnm.run("network", "create", "--subnet", "10.7.0.0/24", "-o", name, "blue")
    sandbox = netns()
    cnm.add("blue", sandbox)
    cnm.delete("blue", sandbox)
    cnm.run("network", "rm", "blue")
    assert HOST.addresses("br-mine") == ["10.7.0.1/24"]


def test_ls(cnm: Cnm) -> None:
    """A table, JSON lines with Docker's fields, IDs; damaged files are said on stderr."""
    cnm.put("nerdctl.conflist", FOREIGN)
    identity = cnm.run("network", "create", "--label", "tier=web", "--ipv6", "blue").strip()
    assert cnm.run("network", "ls").splitlines()[0].split() == [
        *("NETWORK", "ID", "NAME", "DRIVER", "SCOPE", "SUBNETS", "MADE", "BY")
    ]
    blue, theirs = cnm.lines("network", "ls")
    assert blue["ID"] == identity[:12]
    assert {key: blue[key] for key in ("Name", "Driver", "Scope", "IPv6", "Labels", "MadeBy")} == {
        "Name": "blue",
        "Driver": "bridge",
        "Scope": "local",
        "IPv6": "true",
        "Labels": "tier=web",
        "MadeBy": "cnm",
    }
    assert (theirs["Name"], theirs["MadeBy"], theirs["Labels"]) == (
        *("theirs", "nerdctl", "color=red"),
    )
    assert cnm.run("network", "ls", "-q").splitlines() == [blue["ID"], theirs["ID"]]
    cnm.put("broken.conflist", "{")
    done = cnm.call("network", "ls")
    assert (done.code, len(done.out.splitlines())) == (0, 3)
    assert "broken.conflist is left out: not JSON" in done.err


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        (("name=lu",), ["blue", "blues"]),
        (("name=red", "name=blues"), ["blues", "red"]),
        (("label=tier",), ["blue", "blues"]),
        (("label=tier=web",), ["blue"]),
        (("label=tier", "label=bare"), ["blues"]),
        (("driver=bridge", "name=red"), ["red"]),
        (("driver=macvlan",), []),
    ],
)
def test_filters(cnm: Cnm, filters: tuple[str, ...], names: list[str]) -> None:
    """Of one key any, of labels and keys all."""
    for name, labels in (("blue", ["tier=web"]), ("blues", ["tier=db", "bare"]), ("red", [])):
        words = [word for label in labels for word in ("--label", label)]
        cnm.run("network", "create", *words, name)
    words = [word for each in filters for word in ("--filter", each)]
    assert [each["Name"] for each in cnm.lines("network", "ls", *words)] == names


def test_bad_filters(cnm: Cnm) -> None:
    """What is no filter is wrong usage."""
    for word in ("driver", "driver=", "color=red"):
        cnm.call("network", "ls", "--filter", word).fails(USAGE, "--filter", word)


def test_inspect(cnm: Cnm, netns: MakeNetns) -> None:
    """Endpoints, the use of pools, the file, and what the kernel has."""
    cnm.run("network", "create", "--subnet", "10.9.0.0/29", "--gateway", "10.9.0.1", "blue")
    bridge = cnm.plugin("blue")["bridge"]
    assert cnm.inspect("blue")["Kernel"]["Links"] == [{"Name": bridge, "State": "missing"}]
    sandbox = netns()
    cnm.add("blue", sandbox)
    shown = cnm.inspect("blue")
    ((container, endpoint),) = shown["Containers"].items()
    assert container.startswith("cnitool-")
    assert endpoint["IPv4Address"] == "10.9.0.2/29"
    assert endpoint["MacAddress"] == sandbox.link("eth0")["address"]
    assert (endpoint["Interface"], endpoint["Sandbox"]) == ("eth0", sandbox.path)
    assert shown["Status"]["IPAM"]["Subnets"] == {
        "10.9.0.0/29": {"IPsInUse": 1, "DynamicIPsAvailable": 4}
    }
    assert shown["Conflist"]["Content"] == cnm.file("blue")
    of_bridge, port = shown["Kernel"]["Links"]
    assert (of_bridge["Kind"], of_bridge["State"]) == ("bridge", "up")
    assert "10.9.0.1/29" in of_bridge["Addresses"]
    assert (port["Name"], port["Master"]) == (endpoint["HostLink"], bridge)
    by_prefix = json.loads(cnm.run("network", "inspect", shown["Id"][:8]))
    assert by_prefix[0]["Name"] == "blue"
    cnm.call("network", "inspect", "red").fails(NOT_FOUND, '"red" not found', "cnm network ls")


def test_networks_of_others(cnm: Cnm, netns: MakeNetns) -> None:
    """Listed and inspected with their endpoints, by whichever plugin; never touched."""
    plugins = cnm.networks.parent / "plugins"
    plugins.mkdir()
    for name in ("bridge", "host-local"):
        (plugins / name).symlink_to(f"/usr/lib/cni/{name}")
    theirs = replace(cnm, plugins=str(plugins))
    document = {**FOREIGN, "plugins": FOREIGN["plugins"][:1]}
    document["plugins"][0].pop("ipMasq", None)
    path = theirs.put("nerdctl-theirs.conflist", document)
    content = path.read_bytes()
    sandbox = netns()
    theirs.add("theirs", sandbox)
    shown = theirs.inspect("theirs")
    (endpoint,) = shown["Containers"].values()
    assert endpoint["IPv4Address"] == "172.17.0.2/24"
    assert endpoint["MacAddress"] == sandbox.link("eth0")["address"]
    assert shown["Status"]["IPAM"]["Subnets"]["172.17.0.0/24"]["IPsInUse"] == 1
    for words in (("rm", "theirs"), ("rm", "-f", "theirs")):
        done = theirs.call("network", *words)
        done.fails(IN_THE_WAY, "nerdctl", "nerdctl network rm theirs", str(path))
    assert theirs.run("network", "prune", "-f") == ""
    theirs.delete("theirs", sandbox)
    assert path.read_bytes() == content


def test_files_made_by_hand(cnm: Cnm, netns: MakeNetns, snapshot: TakeSnapshot) -> None:
    """Stay, unless removal is forced; then all goes that our drivers made for them."""
    before = snapshot()
    document = {**FOREIGN, "name": "mine"}
    del document["nerdctlID"]
    cnm.put("mine.conflist", document)
    cnm.add("mine", netns())
    cnm.call("network", "rm", "mine").fails(IN_THE_WAY, "not made by cnm", "mine.conflist", "-f")
    cnm.run("network", "rm", "-f", "mine")
    after = snapshot()
    assert after.files == before.files
    assert "br-theirs" not in after.links[""]
    assert not list(cnm.networks.iterdir())


def test_files_of_plugins_that_are_not_ours(cnm: Cnm) -> None:
    """Nobody but their plugin knows what they have made."""
    cnm.put("ptp.conflist", {"cniVersion": "1.0.0", "name": "p", "plugins": [{"type": "ptp"}]})
    cnm.call("network", "rm", "-f", "p").fails(FAILED, '"ptp"', "not by a driver of cnm")


def test_rm_refuses_what_is_in_use(cnm: Cnm, netns: MakeNetns, snapshot: TakeSnapshot) -> None:
    """A network with endpoints is as it was; detached first where that is forced."""
    before = snapshot()
    cnm.run("network", "create", "--ipv6", "blue")
    one, other = netns(), netns()
    cnm.add("blue", one)
    cnm.add("blue", other)
    used = snapshot(one, other)
    cnm.call("network", "rm", "blue").fails(IN_THE_WAY, "2 endpoints", "cnitool-", "-f")
    assert snapshot(one, other) == used
    assert cnm.run("network", "rm", "-f", "blue") == "blue\n"
    assert "eth0" not in one.links()
    nothing_left(before, snapshot())
    assert not list(cnm.networks.iterdir())


def test_rm_of_several(cnm: Cnm, netns: MakeNetns) -> None:
    """What fails keeps nobody else; each failure has its line."""
    for name in ("blue", "red", "green"):
        cnm.run("network", "create", name)
    cnm.add("red", netns())
    done = cnm.call("network", "rm", "blue", "red", "nope", "green")
    assert (done.code, done.out) == (NOT_FOUND, "blue\ngreen\n")
    in_use, missing = done.err.splitlines()
    assert "red" in in_use and "nope" in missing


def test_rm_goes_on_where_it_was_killed(cnm: Cnm, netns: MakeNetns) -> None:
    """The file goes last: whatever went before may be gone already."""
    cnm.run("network", "create", "blue")
    sandbox = netns()
    cnm.add("blue", sandbox)
    cnm.delete("blue", sandbox)
    HOST.ip("link", "delete", cnm.plugin("blue")["bridge"])
    shutil.rmtree("/var/lib/cni/networks/blue")
    shutil.rmtree("/run/cnm/blue")
    run("nft", "flush", "ruleset")
    cnm.run("network", "rm", "blue")
    assert not list(cnm.networks.iterdir())


def test_rm_after_a_reboot(cnm: Cnm, netns: MakeNetns, snapshot: TakeSnapshot) -> None:
    """Records and links are gone, addresses and cached results are not: forced, all goes."""
    before = snapshot()
    cnm.run("network", "create", "blue")
    sandbox = netns()
    cnm.add("blue", sandbox)
    run("ip", "netns", "delete", sandbox.name)
    HOST.ip("link", "delete", cnm.plugin("blue")["bridge"])
    shutil.rmtree("/run/cnm/blue")
    run("nft", "flush", "ruleset")
    cnm.call("network", "rm", "blue").fails(IN_THE_WAY, "an endpoint")
    cnm.run("network", "rm", "-f", "blue")
    assert snapshot().files == before.files


def test_prune(cnm: Cnm, netns: MakeNetns) -> None:
    """Networks of ours that nobody uses, once that is agreed to."""
    cnm.put("mine.conflist", {"cniVersion": "1.0.0", "name": "mine", "plugins": [{"type": "ptp"}]})
    for name in ("blue", "red"):
        cnm.run("network", "create", name)
    cnm.add("red", netns())
    refused = cnm.call("network", "prune", stdin="n\n")
    assert (refused.code, refused.out) == (INTERRUPTED, "")
    assert len(list(cnm.networks.iterdir())) == 3
    done = cnm.call("network", "prune", stdin="y\n")
    assert (done.code, done.out) == (0, "blue\n")
    assert [each["Name"] for each in cnm.lines("network", "ls")] == ["mine", "red"]


def test_a_terminal_gets_colour(cnm: Cnm) -> None:
    """A pipe never does."""
    cnm.run("network", "create", "blue")
    environment = f"CNI_CONF_DIR={cnm.networks} TERM=xterm"
    shown = run("script", "-qec", f"env {environment} {cnm.binary} network ls", "/dev/null")
    assert "\x1b[" in shown and "blue" in shown
    assert "\x1b[" not in cnm.run("network", "ls")


def test_my_bridge_network(cnm: Cnm, netns: MakeNetns, snapshot: TakeSnapshot) -> None:
    """From `create` to `rm`: two containers that reach each other, and nothing left."""
    before = snapshot()
    cnm.run("network", "create", "my-bridge-network")
    one, other = netns(), netns()
    cnm.add("my-bridge-network", one)
    address = cnm.add("my-bridge-network", other)["ips"][0]["address"].partition("/")[0]
    payload = os.urandom(100_000)
    assert exchange_by_tcp(one, other, address, payload) == payload
    assert len(cnm.inspect("my-bridge-network")["Containers"]) == 2
    for sandbox in (one, other):
        assert cnm.cnitool("check", "my-bridge-network", sandbox.path).code == 0
        cnm.delete("my-bridge-network", sandbox)
    cnm.run("network", "rm", "my-bridge-network")
    nothing_left(before, snapshot())
    assert not list(cnm.networks.iterdir())


def test_my_custom_network(cnm: Cnm, netns: MakeNetns, snapshot: TakeSnapshot) -> None:
    """The same with addresses from another IPAM plugin: Debian's, by a name of its own."""
    before = snapshot()
    plugins = cnm.networks.parent / "plugins"
    plugins.mkdir()
    words = ("--driver", "bridge", "--ipam-driver", "custom-ipam", "--subnet", "192.168.10.0/24")
    done = cnm.call("network", "create", *words, "my-custom-network")
    assert done.code == 0 and 'no executable "custom-ipam"' in done.err
    (plugins / "custom-ipam").symlink_to("/usr/lib/cni/host-local")
    custom = replace(cnm, plugins=f"{cnm.plugins}:{plugins}")
    custom.run("network", "rm", "my-custom-network")
    custom.run("network", "create", *words, "my-custom-network")
    assert custom.inspect("my-custom-network")["IPAM"]["Driver"] == "custom-ipam"
    one, other = netns(), netns()
    custom.add("my-custom-network", one)
    address = custom.add("my-custom-network", other)["ips"][0]["address"]
    assert address == "192.168.10.3/24"
    assert exchange_by_tcp(one, other, "192.168.10.3", b"hello") == b"hello"
    for sandbox in (one, other):
        custom.delete("my-custom-network", sandbox)
    custom.run("network", "rm", "my-custom-network")
    nothing_left(before, snapshot())


def test_my_custom_network_of_docker(
    cnm: Cnm, netns: MakeNetns, snapshot: TakeSnapshot, docker_plugins: Path
) -> None:
    """The same with custom-ipam as an IPAM driver that was written for Docker."""
    driver = Driver(f"{docker_plugins}/custom-ipam.sock", docker_plugins.parent / "custom-ipam")
    before = snapshot()
    driver.start()
    try:
        words = ("--ipam-driver", "custom-ipam", "--subnet", "192.168.10.0/24")
        words = (*words, "--ipam-opt", "color=red", "my-custom-network")
        cnm.run("network", "create", "--driver", "bridge", *words)
        assert cnm.plugin("my-custom-network")["ipam"] == {
            "type": "remote",
            "driver": "custom-ipam",
            "pools": [{"subnet": "192.168.10.0/24"}],
            "options": {"color": "red"},
        }
        one, other = netns(), netns()
        cnm.add("my-custom-network", one)
        address = cnm.add("my-custom-network", other)["ips"][0]["address"]
        ip, _, length = address.partition("/")
        assert (ip.rpartition(".")[0], length) == ("192.168.10", "24")
        assert exchange_by_tcp(one, other, ip, b"hello") == b"hello"
        assert driver.called("RequestPool")[0]["Options"] == {"color": "red"}
        about = cnm.inspect("my-custom-network")["IPAM"]
        assert about["Driver"] == "custom-ipam"
        assert about["Config"] == [{"Subnet": "192.168.10.0/24"}]
        taken = cnm.call("network", "create", "--subnet", "192.168.10.0/25", "another")
        taken.fails(IN_THE_WAY, 'of network "my-custom-network"')
        for sandbox in (one, other):
            cnm.delete("my-custom-network", sandbox)
        cnm.run("network", "rm", "my-custom-network")
        assert (driver.held(), driver.pools()) == ([], [])
    finally:
        driver.stop()
    nothing_left(before, snapshot())
    assert not list(Path("/var/lib/cnm").rglob("my-custom-network"))


def test_ports_on_the_loopback_only(cnm: Cnm, netns: MakeNetns) -> None:
    """host_binding_ipv4 is the address of published ports that name none."""
    option = "com.docker.network.bridge.host_binding_ipv4=127.0.0.1"
    cnm.run("network", "create", "-o", option, "blue")
    sandbox = netns()
    ports = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]
    cnm.add("blue", sandbox, CAP_ARGS=json.dumps({"portMappings": ports}))
    (endpoint,) = cnm.inspect("blue")["Containers"].values()
    assert endpoint["Ports"] == ["127.0.0.1:8080->80/tcp"]
    assert "127.0.0.1 . tcp . 8080" in run("nft", "list", "ruleset")
    cnm.run("network", "rm", "-f", "blue")
