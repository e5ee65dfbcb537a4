"""Overlay networks over namespaces as hosts, on a real etcd."""

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from netaddr import IPAddress, IPNetwork

from cnm_core.cli.drivers import open_network
from cnm_core.config.overlay import overlay_config
from cnm_core.drivers import overlay
from cnm_core.kernel.netlink import Socket
from cnm_core.store.cluster import Cluster
from cnm_core.store.membership import open_membership
from tests import cni
from tests.etcd import Etcd
from tests.hosts import Host, Sandboxes, cluster, remote_rows
from tests.iproute import Netns, exchange_by_tcp


@pytest.fixture
def hosts(node: None, tmp_path: Path, cni_bin: Path) -> Iterator[list[Host]]:
    """Three hosts."""
    with cluster(3, tmp_path, cni_bin) as (found, _):
        yield found


@pytest.fixture
def etcd(hosts: list[Host]) -> Etcd:
    """Their etcd."""
    return hosts[0].etcd


def ip_of(result: cni.Config) -> str:
    """The first address of a result."""
    return cni.addresses(result)[0]


def mac_of(result: cni.Config) -> str:
    """The container end's MAC address."""
    mac: str = next(each["mac"] for each in result["interfaces"] if each.get("sandbox"))
    return mac


def catch_up(host: Host, netns: Sandboxes) -> None:
    """Have a host without an agent read what the others have written: by an ADD and a DEL."""
    sandbox = netns()
    host.add(sandbox)
    host.delete(sandbox)


def test_told_meanwhile(
    hosts: list[Host], netns: Sandboxes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an agent is told of right after an ADD has read the store stays as the agent has it."""
    near, far = hosts[:2]
    near.add(netns())
    latecomer = netns()
    near.netns.ip("link", "delete", "vx-001001")
    options = overlay_config(near.network())
    membership = open_membership(options, lambda error: None)
    read = Cluster.endpoints_until
    made: dict[str, tuple[Host, str]] = {}

    def read_too_early(*arguments: Any) -> Any:
        found = read(*arguments)
        result = far.add(latecomer)
        made[ip_of(result)] = far, mac_of(result)
        view = membership.known("blue")
        assert view is not None
        overlay.reconcile(Socket(), view, membership.cluster.endpoints("blue"))
        return found

    monkeypatch.setattr(Cluster, "endpoints_until", read_too_early)
    with near.netns.entered(), membership.followed():
        driver, network = open_network("blue", near.network())
        driver.create_network(network, ())
    assert near.entries() == remote_rows(made, near)


def test_reach(hosts: list[Host], netns: Sandboxes) -> None:
    """Containers on three hosts reach each other, by ping and by TCP, and CHECK is content."""
    sandboxes = [netns() for _ in hosts]
    results = [host.add(sandbox) for host, sandbox in zip(hosts, sandboxes, strict=True)]
    addresses = [ip_of(result) for result in results]
    assert len(set(addresses)) == 3
    for host in hosts:
        catch_up(host, netns)
    for client in sandboxes:
        assert all(client.reaches(address) for address in addresses)
    payload = b"over the overlay " * 20000
    assert exchange_by_tcp(sandboxes[0], sandboxes[2], addresses[2], payload) == payload
    endpoints = {
        ip_of(result): (host, mac_of(result)) for host, result in zip(hosts, results, strict=True)
    }
    for host, sandbox, result in zip(hosts, sandboxes, results, strict=True):
        assert host.entries() == remote_rows(endpoints, host)
        host.check(sandbox, result).silent()
    for host, sandbox in zip(hosts, sandboxes, strict=True):
        host.delete(sandbox)
    for host in hosts:
        assert set(host.netns.links()) == {"lo", "uplink"}


def test_mtu(hosts: list[Host], netns: Sandboxes) -> None:
    """The MTU is what the underlay leaves; a packet of that size arrives whole."""
    one, two = netns(), netns()
    hosts[0].add(one)
    address = ip_of(hosts[1].add(two))
    catch_up(hosts[0], netns)
    assert one.link("eth0")["mtu"] == 1450
    one.run(["ping", "-n", "-q", "-c1", f"-W{cni.PATIENCE}", "-Mdo", "-s1422", address])


def test_underlay_mtu_too_small(hosts: list[Host], netns: Sandboxes) -> None:
    """A host whose underlay leaves less than the network's MTU says so."""
    hosts[0].add(netns())
    hosts[1].netns.ip("link", "set", "uplink", "mtu", "1400")
    error = hosts[1].call("ADD", hosts[1].network(), netns()).error(cni.INVALID_CONFIG)
    assert 'mtu: is 1450 on network "blue"' in error["msg"] and "leaves 1350" in error["msg"]


def test_dual_stack(hosts: list[Host], netns: Sandboxes) -> None:
    """One address of each subnet, and both reach."""
    members = {"subnets": [{"subnet": "10.7.0.0/24"}, {"subnet": "fd00:7::/64"}]}
    one, two = netns(), netns()
    hosts[0].add(one, hosts[0].network(**members))
    result = hosts[1].add(two, hosts[1].network(**members))
    extra = netns()
    hosts[0].add(extra, hosts[0].network(**members))
    for address in cni.addresses(result):
        assert one.reaches(address, seconds=cni.PATIENCE)


def test_outside(hosts: list[Host], netns: Sandboxes) -> None:
    """A container reaches the underlay through its host, unless the network is internal."""
    open_one, closed = netns(), netns()
    hosts[0].add(open_one)
    internal = {"internal": True, "subnets": [{"subnet": "10.8.0.0/24"}]}
    result = hosts[0].add(closed, hosts[0].network("red", **internal))
    assert open_one.reaches(hosts[1].address)
    assert not closed.reaches(hosts[1].address, seconds=1)
    assert closed.routes(4) and all(each["dst"] != "default" for each in closed.routes(4))
    hosts[0].call("CHECK", hosts[0].network("red", prevResult=result, **internal), closed).silent()


def test_published_port(hosts: list[Host], netns: Sandboxes) -> None:
    """A published port leads from another host to the container."""
    sandbox = netns()
    ports = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]
    config = hosts[0].network(
        capabilities={"portMappings": True}, runtimeConfig={"portMappings": ports}
    )
    hosts[0].add(sandbox, config)
    with sandbox.entered():
        listener = socket.create_server(("", 80))
    with hosts[1].netns.entered(), listener:
        socket.create_connection((hosts[0].address, 8080), timeout=cni.PATIENCE).close()


def give_ipv6(hosts: list[Host]) -> None:
    """Have addresses of IPv6 on the underlay, too: fd99::1 and on."""
    for host in hosts:
        host.netns.ip("addr", "add", f"fd99::{host.number}/64", "dev", "uplink", "nodad")


def test_several_subnets(hosts: list[Host], netns: Sandboxes) -> None:
    """A container has an address of each subnet, with its gateway, and all of them reach."""
    subnets = ["10.7.0.0/24", "10.9.0.0/24", "fd00:7::/64", "fd00:9::/64"]
    members: dict[str, Any] = {"subnets": [{"subnet": each} for each in subnets]}
    one, two = netns(), netns()
    hosts[0].add(one, hosts[0].network(**members))
    result = hosts[1].add(two, hosts[1].network(**members))
    hosts[0].add(netns(), hosts[0].network(**members))
    hosts[1].add(netns(), hosts[1].network(**members))
    found = cni.addresses(result)
    assert len(found) == 4
    for address, subnet in zip(found, subnets, strict=True):
        assert IPAddress(address) in IPNetwork(subnet)
        assert one.reaches(address, seconds=cni.PATIENCE)
    config = hosts[1].network(prevResult=result, **members)
    hosts[1].call("CHECK", config, two).silent()


@pytest.mark.parametrize("underlay", ["10.99.0.{}", "fd99::{}"])
def test_ipv6_only(hosts: list[Host], netns: Sandboxes, underlay: str) -> None:
    """IPv6 inside alone, over either version."""
    give_ipv6(hosts)
    for host in hosts:
        members = {"underlay": underlay.format(host.number), "subnets": [{"subnet": "fd00:7::/64"}]}
        host.overrides.update(members)
    one, two = netns(), netns()
    hosts[0].add(one)
    address = ip_of(hosts[1].add(two))
    catch_up(hosts[0], netns)
    assert one.addresses("eth0")[0].startswith("fd00:7::")
    assert one.reaches(address, seconds=cni.PATIENCE)


def test_mixed_underlay(hosts: list[Host], netns: Sandboxes) -> None:
    """A host whose underlay is of the other IP version is a member like others, out of reach."""
    give_ipv6(hosts)
    hosts[2].overrides["underlay"] = "fd99::3"
    one, two = netns(), netns()
    hosts[2].add(netns())
    result = hosts[0].add(one)
    hosts[1].add(two)
    catch_up(hosts[0], netns)
    assert two.reaches(ip_of(result))
    hosts[0].check(one, result).silent()


def test_outside_by_ipv6(hosts: list[Host], netns: Sandboxes) -> None:
    """By IPv6 too what leaves is masqueraded: the underlay knows no way back to containers."""
    give_ipv6(hosts)
    sandbox = netns()
    hosts[0].add(sandbox, hosts[0].network(subnets=[{"subnet": "fd00:7::/64"}]))
    assert sandbox.reaches("fd99::2", seconds=cni.PATIENCE)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("version", [4, 6])
def test_published_ports(hosts: list[Host], netns: Sandboxes, version: int, protocol: str) -> None:
    """Another host and a container of the network on it reach a published port, by both IPs."""
    give_ipv6(hosts)
    members: dict[str, Any] = {"subnets": [{"subnet": "10.7.0.0/24"}, {"subnet": "fd00:7::/64"}]}
    ports = [{"hostPort": 8080, "containerPort": 80, "protocol": protocol}]
    asked: dict[str, Any] = {
        "capabilities": {"portMappings": True},
        "runtimeConfig": {"portMappings": ports},
    }
    sandbox, other = netns(), netns()
    hosts[0].add(sandbox, hosts[0].network(**members, **asked))
    hosts[1].add(other, hosts[1].network(**members))
    to = hosts[0].address if version == 4 else "fd99::1"
    for client in (hosts[1].netns, other, hosts[0].netns):
        assert answers(sandbox, client, to, protocol)
    hosts[0].delete(sandbox, hosts[0].network(**members, **asked))
    assert hosts[0].netns.run(["nft", "list", "ruleset"]).count("8080") == 0


def answers(server: Netns, client: Netns, to: str, protocol: str) -> bool:
    """Whether a client that asks port 8080 of an address is answered from a server's port 80."""
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with server.entered():
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("", 80))
    with client.entered():
        near = socket.socket(family, kind)
    with listener, near:
        for each in (listener, near):
            each.settimeout(cni.PATIENCE)
        if protocol == "tcp":
            listener.listen()
            near.connect((to, 8080))
            far, _ = listener.accept()
            with far:
                far.sendall(b"here")
        else:
            near.connect((to, 8080))
            near.send(b"who?")
            _, source = listener.recvfrom(9)
            listener.sendto(b"here", source)
        return near.recv(9) == b"here"


def test_many_at_once(hosts: list[Host], netns: Sandboxes) -> None:
    """Of parallel ADDs on several hosts none gets an address that another has."""
    sandboxes = [(host, netns()) for host in hosts for _ in range(12)]
    with ThreadPoolExecutor(12) as pool:
        results = list(pool.map(lambda each: each[0].add(each[1]), sandboxes))
    addresses = [ip_of(result) for result in results]
    assert len(set(addresses)) == len(sandboxes)


def test_static_address_moves(hosts: list[Host], netns: Sandboxes) -> None:
    """An address that was asked for is one host's at a time, and may move to another."""
    first, second = netns(), netns()
    wanted = {"args": {"cni": {"ips": ["10.7.0.200"]}}}
    result = hosts[0].add(first, hosts[0].network(**wanted))
    assert ip_of(result) == "10.7.0.200"
    error = hosts[1].call("ADD", hosts[1].network(**wanted), second).error()
    assert error["code"] == 103
    assert '"host-1/id-' in error["msg"] and "10.7.0.200" in error["msg"]
    hosts[0].delete(first)
    moved = hosts[1].add(second, hosts[1].network(**wanted))
    assert (ip_of(moved), mac_of(moved)) == ("10.7.0.200", mac_of(result))
    peer = netns()
    hosts[0].add(peer)
    catch_up(hosts[1], netns)
    assert peer.reaches("10.7.0.200")


def test_static_address_out_of_another_block(hosts: list[Host], netns: Sandboxes) -> None:
    """What another host was asked for out of this host's block is passed over here."""
    hosts[0].add(netns())  # the block 10.7.0.0/27
    wanted = {"args": {"cni": {"ips": ["10.7.0.3"]}}}
    hosts[1].add(netns(), hosts[1].network(**wanted))
    taken = {ip_of(hosts[0].add(netns())) for _ in range(3)}
    assert taken == {"10.7.0.4", "10.7.0.5", "10.7.0.6"}


def test_second_block(hosts: list[Host], netns: Sandboxes) -> None:
    """A host whose block is full gets another one."""
    config = hosts[0].network(subnets=[{"subnet": "10.7.0.0/28"}])
    other = hosts[1].network(subnets=[{"subnet": "10.7.0.0/28"}])
    results = [hosts[0].add(netns(), config), hosts[1].add(netns(), other)]
    results += [hosts[0].add(netns(), config) for _ in range(8)]
    addresses = [f"10.7.0.{number}" for number in (2, 4, 3, 8, 9, 10, 11, 12, 13, 14)]
    assert [ip_of(result) for result in results] == addresses


def test_taken_vni(hosts: list[Host], netns: Sandboxes) -> None:
    """A VNI is one network's."""
    hosts[0].add(netns(), hosts[0].network(vni=5000))
    red = hosts[1].network("red", vni=5000, subnets=[{"subnet": "10.8.0.0/24"}])
    error = hosts[1].call("ADD", red, netns()).error(cni.INVALID_CONFIG)
    assert error["msg"] == 'vni: 5000 is that of network "blue"'


def test_other_subnets(hosts: list[Host], netns: Sandboxes) -> None:
    """A network has the same subnets on all hosts."""
    hosts[0].add(netns())
    config = hosts[1].network(subnets=[{"subnet": "10.8.0.0/24"}])
    error = hosts[1].call("ADD", config, netns()).error(cni.INVALID_CONFIG)
    assert "subnets: are 10.8.0.0/24" in error["msg"] and "10.7.0.0/24" in error["msg"]


def test_overlapping_subnets(hosts: list[Host], netns: Sandboxes) -> None:
    """A network's subnet is no other's, whichever host has that."""
    hosts[0].add(netns())
    red = hosts[1].network("red", subnets=[{"subnet": "10.7.0.128/25"}])
    error = hosts[1].call("ADD", red, netns()).error(cni.INVALID_CONFIG)
    expected = 'subnets: 10.7.0.128/25 overlaps with 10.7.0.0/24 of network "blue" in the cluster'
    assert error["msg"] == expected
    assert set(hosts[1].netns.links()) == {"lo", "uplink"}
    inside = hosts[1].network("red", subnets=[{"subnet": "10.8.0.0/24"}, {"subnet": "10.8.0.0/25"}])
    error = hosts[1].call("ADD", inside, netns()).error(cni.INVALID_CONFIG)
    assert error["msg"] == "subnets: 10.8.0.0/25 overlaps with 10.8.0.0/24"


def test_vni_of_a_foreign_device(hosts: list[Host], netns: Sandboxes) -> None:
    """A VNI that another device of the host has is said to be so, and nothing is made."""
    words = "type vxlan id 5000 dstport 4789 local 10.99.0.1"
    hosts[0].netns.ip("link", "add", "theirs", *words.split())
    error = hosts[0].call("ADD", hosts[0].network(vni=5000), netns()).error(cni.INVALID_CONFIG)
    assert 'vni: 5000 of network "blue" has another VXLAN device on this host' in error["msg"]
    assert set(hosts[0].netns.links()) == {"lo", "uplink", "theirs"}
    assert "cnm-overlay" not in hosts[0].netns.run(["nft", "list", "ruleset"])


def test_taken_mac(hosts: list[Host], netns: Sandboxes) -> None:
    """A MAC address that was asked for is given once on a link layer, and again once it is free."""
    asked = {"args": {"cni": {"mac": "02:00:00:00:00:77"}}}
    one, two = netns(), netns()
    hosts[0].add(one, hosts[0].network(**asked))
    error = hosts[1].call("ADD", hosts[1].network(**asked), two).error(103)
    assert error["msg"].startswith("mac: 02:00:00:00:00:77 of network")
    assert f'"host-1/id-{one.name}:eth0"' in error["msg"]
    hosts[0].delete(one)
    hosts[1].add(two, hosts[1].network(**asked))
    routed = {**asked, "mode": "l3", "subnets": [{"subnet": "10.8.0.0/24"}]}
    for host in hosts:
        host.add(netns(), host.network("red", **routed))


def test_taken_vtep(hosts: list[Host], netns: Sandboxes) -> None:
    """Two hosts cannot have one underlay address."""
    hosts[0].add(netns())
    hosts[1].netns.ip("addr", "add", f"{hosts[0].address}/32", "dev", "lo")
    config = hosts[1].network(underlay=hosts[0].address)
    error = hosts[1].call("ADD", config, netns()).error(cni.INVALID_CONFIG)
    assert 'underlay: 10.99.0.1 is the address of member "host-1"' in error["msg"]


def test_etcd_down(hosts: list[Host], etcd: Etcd, netns: Sandboxes) -> None:
    """Without the store traffic goes on, ADD asks for patience, DEL works and is done later."""
    one, two, three = netns(), netns(), netns()
    result = hosts[0].add(one)
    address = ip_of(hosts[1].add(two))
    catch_up(hosts[0], netns)
    etcd.kill()
    assert one.reaches(address)
    error = hosts[0].call("ADD", hosts[0].network(), three).error(11)
    assert "etcd cannot be reached: http://10.99.0.254:2379" in error["msg"]
    hosts[0].delete(one)
    assert "eth0" not in one.links()
    etcd.start()
    hosts[0].add(three)  # replays what waits
    wanted = {"args": {"cni": {"ips": [ip_of(result)]}}}
    hosts[2].add(netns(), hosts[2].network(**wanted))


def test_etcd_refuses(hosts: list[Host], etcd: Etcd, netns: Sandboxes, tmp_path: Path) -> None:
    """Where etcd takes this host's password no more, DEL and GC work as where it is away."""

    def having(word: str) -> cni.Config:
        (tmp_path / word).write_text(word)
        store = {"endpoints": [etcd.url], "user": "root", "passwordFile": str(tmp_path / word)}
        return {"store": store}

    one, two = netns(), netns()
    addresses = [ip_of(hosts[0].add(each)) for each in (one, two)]
    etcd.enable_users()
    wrong = hosts[0].network(**having("wrong"))
    done = hosts[0].call("DEL", wrong, one)
    assert done.code == 0 and b'etcd refuses user "root"' in done.stderr, done
    collect = {**wrong, "cni.dev/valid-attachments": []}
    assert 'refuses user "root"' in hosts[0].call("GC", collect, one).error()["msg"]
    assert set(hosts[0].netns.links()) == {"lo", "uplink"}
    hosts[0].add(one, hosts[0].network(**having("secret")))
    for address in addresses:  # what was journaled is done
        asked = {"args": {"cni": {"ips": [address]}}, **having("secret")}
        if ip_of_netns(one) != address:
            hosts[1].add(netns(), hosts[1].network(**asked))


def ip_of_netns(sandbox: Netns) -> str:
    """The address of a container."""
    return sandbox.addresses("eth0")[0].partition("/")[0]


def test_gc(hosts: list[Host], netns: Sandboxes) -> None:
    """GC frees what is no valid attachment of this host, and nothing of another's."""
    one, two, other = netns(), netns(), netns()
    hosts[0].add(one)
    result = hosts[0].add(two)
    hosts[1].add(other)
    catch_up(hosts[0], netns)
    valid = [{"containerID": f"id-{two.name}", "ifname": "eth0"}]
    config = hosts[0].network(**{"cni.dev/valid-attachments": valid})
    hosts[0].call("GC", config, one).silent()
    hosts[0].check(two, result).silent()
    assert "eth0" not in one.links()
    catch_up(hosts[1], netns)
    assert {row[1] for row in hosts[1].entries() if row[0] == "neighbour"} == {ip_of(result)}


def test_check(hosts: list[Host], netns: Sandboxes) -> None:
    """CHECK finds entries of other hosts that are missing, and those that nobody has.

    Without an agent not those of what came and went since this host last looked.
    """
    one, two = netns(), netns()
    result = hosts[0].add(one)
    address = ip_of(hosts[1].add(two))
    catch_up(hosts[0], netns)
    hosts[0].check(one, result).silent()
    hosts[0].netns.ip("neigh", "del", address, "dev", "ov-001001")
    assert address in hosts[0].check(one, result).error(105)["msg"]
    catch_up(hosts[0], netns)
    hosts[0].check(one, result).silent()
    three = netns()
    hosts[2].add(three)  # a host, too, that the first one has not heard of
    hosts[1].delete(two)
    hosts[0].check(one, result).silent()
    hosts[0].start_agent()
    deadline = time.monotonic() + cni.PATIENCE
    while hosts[0].check(one, result).code:  # guard and entries are other threads' of the agent
        assert time.monotonic() < deadline
        time.sleep(0.1)
    fdb = "bridge fdb add 02:42:0a:07:00:99 dev vx-001001 dst 10.99.0.3 self permanent"
    hosts[0].netns.run(fdb.split())
    assert "02:42:0a:07:00:99" in hosts[0].check(one, result).error(105)["msg"]


def test_files(hosts: list[Host], netns: Sandboxes, tmp_path: Path) -> None:
    """Without etcd one host is a cluster by itself."""
    store = {"store": {"directory": str(tmp_path / "cluster")}}
    one, two = netns(), netns()
    result = hosts[0].add(one, hosts[0].network(**store))
    address = ip_of(hosts[0].add(two, hosts[0].network(**store)))
    assert one.reaches(address)
    hosts[0].check(one, result, **store).silent()
    for sandbox in (one, two):
        hosts[0].delete(sandbox, hosts[0].network(**store))
    assert [path for path in (tmp_path / "cluster/entries").rglob("=*") if "ips" in str(path)] == []


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"store": {"endpoints": ["10.99.0.254:2379"]}}, "store.endpoints[0]: must be http"),
        ({"underlay": "nothing0"}, 'underlay: "nothing0" is neither an address nor a link'),
        ({"underlay": ""}, "underlay: is not given, and this host has no default route"),
        ({"vni": 1 << 24}, "vni: must be a whole number from 0 to 16777215"),
        ({"subnets": []}, "subnets: must have at least one subnet"),
        ({"subnets": [{"subnet": "10.99.0.0/16"}]}, "subnets: 10.99.0.0/16 has 10.99.0.1, this"),
        ({"args": {"cni": {"ips": ["10.8.0.3"]}}}, "args.cni.ips: 10.8.0.3 is in no subnet of"),
        ({"mtu": 60}, "mtu: must be 0 or from 68 to 65535"),
        ({"mtu": 1500}, 'mtu: is 1500 on network "blue"'),
    ],
)
def test_bad_config(hosts: list[Host], netns: Sandboxes, members: cni.Config, words: str) -> None:
    """What is wrong is named, and nothing is made."""
    error = hosts[0].call("ADD", hosts[0].network(**members), netns()).error()
    assert error["code"] in (cni.INVALID_CONFIG, 2) and words in error["msg"]
    assert set(hosts[0].netns.links()) == {"lo", "uplink"}


def test_password_in_url(hosts: list[Host], netns: Sandboxes) -> None:
    """A file that all may read has no password in it, and the error does not tell it."""
    store = {"endpoints": ["http://root:secret@10.99.0.254:2379"]}
    error = hosts[0].call("ADD", hosts[0].network(store=store), netns()).error(cni.INVALID_CONFIG)
    assert "store.endpoints[0]: must name no user" in error["msg"]
    assert "secret" not in str(error)


def test_ipam_is_refused(hosts: list[Host], netns: Sandboxes) -> None:
    """An overlay network gives its addresses itself."""
    config = hosts[0].network(ipam=cni.host_local("10.1.0.0/24"))
    error = hosts[0].call("ADD", config, netns()).error(cni.UNSUPPORTED_FIELD)
    assert "ipam.type" in error["msg"]
