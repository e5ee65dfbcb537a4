"""What hosts do with a store that holds nonsense, false claims, or a newer version's keys."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import cni
from tests.etcd import Etcd
from tests.hosts import Host, Sandboxes, cluster

NETWORK = {"vni": 5000, "port": 4789, "mtu": 1450, "internal": False}
SENSELESS = {
    "endpoints/blue": "{}",
    "endpoints/blue/host-9": "{}",
    "endpoints/blue/host-9/no-colon": "{}",
    "endpoints/blue/host-9/x:eth0": "not JSON",
    "endpoints/blue/host-9/y:eth0": '{"ips": ["10.7.0.99"], "mac": "02:42:0a:07:00:63"}',
    "endpoints/blue/host-9/z:eth0": (
        '{"ips": ["10.7.0.98"], "mac": "00:00:00:00:00:00", "vtep": "10.99.0.2"}'
    ),
    "endpoints/blue/host-9/deep/er:eth0": "{}",
    "members/host-8": "[]",
    "members/host-7/more": '{"vtep": "10.99.0.7", "mtu": 1450}',
    "members/host-6": '{"vtep": "10.99.0.7", "mtu": "wide"}',
    "networks/red": "",
    "networks/green": json.dumps({**NETWORK, "subnets": [{"subnet": "10.7.0.0/24"}]}),
    "networks/grey": json.dumps({**NETWORK, "subnets": []}),
    "vnis/many": "red",
    "blocks/blue/10.7.0.0": "host-9",
    "blocks/blue/10.7.0.1_27": "host-9",
}
# Well formed, and of no use: another family than the underlay's, the gateway's, out of the subnet.
IMPOSSIBLE = {
    "endpoints/blue/host-9/a:eth0": {"ips": ["10.7.0.90"], "vtep": "fd00::9"},
    "endpoints/blue/host-9/b:eth0": {"ips": ["10.7.0.1"], "vtep": "10.99.0.9"},
    "endpoints/blue/host-9/c:eth0": {"ips": ["10.8.0.1"], "vtep": "10.99.0.9"},
}


@pytest.fixture
def hosts(node: None, tmp_path: Path, cni_bin: Path) -> Iterator[list[Host]]:
    """Two hosts."""
    with cluster(2, tmp_path, cni_bin) as (found, _):
        yield found


@pytest.fixture
def etcd(hosts: list[Host]) -> Etcd:
    """Their etcd."""
    return hosts[0].etcd


def write_nonsense(etcd: Etcd) -> None:
    """Have everything in the store that should not be there."""
    for key, value in SENSELESS.items():
        etcd.put(key, value)
    for number, (key, fields) in enumerate(IMPOSSIBLE.items()):
        etcd.put(key, json.dumps({**fields, "mac": f"02:42:00:00:00:{number:02x}"}))


def neighbours(host: Host) -> set[str]:
    """The addresses that a host has entries for."""
    return {row[1] for row in host.entries() if row[0] == "neighbour"}


def await_neighbours(host: Host, wanted: set[str]) -> None:
    """Wait until an agent has made a host's entries those."""
    deadline = time.monotonic() + cni.PATIENCE
    while neighbours(host) != wanted:
        assert time.monotonic() < deadline, (neighbours(host), wanted)
        time.sleep(0.05)


def await_health(host: Host, status: int, words: str) -> None:
    """Wait until an agent says that of its health."""
    deadline = time.monotonic() + cni.PATIENCE
    while (found := host.get("/healthz"))[0] != status or words not in found[1]:
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


def ignored(host: Host) -> int:
    """How many entries an agent has passed over, by its metrics."""
    metrics = dict(line.rsplit(" ", 1) for line in host.get("/metrics")[1].splitlines())
    return int(metrics["cnm_agent_ignored_entries_total"])


def kept(etcd: Etcd) -> dict[str, str]:
    """What the store has, but for who is alive: that goes without an agent's doing."""
    return {key: value for key, value in etcd.keys().items() if not key.startswith("alive/")}


def test_nonsense_without_agent(hosts: list[Host], etcd: Etcd, netns: Sandboxes) -> None:
    """ADD, CHECK, GC and DEL pass over what makes no sense, and say so."""
    write_nonsense(etcd)
    one, other = netns(), netns()
    address = cni.addresses(hosts[1].add(other))[0]
    done = hosts[0].call("ADD", hosts[0].network(), one)
    result = done.result()
    for word in ("members/host-8", "blocks/blue/10.7.0.0", "endpoints/blue/host-9/x:eth0"):
        assert f'"{word}" of the cluster makes no sense' in done.stderr.decode()
    assert neighbours(hosts[0]) == {address}
    hosts[1].add(netns())  # reads what has been added since
    assert one.reaches(address)
    hosts[0].add(netns())
    assert hosts[0].check(one, result).code == 0
    hosts[0].delete(one)
    assert f"endpoints/blue/host-1/id-{one.name}:eth0" not in etcd.keys("endpoints/")
    assert set(SENSELESS) <= set(etcd.keys())


def test_nonsense_with_agent(hosts: list[Host], etcd: Etcd, netns: Sandboxes) -> None:
    """An agent passes over what makes no sense, at its start and later, and counts it."""
    one, other = netns(), netns()
    hosts[0].add(one)
    write_nonsense(etcd)
    hosts[0].start_agent()
    address = cni.addresses(hosts[1].add(other))[0]
    await_neighbours(hosts[0], {address})
    for key in (*SENSELESS, *IMPOSSIBLE):
        etcd.delete(key)
    write_nonsense(etcd)
    hosts[1].delete(other)
    await_neighbours(hosts[0], set())
    assert "failed" not in hosts[0].events()
    assert "ignored" in hosts[0].events()
    deadline = time.monotonic() + cni.PATIENCE
    while ignored(hosts[0]) < 14:  # by several threads
        assert time.monotonic() < deadline, hosts[0].log.read_text()
        time.sleep(0.1)
    said = [json.loads(line) for line in hosts[0].log.read_text().splitlines() if "ignored" in line]
    assert len({each["error"] for each in said}) == len(said)  # each once
    await_health(hosts[0], 200, "ok")


def test_damaged_endpoint(hosts: list[Host], etcd: Etcd, netns: Sandboxes) -> None:
    """An endpoint whose entry somebody damaged goes with its addresses, and its peers lose it."""
    one, other = netns(), netns()
    hosts[0].add(one)
    hosts[1].start_agent()
    hosts[1].add(other)
    await_neighbours(hosts[1], {"10.7.0.2"})
    etcd.put(f"endpoints/blue/host-1/id-{one.name}:eth0", "{")
    await_neighbours(hosts[1], set())
    hosts[0].delete(one)
    assert list(etcd.keys("endpoints/")) == [f"endpoints/blue/host-2/id-{other.name}:eth0"]
    assert list(etcd.keys("ips/blue/10.7.0.2")) == []


def test_damaged_member(hosts: list[Host], etcd: Etcd, netns: Sandboxes) -> None:
    """A host whose own membership is damaged writes it anew."""
    etcd.put("members/host-1", "{")
    hosts[0].add(netns())
    assert json.loads(etcd.keys("members/")["members/host-1"])["vtep"] == "10.99.0.1"


def test_damaged_network(hosts: list[Host], etcd: Etcd, netns: Sandboxes) -> None:
    """A network whose own entry is damaged takes nobody, and the error names the entry."""
    etcd.put("networks/blue", "{}")
    error = hosts[0].call("ADD", hosts[0].network(), netns()).error(101)
    assert '"networks/blue" of the cluster makes no sense' in error["msg"]
    assert set(hosts[0].netns.links()) == {"lo", "uplink"}


def test_unknown_members_of_values(hosts: list[Host], etcd: Etcd, netns: Sandboxes) -> None:
    """What a newer version has added to values is left alone, and what is known is followed."""
    hosts[0].add(netns())
    found = etcd.keys()
    for key in ("members/host-1", "networks/blue", "members/host-2"):
        fields = json.loads(found.get(key, '{"vtep": "10.99.0.2", "mtu": 1450}'))
        etcd.put(key, json.dumps({**fields, "color": {"of": "tomorrow"}}))
    hosts[0].start_agent()
    one = netns()
    hosts[1].netns.ip("link", "set", "uplink", "mtu", "1600")
    result = hosts[1].add(one)  # writes the membership anew
    member = json.loads(etcd.keys()["members/host-2"])
    assert member == {"vtep": "10.99.0.2", "mtu": 1550, "color": {"of": "tomorrow"}}
    (key,) = etcd.keys("endpoints/blue/host-2/")
    fields = json.loads(etcd.keys()[key])
    etcd.put(key, json.dumps({**fields, "zone": 7}))
    await_neighbours(hosts[0], set(cni.addresses(result)))
    hosts[0].add(netns())
    assert "color" in json.loads(etcd.keys()["networks/blue"])
    assert "color" in json.loads(etcd.keys()["members/host-1"])


@pytest.mark.parametrize(
    ("member", "words"),
    [
        ({"needs": ["geneve"]}, 'needs ["geneve"], which this version of cnm does not know'),
        ({"mode": "l5"}, "must be l2 or l3"),
        ({"bum": "multicast"}, "must be none or ingress-replication"),
        ({"encrypted": "quantum"}, "encrypted is not true or false"),
        ({"internal": {"but": "dns"}}, "internal is not true or false"),
    ],
)
def test_newer_network(
    hosts: list[Host], etcd: Etcd, netns: Sandboxes, member: cni.Config, words: str
) -> None:
    """A host has no part in a network of which it does not know what that needs; in others it has.

    Taken for a plain one it would be neither reached nor, where it is to be, encrypted.
    """
    fields = {**NETWORK, "subnets": [{"subnet": "10.7.0.0/24", "gateway": "10.7.0.1"}], **member}
    etcd.put("networks/blue", json.dumps(fields))
    etcd.put("vnis/5000", "blue")
    error = hosts[0].call("ADD", hosts[0].network(), netns()).error(101)
    assert '"networks/blue" of the cluster makes no sense' in error["msg"]
    assert words in error["msg"]
    assert set(hosts[0].netns.links()) == {"lo", "uplink"}
    assert not etcd.keys("blocks/blue/")
    hosts[0].add(netns(), hosts[0].network("red", subnets=[{"subnet": "10.8.0.0/24"}]))
    assert json.loads(etcd.keys()["networks/blue"]) == fields


def test_newer_schema(hosts: list[Host], etcd: Etcd, netns: Sandboxes) -> None:
    """Of a store that a newer version has taken over ADD and agent keep away, and say why."""
    one, other = netns(), netns()
    hosts[0].add(one)
    hosts[0].add(netns())
    address = cni.addresses(hosts[1].add(other))[0]
    hosts[0].start_agent()
    await_neighbours(hosts[0], {address})
    etcd.put("schema", "2")
    before = kept(etcd)
    for host in hosts:  # one that knows the network, and one that has to ask
        error = host.call("ADD", host.network(), netns()).error(101)
        assert 'the cluster is of schema "2"' in error["msg"]
        assert "install" in error["details"]
        red = host.network("red", subnets=[{"subnet": "10.8.0.0/24"}])
        host.call("ADD", red, netns()).error(101)
    hosts[0].cnm().call("node", "ls").fails(1, 'schema "2"')
    hosts[0].delete(one)  # journaled, since the new version may mean another thing by it
    assert kept(etcd) == before
    await_health(hosts[0], 503, 'schema "2"')
    assert neighbours(hosts[0]) == {address}
    etcd.delete("schema")
    hosts[0].add(netns())
    assert f"endpoints/blue/host-1/id-{one.name}:eth0" not in etcd.keys("endpoints/")
    await_health(hosts[0], 200, "ok")


@pytest.mark.parametrize("block", ["10.7.0.0_27", "10.7.0.0_26", "10.7.0.8_29", "10.7.0.5_32"])
def test_claim_of_another_hosts_block(
    hosts: list[Host], etcd: Etcd, netns: Sandboxes, block: str
) -> None:
    """A host that claims another's block is refused, and its victim gets on."""
    victim, robber = hosts
    first = cni.addresses(victim.add(netns()))[0]
    etcd.put(f"blocks/blue/{block}", robber.name)
    before = etcd.keys()
    sandbox = netns()
    error = robber.call("ADD", robber.network(), sandbox).error(108)
    assert f'block {block.replace("_", "/")} of network "blue"' in error["msg"]
    assert f'"blocks/blue/{block}"' in error["details"]
    after = etcd.keys()
    after.pop("members/host-2")  # it has joined, which it may
    assert after == before
    assert set(robber.netns.links()) == {"lo", "uplink"}
    assert set(sandbox.links()) == {"lo"}
    assert not list((robber.directory / "lib").rglob("10.7.*"))
    second = cni.addresses(victim.add(netns()))[0]
    assert second != first
    etcd.delete(f"blocks/blue/{block}")
    assert cni.addresses(robber.add(sandbox))[0] not in (first, second)
    third = cni.addresses(victim.add(netns()))[0]
    assert len({first, second, third}) == 3
