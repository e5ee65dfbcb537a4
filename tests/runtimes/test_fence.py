"""A host that was fenced and comes back, with an agent or without; three hosts and a real etcd."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import cni
from tests.etcd import Etcd
from tests.hosts import Host, Sandboxes, cluster
from tests.iproute import Netns


@pytest.fixture
def hosts(node: None, tmp_path: Path, cni_bin: Path) -> Iterator[list[Host]]:
    """Three hosts, the last two with agents."""
    with cluster(3, tmp_path, cni_bin) as (found, _):
        for host in found[1:]:
            host.start_agent()
        yield found


@pytest.fixture
def etcd(hosts: list[Host]) -> Etcd:
    """Their etcd."""
    return hosts[0].etcd


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + cni.PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def owners(etcd: Etcd) -> dict[str, str]:
    """Who has which address."""
    return {key.rpartition("/")[2]: value for key, value in etcd.keys("ips/blue/").items()}


def doctor_on(host: Host, sandbox: Netns) -> list[str]:
    """What doctor says of a container's endpoint."""
    cnm = host.cnm()
    cnm.put("90-blue.conflist", {**host.network(), "plugins": [host.network()]})
    done = cnm.call("doctor", "--format", "json")
    found = map(json.loads, done.out.splitlines())
    return [each["message"] for each in found if sandbox.name in each["subject"]]


@pytest.mark.parametrize("notices", ["running agent", "starting agent", "next ADD"])
def test_return(hosts: list[Host], etcd: Etcd, netns: Sandboxes, notices: str) -> None:
    """What is still free is its own again; what was given away is cut off; nothing is twice."""
    back, other, third = hosts
    if notices == "running agent":
        back.start_agent()
    kept, robbed, last = sandboxes = [netns() for _ in range(3)]
    results = [back.add(each) for each in sandboxes]
    addresses = [cni.addresses(result)[0] for result in results]
    witness, heir = netns(), netns()
    third.add(witness)
    back.netns.ip("link", "set", "uplink", "down")
    assert other.cnm().run("node", "fence", "-f", "host-1") == "host-1\n"
    assert "host-1/" not in str(etcd.keys())
    other.add(heir, other.network(args={"cni": {"ips": [addresses[1]]}}))
    back.netns.ip("link", "set", "uplink", "up")

    if notices == "starting agent":
        back.start_agent()
    if notices == "next ADD":
        done = back.call("ADD", back.network(), netns())
        assert done.code == 0 and b"is cut off" in done.stderr, done
    else:
        back.await_event("cut-off")
    claims = {
        addresses[0]: f"host-1/id-{kept.name}:eth0",
        addresses[1]: f"host-2/id-{heir.name}:eth0",
        addresses[2]: f"host-1/id-{last.name}:eth0",
    }
    eventually(lambda: {ip: owners(etcd).get(ip) for ip in claims} == claims)
    assert not [key for key in etcd.keys("endpoints/") if robbed.name in key]
    assert all(witness.reaches(address, seconds=cni.PATIENCE) for address in addresses)
    eventually(lambda: ("neighbour", addresses[1], heir_mac(heir)) in back.entries())
    assert not robbed.reaches(addresses[0], seconds=1)
    # The heir: its namesake beside it has no carrier.
    assert kept.reaches(addresses[1], seconds=cni.PATIENCE)
    error = back.check(robbed, results[1]).error(105)
    assert f"host-2/id-{heir.name}:eth0" in error["msg"]
    assert doctor_on(back, robbed) == [
        f"id-{robbed.name}:eth0 is cut off: {addresses[1]} is host-2/id-{heir.name}:eth0's by now"
    ]
    assert doctor_on(back, kept) == []
    if notices != "next ADD":
        for event in ("joined", "republished", "cut-off"):
            back.await_event(event)
        eventually(lambda: 'cut_off_endpoints{network="blue"} 1' in back.get("/metrics")[1])
        eventually(lambda: "host-1" in alive(back))
    back.delete(robbed)
    assert owners(etcd)[addresses[1]] == claims[addresses[1]]
    assert cni.addresses(back.add(robbed))[0] not in addresses
    assert witness.reaches(addresses[1], seconds=cni.PATIENCE)


def alive(host: Host) -> list[str]:
    """The hosts with an agent, by the command line of one."""
    return [each["Name"] for each in host.cnm().lines("node", "ls") if each["Alive"]]


def heir_mac(sandbox: Netns) -> str:
    """The MAC address of a container's interface."""
    mac: str = sandbox.link("eth0")["address"]
    return mac


def test_free_again(hosts: list[Host], etcd: Etcd, netns: Sandboxes) -> None:
    """An endpoint that was cut off is back once its address is free again, as it was."""
    back, other, third = hosts
    one, heir, witness = netns(), netns(), netns()
    result = back.add(one)
    address = cni.addresses(result)[0]
    third.add(witness)
    other.cnm().run("node", "fence", "-f", "host-1")
    other.add(heir, other.network(args={"cni": {"ips": [address]}}))
    back.start_agent()
    back.await_event("cut-off")
    assert not one.reaches(cni.addresses({"ips": [{"address": "10.7.0.1/24"}]})[0], seconds=1)
    other.delete(heir)
    back.stop_agent()
    back.start_agent()
    back.await_event("republished")
    assert owners(etcd)[address] == f"host-1/id-{one.name}:eth0"
    assert witness.reaches(address, seconds=cni.PATIENCE)
    eventually(lambda: back.check(one, result).code == 0)


@pytest.mark.parametrize("mode", ["l2", "l3"])
def test_other_address(hosts: list[Host], etcd: Etcd, netns: Sandboxes, mode: str) -> None:
    """A host that gets another address on the underlay is reached by it, with an agent or not."""
    for host in hosts:
        host.overrides["mode"] = mode
    moved = [(host, netns(), f"10.99.0.{host.number}0") for host in hosts[:2]]
    witness, addresses = netns(), []
    hosts[2].add(witness)
    for host, sandbox, _ in moved:
        addresses.append(cni.addresses(host.add(sandbox))[0])
    eventually(lambda: all(map(witness.reaches, addresses)))
    for host, _, vtep in moved:
        host.netns.ip("addr", "flush", "dev", "uplink", "scope", "global")
        host.netns.ip("addr", "add", f"{vtep}/24", "dev", "uplink")
        host.overrides["underlay"] = vtep
    hosts[1].stop_agent()
    hosts[1].start_agent()

    def known() -> set[str]:
        return {json.loads(value)["vtep"] for value in etcd.keys("endpoints/").values()}

    eventually(lambda: "10.99.0.20" in known())
    hosts[0].add(netns())
    assert known() == {"10.99.0.10", "10.99.0.20", hosts[2].address}
    eventually(lambda: all(map(witness.reaches, addresses)))
    assert moved[1][1].reaches(addresses[0])


def test_cut_off_no_more(hosts: list[Host], netns: Sandboxes) -> None:
    """Of an endpoint that was cut off nothing is counted once it is removed, and its bridge."""
    back, other, _ = hosts
    one = netns()
    address = cni.addresses(back.add(one))[0]
    other.cnm().run("node", "fence", "-f", "host-1")
    other.add(netns(), other.network(args={"cni": {"ips": [address]}}))
    back.start_agent()
    counted = 'cnm_agent_cut_off_endpoints{network="blue"}'
    eventually(lambda: f"{counted} 1" in back.get("/metrics")[1])
    back.delete(one)
    eventually(lambda: f"{counted} 1" not in back.get("/metrics")[1])


def test_gone_meanwhile(hosts: list[Host], etcd: Etcd, netns: Sandboxes) -> None:
    """What is removed while a host is fenced does not come back with it."""
    back, other, _ = hosts
    one, stay = netns(), netns()
    back.add(one)
    back.add(stay)
    other.cnm().run("node", "fence", "-f", "host-1")
    back.delete(one)
    back.start_agent()
    back.await_event("republished")
    (only,) = etcd.keys("endpoints/")
    assert only == f"endpoints/blue/host-1/id-{stay.name}:eth0"
    assert len(owners(etcd)) == 1


def test_network_gone_meanwhile(hosts: list[Host], etcd: Etcd, netns: Sandboxes) -> None:
    """A network that was removed while its host was fenced is not made again by the agent."""
    back, other, _ = hosts
    sandbox = netns()
    back.add(sandbox)
    other.cnm().run("node", "fence", "-f", "host-1")
    for key in ("networks/blue", "vnis/4097"):
        etcd.delete(key)
    back.start_agent()
    back.await_event("failed")
    assert "no such network any more" in back.log.read_text()
    assert "/blue" not in str(etcd.keys())
    back.delete(sandbox)
