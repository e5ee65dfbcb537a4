"""Overlay networks from `cnm network create` to `rm`: on one host with files, on two with etcd."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests import cni
from tests.commands import FAILED, IN_THE_WAY, INTERRUPTED, INVALID, NOT_FOUND, USAGE, Cnm
from tests.hosts import Host, Sandboxes, cluster
from tests.iproute import HOST, Snapshot, exchange_by_tcp

CREATE = ("network", "create", "--driver", "overlay")
STORE = Path("/var/lib/cnm/cluster/entries")


@pytest.fixture
def underlay(node: None) -> None:
    """A link with a default route."""
    HOST.ip("link", "add", "up0", "type", "veth", "peer", "name", "outside")
    HOST.ip("addr", "add", "192.0.2.2/24", "dev", "up0")
    for name in ("up0", "outside"):
        HOST.ip("link", "set", name, "up")
    HOST.ip("route", "add", "default", "via", "192.0.2.1")


@pytest.fixture
def hosts(node: None, tmp_path: Path, cni_bin: Path) -> Iterator[list[Host]]:
    """Two hosts with one etcd."""
    with cluster(2, tmp_path, cni_bin) as (found, _):
        yield found


@pytest.fixture
def both(hosts: list[Host]) -> list[Cnm]:
    """The command line on each of them."""
    return [host.cnm() for host in hosts]


def stored() -> list[str]:
    """The keys of the store of one host."""
    return sorted(str(path.relative_to(STORE)) for path in STORE.rglob("=*"))


def network_of(cnm: Cnm, name: str = "blue") -> cni.Config:
    """What a runtime hands to the plugin."""
    return {**cnm.plugin(name), "name": name, "cniVersion": cnm.file(name)["cniVersion"]}


def leaves_nothing(before: Snapshot, after: Snapshot) -> None:
    """Assert that a host is as it was, but for forwarding, empty tables of ours, and the store."""
    for attribute in ("links", "addresses", "routes"):
        assert getattr(after, attribute) == getattr(before, attribute)
    assert "elements" not in after.rules and "chain nat-" not in after.rules
    assert [path for path in after.files if not path.startswith("/var/lib/cnm/cluster/")] == []


def test_one_host(
    cnm: Cnm, underlay: None, netns: Sandboxes, snapshot: Callable[..., Snapshot]
) -> None:
    """Created, used with cnitool, inspected and removed; nothing is left."""
    before = snapshot()
    cnm.run(*CREATE, "--subnet", "10.7.0.0/24", "my-overlay-network")
    assert cnm.plugin("my-overlay-network") == {
        "type": "overlay",
        "vni": 4097,
        "port": 4789,
        "mtu": 1450,
        "subnets": [{"subnet": "10.7.0.0/24", "gateway": "10.7.0.1"}],
        "capabilities": {"ips": True, "mac": True, "portMappings": True},
    }
    one, other = netns(), netns()
    cnm.add("my-overlay-network", one)
    cnm.add("my-overlay-network", other)
    (address,) = other.addresses("eth0")
    ip = address.partition("/")[0]
    assert one.reaches(ip)
    assert exchange_by_tcp(one, other, ip, b"hello") == b"hello"
    shown = cnm.inspect("my-overlay-network")
    assert (shown["Scope"], shown["VNI"], shown["IPAM"]["Driver"]) == ("global", 4097, "default")
    assert shown["IPAM"]["Config"] == [{"Subnet": "10.7.0.0/24", "Gateway": "10.7.0.1"}]
    assert shown["Status"]["IPAM"]["Subnets"] == {
        "10.7.0.0/24": {"IPsInUse": 2, "DynamicIPsAvailable": 251}
    }
    links = {each["Name"]: each["Kind"] for each in shown["Kernel"]["Links"]}
    assert links["ov-001001"] == "bridge" and links["vx-001001"] == "vxlan"
    (peer,) = shown["Peers"]
    assert peer["IP"] == "192.0.2.2"
    assert [each["Container"] for each in peer["Endpoints"]] == list(shown["Containers"])
    (row,) = cnm.lines("network", "ls")
    assert (row["Scope"], row["Subnets"]) == ("global", ["10.7.0.0/24"])
    assert cnm.lines("ipam", "ls")[0]["IPsInUse"] == 2
    assert len(cnm.lines("ipam", "ls", "my-overlay-network")) == 2
    cnm.call("network", "rm", "my-overlay-network").fails(IN_THE_WAY, "2 endpoints")
    for sandbox in (one, other):
        assert cnm.cnitool("check", "my-overlay-network", sandbox.path).code == 0
        cnm.delete("my-overlay-network", sandbox)
    cnm.run("network", "rm", "my-overlay-network")
    leaves_nothing(before, snapshot())
    assert not list(cnm.networks.iterdir())
    assert stored() == []


def test_forced(cnm: Cnm, underlay: None, netns: Sandboxes) -> None:
    """-f detaches what is attached; links and rules go."""
    cnm.run(*CREATE, "blue")
    sandbox = netns()
    cnm.run("network", "connect", "blue", sandbox.name)
    assert "ov-001001" in HOST.links()
    cnm.run("network", "rm", "-f", "blue")
    assert {"ov-001001", "vx-001001"}.isdisjoint(HOST.links())
    assert "eth0" not in sandbox.links()
    assert not list(Path("/run/cnm/.overlay").rglob("*blue*"))


def test_options(cnm: Cnm, underlay: None) -> None:
    """Keys by their names and by Docker's; both IP versions; internal."""
    words = ("-o", "com.docker.network.driver.overlay.vxlanid_list=5000", "-o", "port=8472")
    more = ("--mtu", "1400", "-o", "underlay=up0", "-o", "node=7", "--ipv6", "--internal")
    cnm.run(*CREATE, *words, *more, "blue")
    plugin = cnm.plugin("blue")
    assert (plugin["vni"], plugin["port"], plugin["mtu"]) == (5000, 8472, 1400)
    assert (plugin["underlay"], plugin["node"], plugin["internal"]) == ("up0", "7", True)
    assert plugin["capabilities"] == {"ips": True, "mac": True}
    four, six = plugin["subnets"]
    assert four == {"subnet": "172.17.0.0/16", "gateway": "172.17.0.1"}
    assert six["gateway"].endswith("::1")
    assert cnm.lines("node", "ls") == [
        {"Name": "7", "VTEP": "192.0.2.2", "Alive": False, "Endpoints": 0}
    ]


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        (("--ip-range", "10.7.0.0/25"), FAILED, ["--ip-range: the overlay driver"]),
        (("--aux-address", "a=10.7.0.9"), FAILED, ["--aux-address: the overlay driver"]),
        (("--ipam-driver", "static"), FAILED, ["--ipam-driver: the overlay driver"]),
        (("--ipam-opt", "a=b"), FAILED, ["--ipam-opt: the overlay driver"]),
        (("-o", "subnets=[]"), FAILED, ["-o subnets=[]", "no such option"]),
        (("-o", "vni=16777216"), INVALID, ["vni: must be a whole number"]),
        (("-o", "mtu=60"), FAILED, ["mtu: must be 0 or from 68"]),
        (("-o", "mtu=1500"), IN_THE_WAY, ["mtu: is 1500", "leaves 1450"]),
        (("-o", "underlay=nope0"), IN_THE_WAY, ['underlay: "nope0"']),
        (("--subnet", "192.0.2.0/25"), IN_THE_WAY, ["overlaps with address 192.0.2.2/24"]),
        (("--subnet", "10.7.0.0/33"), FAILED, ["--subnet"]),
        (("--gateway", "10.9.0.1"), FAILED, ["no matching subnet for gateway"]),
        (("--agent-config", "/nope.json"), NOT_FOUND, ["/nope.json"]),
        (("-o", 'store={"endpoints":["http://192.0.2.2:1"]}'), FAILED, ["etcd cannot be reached"]),
    ],
)
def test_refusals(
    cnm: Cnm, underlay: None, words: tuple[str, ...], code: int, parts: list[str]
) -> None:
    """What is wrong is named, and neither file nor cluster have the network."""
    cnm.call(*CREATE, *words, "blue").fails(code, *parts)
    assert not list(cnm.networks.glob("*"))
    assert not [key for key in stored() if "blue" in key]


def test_bad_agent_config(cnm: Cnm, underlay: None) -> None:
    """A file that makes no sense is not passed over."""
    cnm.agent.write_text("{")
    cnm.call(*CREATE, "blue").fails(INVALID, "agent.json: is not JSON")
    cnm.agent.write_text('{"store": {"endpoints": ["nowhere"]}}')
    cnm.call(*CREATE, "blue").fails(INVALID, "store.endpoints[0]: must be http")
    cnm.run("network", "create", "plain")  # other drivers do not ask


def test_killed(cnm: Cnm, underlay: None) -> None:
    """What `create` and `rm` leave when they are killed, the same command makes whole."""
    for thousandths in range(0, 500, 50):
        cnm.kill(thousandths / 1000, *CREATE, "--subnet", "10.7.0.0/24", "blue")
        again = cnm.call(*CREATE, "--subnet", "10.7.0.0/24", "blue")
        assert again.code == 0 or "already exists" in again.err, again
        assert cnm.plugin("blue")["vni"] == 4097
        cnm.kill(thousandths / 1000, "network", "rm", "blue")
        assert cnm.call("network", "rm", "blue").code in (0, NOT_FOUND)
        assert stored() == []
        assert not list(cnm.networks.glob("*.conflist"))


def test_prune(cnm: Cnm, underlay: None, netns: Sandboxes) -> None:
    """An overlay that nobody uses goes, one in use stays."""
    for name in ("blue", "red"):
        cnm.run(*CREATE, name)
    cnm.add("red", netns())
    assert cnm.run("network", "prune", "-f") == "blue\n"
    assert not [key for key in stored() if "blue" in key]


def test_two_hosts(hosts: list[Host], both: list[Cnm], netns: Sandboxes) -> None:
    """The second host's file follows from the name; traffic, peers, and the way out."""
    first, second = both
    first.run(
        *CREATE, "--subnet", "10.7.0.0/24", "--gateway", "10.7.0.9", "-o", "port=8472", "blue"
    )
    second.run(*CREATE, "blue")
    for key in ("vni", "port", "mtu", "subnets"):
        assert first.plugin("blue")[key] == second.plugin("blue")[key]
    assert second.plugin("blue")["store"] == {"endpoints": [hosts[1].etcd.url]}
    assert (first.networks / "90-blue.conflist").stat().st_mode & 0o777 == 0o600
    one, other = netns(), netns()
    first.add("blue", one)
    # Not by cnitool: its cache would be both hosts'.
    result = hosts[1].add(other, network_of(second))
    address = cni.addresses(result)[0]
    hosts[0].add(one, network_of(first), ifname="eth1", path=str(hosts[0].bin))
    assert one.reaches(address)
    shown = first.inspect("blue")
    assert [(each["Name"], each["IP"]) for each in shown["Peers"]] == [
        ("host-1", "10.99.0.1"),
        ("host-2", "10.99.0.2"),
    ]
    assert [each["IPv4Address"] for each in shown["Peers"][1]["Endpoints"]] == [address]
    assert shown["Status"]["IPAM"]["Subnets"]["10.7.0.0/24"]["IPsInUse"] == 3
    hosts[0].delete(one, network_of(first), ifname="eth1")
    first.delete("blue", one)
    refused = first.call("network", "rm", "blue")
    refused.fails(IN_THE_WAY, "endpoints on other hosts", f"host-2/id-{other.name}:eth0")
    first.run("network", "connect", "blue", one.name)
    first.call("network", "rm", "-f", "blue").fails(IN_THE_WAY, "endpoints on other hosts")
    assert "eth0" in one.links()
    first.run("network", "disconnect", "blue", one.name)
    assert first.run("network", "prune", "-f") == ""
    assert first.file("blue")
    hosts[1].delete(other, network_of(second))
    first.run("network", "rm", "blue")
    second.run("network", "rm", "blue")
    for host in hosts:
        assert set(host.netns.links()) == {"lo", "uplink"}
        assert not list((host.directory / "lib").glob("blue*"))
        assert not list((host.directory / "run").rglob("*blue*"))
    # All of it can be had again.
    second.run(*CREATE, "--subnet", "10.7.0.0/24", "red")
    assert second.plugin("red")["vni"] == 4097


def test_conflicts(both: list[Cnm]) -> None:
    """Name, VNI and subnets are the whole cluster's."""
    first, second = both
    first.run(*CREATE, "--subnet", "10.7.0.0/24", "-o", "vni=5000", "blue")
    create = second.call
    create(*CREATE, "--subnet", "10.8.0.0/24", "blue").fails(
        IN_THE_WAY, "subnets: are 10.8.0.0/24", "and 10.7.0.0/24 with gateway 10.7.0.1 for network"
    )
    create(*CREATE, "--internal", "blue").fails(IN_THE_WAY, "internal: is true here")
    create(*CREATE, "--ipv6", "blue").fails(IN_THE_WAY, "subnets: are 10.7.0.0/24")
    create(*CREATE, "-o", "vni=5001", "blue").fails(IN_THE_WAY, "vni: is 5001 here, and 5000")
    create(*CREATE, "-o", "vni=5000", "red").fails(
        IN_THE_WAY, 'vni: 5000 is that of network "blue"'
    )
    create(*CREATE, "--subnet", "10.7.0.0/25", "red").fails(
        IN_THE_WAY, '10.7.0.0/24 of network "blue" in the cluster'
    )
    assert not list(second.networks.glob("*"))
    second.run(*CREATE, "--subnet", "10.7.0.0/24", "-o", "vni=5000", "blue")
    first.call(*CREATE, "blue").fails(IN_THE_WAY, "already exists")
    # Two who do not know of each other get different subnets.
    first.run(*CREATE, "red")
    second.run(*CREATE, "green")
    assert first.plugin("red")["subnets"] != second.plugin("green")["subnets"]


def test_overlap_at_once(both: list[Cnm]) -> None:
    """Of hosts that make overlapping networks at the same time one succeeds."""
    words = [(cnm, f"{name}{number}") for number, cnm in enumerate(both) for name in ("a", "b")]
    with ThreadPoolExecutor(4) as pool:
        subnet = ("--subnet", "10.7.0.0/24")
        done = list(pool.map(lambda each: each[0].call(*CREATE, *subnet, each[1]), words))
    assert sorted(each.code for each in done) == [0, IN_THE_WAY, IN_THE_WAY, IN_THE_WAY], done
    assert sum(len(list(cnm.networks.glob("*.conflist"))) for cnm in both) == 1


def test_overlap_in_store(hosts: list[Host], netns: Sandboxes) -> None:
    """Files that were written by hand cannot have overlapping subnets either."""
    hosts[0].add(netns())
    red = hosts[1].network("red", subnets=[{"subnet": "10.7.0.128/25"}])
    error = hosts[1].call("ADD", red, netns()).error(cni.INVALID_CONFIG)
    assert '10.7.0.128/25 overlaps with 10.7.0.0/24 of network "blue"' in error["msg"]


def test_store_down(hosts: list[Host], both: list[Cnm], netns: Sandboxes) -> None:
    """Without the store `inspect` shows this host's side, and `rm` leaves all as it is."""
    cnm, sandbox = both[0], netns()
    cnm.run(*CREATE, "blue")
    cnm.add("blue", sandbox)
    hosts[0].etcd.kill()
    done = cnm.call("network", "inspect", "blue")
    assert done.code == 0 and "etcd cannot be reached" in done.err
    (shown,) = json.loads(done.out)
    assert (shown["VNI"], shown["Peers"]) == (4097, [])
    assert len(shown["Containers"]) == 1
    assert {"ov-001001", "vx-001001"} < {each["Name"] for each in shown["Kernel"]["Links"]}
    cnm.delete("blue", sandbox)
    cnm.call("network", "rm", "blue").fails(FAILED, "etcd cannot be reached")
    cnm.call("node", "ls").fails(FAILED, "etcd cannot be reached")
    assert cnm.file("blue")
    hosts[0].etcd.start()
    cnm.run("network", "rm", "blue")  # with the release that had to wait
    assert cnm.call("network", "inspect", "blue").code == NOT_FOUND


def test_nodes(hosts: list[Host], both: list[Cnm], netns: Sandboxes) -> None:
    """Listed with agents and endpoints; one that is fenced has nothing any more."""
    first, second = both
    for each in both:
        each.run(*CREATE, "blue")
    hosts[1].start_agent()
    hosts[1].add(netns(), network_of(second))
    assert first.run("node", "ls").splitlines() == [
        "NAME     VTEP        ALIVE   ENDPOINTS",
        "host-1   10.99.0.1   no      0",
        "host-2   10.99.0.2   yes     1",
    ]
    first.call("node", "fence", "host-3").fails(NOT_FOUND, '"host-3"', "cnm node ls")
    first.call("node", "fence").fails(USAGE, "NODE")
    refused = first.call("node", "fence", "host-2", stdin="n\n")
    assert refused.code == INTERRUPTED
    assert "1 endpoints and 1 blocks of addresses, and its agent is alive" in refused.err
    hosts[1].stop_agent()
    first.call("network", "rm", "blue").fails(IN_THE_WAY, "host-2/")
    assert first.run("node", "fence", "-f", "host-2") == "host-2\n"
    assert [each["Name"] for each in first.lines("node", "ls")] == ["host-1"]
    first.run("network", "rm", "blue")


def test_default_file(hosts: list[Host], both: list[Cnm]) -> None:
    """Where the variable names no file a host is alone; --agent-config names one."""
    alone = replace(both[0], agent=hosts[0].directory / "nothing.json")
    named = ("--agent-config", str(both[0].agent))
    both[0].run(*CREATE, "blue")
    assert alone.lines("node", "ls") == []
    assert len(alone.lines("node", "ls", *named)) == 1
