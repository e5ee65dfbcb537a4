"""`cnm agent` on each of three hosts, with a real etcd."""

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cnm_core.agent.lease import LIFETIME_SECONDS
from tests import cni
from tests.etcd import CLIENT, Etcd
from tests.hosts import Host, Sandboxes, cluster, remote_rows


@pytest.fixture
def hosts(node: None, tmp_path: Path, cni_bin: Path) -> Iterator[list[Host]]:
    """Three hosts whose agents run."""
    with cluster(3, tmp_path, cni_bin) as (found, _):
        for host in found:
            host.start_agent()
        yield found


@pytest.fixture
def etcd(hosts: list[Host]) -> Etcd:
    """Their etcd."""
    return hosts[0].etcd


class Endpoints:
    """The endpoints that were made, on which host each, and with which MAC address."""

    def __init__(self, netns: Sandboxes) -> None:
        self.netns = netns
        self.made: dict[str, tuple[Host, str]] = {}
        self.sandboxes: dict[str, tuple[Host, object]] = {}

    def add(self, host: Host) -> str:
        """Another endpoint on a host; its address."""
        sandbox = self.netns()
        result = host.add(sandbox)
        (address,) = cni.addresses(result)
        mac = next(each["mac"] for each in result["interfaces"] if each.get("sandbox"))
        self.made[address] = host, mac
        self.sandboxes[address] = host, sandbox
        return address

    def delete(self, address: str) -> None:
        """Remove an endpoint."""
        host, sandbox = self.sandboxes.pop(address)
        host.delete(sandbox)  # type: ignore[arg-type]
        del self.made[address]

    def reaches(self, one: str, other: str) -> bool:
        """Whether the container of one address reaches another."""
        return bool(self.sandboxes[one][1].reaches(other, seconds=cni.PATIENCE))  # type: ignore[attr-defined]

    def settle(self, *hosts: Host) -> None:
        """Wait until the entries of hosts are what the endpoints ask for, no more and no less."""
        deadline = time.monotonic() + cni.PATIENCE
        for host in hosts:
            while (found := host.entries()) != (wanted := remote_rows(self.made, host)):
                assert time.monotonic() < deadline, (found - wanted, wanted - found)
                time.sleep(0.02)


@pytest.fixture
def endpoints(netns: Sandboxes) -> Endpoints:
    """No endpoints yet."""
    return Endpoints(netns)


def test_follows(hosts: list[Host], endpoints: Endpoints) -> None:
    """What is added on one host is reachable from the others, and what is removed is forgotten."""
    addresses = [endpoints.add(host) for host in hosts]
    endpoints.settle(*hosts)
    assert all(endpoints.reaches(one, two) for one in addresses for two in addresses)
    endpoints.delete(addresses[0])
    endpoints.settle(*hosts[1:])


def test_repairs(hosts: list[Host], endpoints: Endpoints) -> None:
    """A VXLAN device that somebody deleted is made anew, with its entries."""
    for host in hosts:
        endpoints.add(host)
    endpoints.settle(*hosts)
    hosts[0].netns.ip("link", "del", "vx-001001")
    endpoints.settle(*hosts)
    one, two, _ = endpoints.made
    assert endpoints.reaches(one, two)


def test_killed_agent(hosts: list[Host], endpoints: Endpoints) -> None:
    """While an agent is dead traffic goes on; when it is back it has missed nothing."""
    for host in hosts:
        endpoints.add(host)
    endpoints.settle(*hosts)
    hosts[0].stop_agent(signal.SIGKILL)
    one, two, three = endpoints.made
    assert endpoints.reaches(one, two)
    endpoints.add(hosts[1])
    endpoints.delete(three)
    hosts[0].start_agent()
    endpoints.settle(hosts[0], hosts[1])


def test_stops(hosts: list[Host], endpoints: Endpoints, etcd: Etcd) -> None:
    """SIGTERM ends the agent and its lease, and leaves traffic alone."""
    one, two = (endpoints.add(host) for host in hosts[:2])
    endpoints.settle(*hosts[:2])
    assert alive(etcd) == {"host-1", "host-2", "host-3"}
    assert hosts[0].stop_agent() == 0
    assert alive(etcd) == {"host-2", "host-3"}
    assert endpoints.reaches(one, two)
    assert hosts[0].events()[-1] == "stopped"


def test_stops_without_answer(hosts: list[Host], etcd: Etcd) -> None:
    """Where the lease was being kept when SIGTERM came, it has ended all the same."""
    agent = hosts[0]._agent
    assert agent is not None
    with etcd.hanging():
        time.sleep(LIFETIME_SECONDS / 3 + 1)  # by then it has asked
        agent.send_signal(signal.SIGTERM)
        time.sleep(0.5)
    assert hosts[0].stop_agent() == 0
    assert alive(etcd) == {"host-2", "host-3"}


def test_as_service(hosts: list[Host], endpoints: Endpoints, tmp_path: Path) -> None:
    """It tells systemd when it is ready and when it stops, and needs no other privilege."""
    host = hosts[0]
    host.stop_agent()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(tmp_path / "notify"))
        supervisor.settimeout(cni.PATIENCE)
        confined = ("setpriv", "--bounding-set=-all,+net_admin", "--no-new-privs")
        host.start_agent("env", f"NOTIFY_SOCKET={tmp_path / 'notify'}", *confined)
        assert supervisor.recv(100) == b"READY=1"
        for each in hosts:
            endpoints.add(each)
        endpoints.settle(*hosts)
        host.netns.ip("link", "del", "vx-001001")
        endpoints.settle(*hosts)
        assert {"failed", "ignored"}.isdisjoint(host.events())
        assert host.stop_agent() == 0
        assert supervisor.recv(100) == b"STOPPING=1"


def test_blocks_go_later(hosts: list[Host], endpoints: Endpoints, etcd: Etcd) -> None:
    """What a host's last DEL could not tell etcd it is told later: no block stays the host's."""
    address = endpoints.add(hosts[0])
    assert list(etcd.keys("blocks/").values()) == ["host-1"]
    etcd.stop()
    endpoints.delete(address)
    etcd.start()
    deadline = time.monotonic() + cni.PATIENCE
    while etcd.keys("blocks/") or etcd.keys("ips/"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert "failed" not in hosts[0].events()


def test_blocks_stay(hosts: list[Host], endpoints: Endpoints, etcd: Etcd) -> None:
    """An agent whose file names another dataDir than networks do gives back no block of theirs."""
    endpoints.add(hosts[0])
    hosts[0].stop_agent()
    hosts[0].overrides["dataDir"] = str(hosts[0].directory / "elsewhere")
    hosts[0].log.unlink()
    hosts[0].start_agent()
    assert list(etcd.keys("blocks/").values()) == ["host-1"]


def test_no_member(hosts: list[Host]) -> None:
    """One that cannot be a member is not well, and says why; so is a key that means nothing."""
    other, host = hosts[0], hosts[1]
    host.stop_agent()
    host.overrides["node"] = "host-9"
    host.overrides["store"] = {"endpoints": [host.etcd.url], "passwd": "x"}
    host.log.unlink()
    host.start_agent()
    status, words = host.get("/healthz")
    assert status == 503 and "member: underlay: 10.99.0.2 is the address of" in words
    said = map(json.loads, host.log.read_text().splitlines())
    assert [each["key"] for each in said if each["event"] == "unknown-key"] == ["store.passwd"]
    other.cnm().run("node", "fence", "-f", "host-2")
    host.stop_agent()
    host.log.unlink()
    host.start_agent()
    host.await_event("lease-kept")
    assert host.get("/healthz") == (200, "ok\n")


def test_etcd_killed(hosts: list[Host], endpoints: Endpoints, etcd: Etcd) -> None:
    """While etcd is dead DEL works and is journaled; when it is back all hosts agree again."""
    one, two, three = (endpoints.add(host) for host in hosts)
    endpoints.settle(*hosts)
    etcd.kill()
    endpoints.delete(three)
    hosts[0].await_event("store-down")
    hosts[0].await_event("lease-lost")
    status, words = hosts[0].get("/healthz")
    assert status == 503 and words.startswith("store: etcd") and "\nlease: etcd" in words
    assert "cnm_agent_pending_releases 1" in hosts[2].get("/metrics")[1]
    assert endpoints.reaches(one, two)
    said = [line.partition(",")[2] for line in hosts[0].log.read_text().splitlines()]
    assert len(set(said)) == len(said)  # each trouble once
    etcd.start()
    endpoints.add(hosts[1])
    endpoints.settle(*hosts[:2])
    deadline = time.monotonic() + cni.PATIENCE
    while hosts[0].get("/healthz") != (200, "ok\n"):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_compacted(hosts: list[Host], endpoints: Endpoints, etcd: Etcd) -> None:
    """What etcd compacted while an agent could not listen is made up for."""
    endpoints.add(hosts[0])
    endpoints.settle(hosts[0])
    assert hosts[0]._agent is not None
    hosts[0]._agent.send_signal(signal.SIGSTOP)
    hosts[0].netns.ip("link", "set", "uplink", "down")
    for _ in range(3):
        endpoints.add(hosts[1])
    answer = etcd.call("/v3/kv/range", key="YQ==")
    header = answer["header"]
    assert isinstance(header, dict)
    etcd.call("/v3/kv/compaction", revision=header["revision"])
    hosts[0].netns.ip("link", "set", "uplink", "up")
    hosts[0]._agent.send_signal(signal.SIGCONT)
    endpoints.settle(hosts[0])


def test_one_request(hosts: list[Host], etcd: Etcd, netns: Sandboxes) -> None:
    """ADD and DEL ask the store once each, where a host has a block and an agent."""
    stay, sandbox = netns(), netns()
    hosts[0].add(stay)
    for host in hosts:  # which ask for themselves, too; a stopped one still counts as there
        assert host._agent is not None
        host._agent.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, host._agent.pid, os.WSTOPPED | os.WNOWAIT)
    before = quiet(etcd)
    hosts[0].add(sandbox)
    hosts[0].delete(sandbox)
    assert etcd.requests() == before + 2


def quiet(etcd: Etcd) -> int:
    """How many requests etcd has had, once those that were on their way are among them."""
    deadline, found = time.monotonic() + cni.PATIENCE, [etcd.requests()]
    while len(found) < 5 or len(set(found[-5:])) > 1:
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
        found.append(etcd.requests())
    return found[-1]


@pytest.mark.parametrize("mode", ["l2", "l3"])
def test_counted_at_once(hosts: list[Host], endpoints: Endpoints, mode: str) -> None:
    """A host counts the endpoints of others as they come and go, and none of that as mended."""
    for host in hosts:
        host.overrides["mode"] = mode
    endpoints.add(hosts[0])
    address = endpoints.add(hosts[1])
    await_count(hosts[0], 2)
    endpoints.delete(address)
    await_count(hosts[0], 1)
    assert "\ncnm_agent_mended_entries_total 0\n" in hosts[0].get("/metrics")[1]


def await_count(host: Host, count: int) -> None:
    """Wait until a host's metrics have so many endpoints."""
    deadline = time.monotonic() + cni.PATIENCE
    while f'cnm_agent_endpoints{{network="blue"}} {count}' not in host.get("/metrics")[1]:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_metrics(hosts: list[Host], endpoints: Endpoints) -> None:
    """Prometheus' text has the network with its endpoints."""
    endpoints.add(hosts[0])
    await_count(hosts[0], 1)
    text = hosts[0].get("/metrics")[1]
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
    for name in ("store_up", "lease_up"):
        assert samples[f"cnm_agent_{name}"] == "1"
    for name in ("pending_releases", "ignored_entries_total"):
        assert samples[f"cnm_agent_{name}"] == "0"
    for name in samples:
        family = name.partition("{")[0]
        assert text.count(f"# HELP {family} ") == text.count(f"# TYPE {family} ") == 1
        assert text.index(f"# TYPE {family} ") < text.index(f"\n{name} ")
    assert hosts[0].get("/metrics?name=x") == hosts[0].get("/metrics")
    assert hosts[0].get("/")[0] == 404
    for method, status in (("HEAD", "200 OK"), ("POST", "405 Method Not Allowed")):
        with hosts[0].netns.entered():
            client = socket.create_connection(("127.0.0.1", 9475), timeout=cni.PATIENCE)
        with client, client.makefile("rb") as answer:
            client.sendall(f"{method} /healthz HTTP/1.1\r\n\r\n".encode())
            head, _, body = answer.read().partition(b"\r\n\r\n")
        assert head.startswith(f"HTTP/1.1 {status}".encode())
        assert bool(body) == (method == "POST")


def alive(etcd: Etcd) -> set[str]:
    """The hosts that the store has as alive."""
    command = ["etcdctl", f"--endpoints={etcd.url}", "get", "--prefix", "--keys-only"]
    done = subprocess.run(
        [*command, "cnm/v1/default/alive/"],
        env=CLIENT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {line.rpartition("/")[2] for line in done.stdout.split()}
