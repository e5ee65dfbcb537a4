"""Three hosts of an overlay to which everything happens: afterwards all agree with the store.

Whatever is done, the entries of each host are in the end what etcdctl says, none missing and
none stale (tests/oracle.py), no address is anybody's twice, and traffic goes through.
"""

import itertools
import json
import os
import random
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import cni, oracle
from tests.etcd import CLIENT, Etcd
from tests.faults.conftest import LONG
from tests.hosts import Host, Sandboxes, cluster
from tests.iproute import HOST, Netns, exchange_by_tcp

FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"
# How long a part of the whole is away.
AWAY = 60.0 if LONG else 3.0


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


def address_of(result: cni.Config) -> str:
    """The address of a result."""
    return cni.addresses(result)[0]


def one_each(hosts: list[Host], netns: Sandboxes) -> tuple[list[Netns], list[str]]:
    """A container on each host, and their addresses, once all know of all."""
    sandboxes = [netns() for _ in hosts]
    results = [host.add(sandbox) for host, sandbox in zip(hosts, sandboxes, strict=True)]
    oracle.agree(hosts)
    return sandboxes, list(map(address_of, results))


def reach_each_other(sandboxes: list[Netns], addresses: list[str]) -> None:
    """Assert that every container reaches every other, by ping and by TCP."""
    ends = list(zip(sandboxes, addresses, strict=True))
    for (client, _), (server, address) in itertools.permutations(ends, 2):
        assert client.reaches(address, seconds=cni.PATIENCE), (
            f"{client.name} does not reach {address}"
        )
        assert exchange_by_tcp(client, server, address, b"hello") == b"hello"


@contextmanager
def traffic(client: Netns, address: str) -> Iterator[None]:
    """Ping an address all the while; not one answer may be missing.

    But for the last, which are on their way when it ends: of a second at most.
    """
    command = ["ip", "netns", "exec", client.name, "ping", "-n", "-i", "0.05", address]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output)
        try:
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(cni.PATIENCE)
        output.seek(0)
        said = output.read()
    answered = [int(number) for number in re.findall(r"icmp_seq=(\d+) ttl=", said)]
    sent = int(re.findall(r"(\d+) packets transmitted", said)[0])
    assert answered and answered == list(range(1, len(answered) + 1)), said
    assert sent - len(answered) <= 20, said


def test_many_at_once(hosts: list[Host], etcd: Etcd, netns: Sandboxes) -> None:
    """Of 50 parallel ADDs on each host none gets an address that another has."""
    places = [(host, netns()) for host in hosts for _ in range(50)]
    with ThreadPoolExecutor(50) as pool:
        results = list(pool.map(lambda each: each[0].add(each[1]), places))
        addresses = list(map(address_of, results))
        assert len(set(addresses)) == len(places)
        oracle.agree(hosts)
        assert len(oracle.stored_endpoints(etcd)) == len(places)
        list(pool.map(lambda each: each[0].delete(each[1]), places))
    oracle.agree(hosts)
    assert not oracle.stored_endpoints(etcd)
    assert not oracle.keys_below(etcd, "ips/") and not oracle.keys_below(etcd, "blocks/")


def test_address_moves(hosts: list[Host], netns: Sandboxes) -> None:
    """An address that moves from host to host is reached where it is, from the third one."""
    (watcher, *_), _ = one_each(hosts, netns)
    wanted = {"args": {"cni": {"ips": ["10.7.0.200"]}}}
    moving = netns()
    for where in (hosts[1], hosts[2], hosts[1]):
        where.add(moving, where.network(**wanted), ifname="eth1")
        oracle.agree(hosts)
        assert watcher.reaches("10.7.0.200", seconds=cni.PATIENCE)
        where.delete(moving, where.network(**wanted), ifname="eth1")
    oracle.agree(hosts)


def test_host_returns(hosts: list[Host], netns: Sandboxes) -> None:
    """A host that went down keeps its addresses; once it is back, GC gives them back."""
    sandboxes, addresses = one_each(hosts, netns)
    lost = hosts[2]
    lost.kill_agent()
    restart(lost)
    assert set(lost.netns.links()) == {"lo", "uplink"}
    oracle.agree(hosts[:2])
    assert addresses[2] in {row[1] for row in oracle.present(hosts[0]) if row[0] == "neighbour"}
    lost.start_agent()
    config = lost.network(**{"cni.dev/valid-attachments": []})
    lost.call("GC", config, HOST).silent()
    oracle.agree(hosts)
    assert addresses[2] not in {row[1] for row in oracle.present(hosts[0])}
    sandboxes[2] = netns()
    addresses[2] = address_of(lost.add(sandboxes[2]))
    oracle.agree(hosts)
    reach_each_other(sandboxes, addresses)


def restart(host: Host) -> None:
    """What a reboot leaves: files that are not in /run, and no link."""
    for name in host.netns.links():
        if name.startswith(("ov-", "vx-", "veth")):
            subprocess.run(["ip", "-n", host.netns.name, "link", "del", name], check=False)
    host.netns.run(["nft", "flush", "ruleset"])
    subprocess.run(["rm", "-rf", host.directory / "run"], check=True)


def test_etcd_away(hosts: list[Host], etcd: Etcd, netns: Sandboxes) -> None:
    """Without etcd traffic flows on, ADD asks for patience, and DEL is made up for."""
    sandboxes, addresses = one_each(hosts, netns)
    leaving = netns()
    hosts[1].add(leaving)
    oracle.agree(hosts)
    etcd.kill()
    with traffic(sandboxes[0], addresses[2]):
        hosts[1].delete(leaving)
        hosts[0].call("ADD", hosts[0].network(), netns()).error(11)
        time.sleep(AWAY)
    assert list((hosts[1].directory / "run/.overlay/.pending/blue").iterdir())
    etcd.start()
    oracle.agree(hosts)
    await_replay(hosts[1])
    assert len(oracle.stored_endpoints(etcd)) == 3
    oracle.agree(hosts)
    reach_each_other(sandboxes, addresses)


def await_replay(host: Host) -> None:
    """Wait until nothing is in a host's journal any more."""
    deadline = time.monotonic() + cni.PATIENCE
    while any((host.directory / "run/.overlay/.pending/blue").iterdir()):
        assert time.monotonic() < deadline, host.log.read_text()
        time.sleep(0.05)


@pytest.mark.parametrize("restarted", [False, True], ids=["etcd stays", "etcd restarts"])
def test_partition(hosts: list[Host], etcd: Etcd, netns: Sandboxes, restarted: bool) -> None:
    """A host that is cut off works by itself; once it is back all agree.

    Where etcd restarts meanwhile, nobody tells the agent's connection that it is dead.
    """
    sandboxes, addresses = one_each(hosts, netns)
    cut = hosts[0]
    leaving, local = netns(), netns()
    cut.add(leaving)
    address = address_of(cut.add(local))
    oracle.agree(hosts)
    cut.connected(up=False)
    assert sandboxes[0].reaches(address)  # on the same host
    assert not sandboxes[0].reaches(addresses[1], seconds=1)
    cut.call("ADD", cut.network(), netns()).error(11)
    cut.delete(leaving)
    if restarted:
        etcd.kill()
        etcd.start()
    elsewhere = netns()
    hosts[1].add(elsewhere)
    hosts[2].delete(sandboxes[2])
    oracle.agree(hosts[1:])
    time.sleep(AWAY)
    cut.connected(up=True)
    oracle.agree(hosts)
    await_replay(cut)
    oracle.agree(hosts)
    reach_each_other(sandboxes[:2], addresses[:2])


def test_added_and_removed_unseen(hosts: list[Host], etcd: Etcd, netns: Sandboxes) -> None:
    """What came and went while an agent could not listen leaves nothing with it."""
    sandboxes, _ = one_each(hosts, netns)
    hosts[0].kill_agent()
    passing = netns()
    hosts[1].add(passing)
    hosts[1].delete(passing)
    hosts[2].delete(sandboxes[2])
    hosts[2].add(sandboxes[2])
    hosts[0].start_agent()
    oracle.agree(hosts)


def test_restored_backup(hosts: list[Host], etcd: Etcd, netns: Sandboxes, tmp_path: Path) -> None:
    """What was added since a backup its host makes known again; what went goes with GC."""
    sandboxes, addresses = one_each(hosts, netns)
    backup, restored = tmp_path / "backup.db", tmp_path / "restored"
    etcdctl(etcd, "snapshot", "save", backup)
    newer = netns()
    address = address_of(hosts[0].add(newer))
    hosts[2].delete(sandboxes[2])
    oracle.agree(hosts)
    etcd.kill()
    peer = etcd.url.replace(str(etcd.port), str(etcd.port + 1))
    names = ["--name=default", f"--initial-cluster=default={peer}"]
    names += [f"--initial-advertise-peer-urls={peer}", f"--data-dir={restored}"]
    etcdctl(etcd, "snapshot", "restore", backup, *names)
    etcd.directory = restored
    etcd.start()
    deadline = time.monotonic() + cni.PATIENCE
    while address not in {ip for each in oracle.stored_endpoints(etcd) for ip in each.ips}:
        assert time.monotonic() < deadline, hosts[0].log.read_text()
        time.sleep(0.1)
    hosts[2].call("GC", hosts[2].network(**{"cni.dev/valid-attachments": []}), HOST).silent()
    oracle.agree(hosts)
    assert len(oracle.stored_endpoints(etcd)) == 3
    assert sandboxes[1].reaches(address, seconds=cni.PATIENCE) and newer.reaches(
        addresses[1], seconds=cni.PATIENCE
    )


def etcdctl(etcd: Etcd, *words: str | Path) -> None:
    """A command of etcdctl that succeeds."""
    command = ["etcdctl", f"--endpoints={etcd.url}", *words]
    subprocess.run(command, env=CLIENT, capture_output=True, check=True)


# --- clocks


@pytest.mark.parametrize("clocks", ["wall", "all"])
def test_clock_jumps(hosts: list[Host], netns: Sandboxes, tmp_path: Path, clocks: str) -> None:
    """An agent whose clock is set, or whose host slept, goes on as before."""
    sandboxes, _ = one_each(hosts, netns)
    setting = tmp_path / "clock"
    setting.write_text("+0")
    hosts[0].stop_agent()
    monotonic = ["FAKETIME_DONT_FAKE_MONOTONIC=1"] if clocks == "wall" else []
    fake = [f"LD_PRELOAD={FAKETIME}", f"FAKETIME_TIMESTAMP_FILE={setting}", "FAKETIME_NO_CACHE=1"]
    hosts[0].start_agent("env", *fake, *monotonic)
    jumps = ("+1d", "-1d") if clocks == "wall" else ("+600", "+90000")
    for jump in jumps:
        (tmp_path / "next").write_text(jump)
        (tmp_path / "next").rename(setting)
        hosts[1].delete(sandboxes[1])
        oracle.agree(hosts)
        hosts[1].add(sandboxes[1])
        hosts[0].netns.ip("link", "delete", "vx-001001")
        oracle.agree(hosts)
        deadline = time.monotonic() + cni.PATIENCE
        while abs(hosts[0].last_said() - time.time()) <= 300:  # what it has done it says after that
            assert time.monotonic() < deadline, hosts[0].log.read_text()
            time.sleep(0.05)


def test_time_namespace(hosts: list[Host], netns: Sandboxes) -> None:
    """Clocks that count from a boot may have any value."""
    sandboxes, _ = one_each(hosts, netns)
    hosts[0].kill_agent()
    hosts[0].start_agent("unshare", "--time", "--monotonic", "90000000", "--boottime", "90000000")
    hosts[1].delete(sandboxes[1])
    oracle.agree(hosts)


# --- an agent beside another one


def test_agent_beside_another(hosts: list[Host], netns: Sandboxes) -> None:
    """Of two agents on one host one works; the other takes over when that one ends."""
    sandboxes, addresses = one_each(hosts, netns)
    with traffic(sandboxes[0], addresses[1]):
        old = hosts[0].start_another_agent(9476)
        old.terminate()
        assert old.wait(cni.PATIENCE) == 0
        hosts[0].await_event("store-up")
        hosts[2].delete(sandboxes[2])
        oracle.agree(hosts)
    hosts[0].start_another_agent(9477).kill()


def test_waiting_agent_ends(hosts: list[Host]) -> None:
    """One that waits for another ends when it is told to; one on the same port does not begin."""
    old = hosts[0].start_another_agent(9476)
    assert hosts[0].stop_agent() == 0
    assert old.poll() is None
    command = [hosts[0].bin / "cnm", "agent", "--config", hosts[0].write_config()]
    done = subprocess.run(
        ["ip", "netns", "exec", hosts[0].netns.name, *command],
        capture_output=True,
        text=True,
        check=False,
        timeout=cni.PATIENCE,
    )
    assert done.returncode == 1 and "127.0.0.1:9475" in done.stderr, done
    assert done.stderr.count("\n") == 1
    old.terminate()
    assert old.wait(cni.PATIENCE) == 0


def test_newer_version(hosts: list[Host], etcd: Etcd, netns: Sandboxes) -> None:
    """What a later version adds to the store does not disturb this one."""
    sandboxes, _ = one_each(hosts, netns)
    value = {"ips": ["10.7.0.99"], "mac": "02:42:0a:07:00:63", "vtep": "10.99.0.9", "since": [1]}
    oracle.put(etcd, "ips/blue/10.7.0.99", "later/id:eth0")
    oracle.put(etcd, "endpoints/blue/later/id:eth0", json.dumps(value))
    oracle.put(etcd, "later/anything", "x")
    oracle.agree(hosts)
    hosts[0].delete(sandboxes[0])
    oracle.agree(hosts)


# --- kills at random moments


class Churn:
    """Containers that come and go while calls, agents and etcd are killed."""

    def __init__(self, hosts: list[Host], netns: Sandboxes, seed: int) -> None:
        self.hosts = hosts
        self.random = random.Random(seed)
        self.places = [(host, netns()) for host in hosts for _ in range(4)]
        self.attached: dict[str, str] = {}  # sandbox → address, of those that certainly are
        self.unsure: set[str] = set()

    def call(self, host: Host, sandbox: Netns, kill_after: float | None) -> None:
        """ADD what is not attached, DEL what is; perhaps killed on the way."""
        command = "DEL" if sandbox.name in {*self.attached, *self.unsure} else "ADD"
        self.attached.pop(sandbox.name, None)
        outcome = host.call(command, host.network(), sandbox, kill_after=kill_after)
        if command == "ADD" and outcome.code == 0:
            self.attached[sandbox.name] = address_of(outcome.result())
        elif command == "DEL" and outcome.code == 0:
            self.unsure.discard(sandbox.name)
        else:
            assert kill_after is not None or outcome.error()["code"] == 11, outcome
            self.unsure.add(sandbox.name)

    def round(self, pool: ThreadPoolExecutor) -> None:
        """Some calls at once, and meanwhile something is killed and started again."""
        chosen = self.random.sample(self.places, 6)
        delays = [self.random.choice((None, self.random.uniform(0, 0.06))) for _ in chosen]
        calls = [
            pool.submit(self.call, host, sandbox, delay)
            for (host, sandbox), delay in zip(chosen, delays, strict=True)
        ]
        time.sleep(self.random.uniform(0, 0.05))
        victim = self.random.choice((None, self.hosts[0].etcd, *self.hosts))
        if isinstance(victim, Host):
            victim.kill_agent()
            victim.start_agent()
        elif victim is not None:
            victim.kill()
            victim.start()
        for each in calls:
            each.result()

    def settle(self) -> None:
        """What a runtime does in the end: DEL for some of what it is not sure of, GC for all."""
        for host in self.hosts:
            mine = [sandbox for where, sandbox in self.places if where is host]
            for sandbox in mine:
                if sandbox.name in self.unsure and self.random.random() < 0.5:
                    host.delete(sandbox)
            valid = [
                {"containerID": f"id-{sandbox.name}", "ifname": "eth0"}
                for sandbox in mine
                if sandbox.name in self.attached
            ]
            config = host.network(**{"cni.dev/valid-attachments": valid})
            host.call("GC", config, HOST).silent()


def test_killed_at_random(hosts: list[Host], etcd: Etcd, netns: Sandboxes) -> None:
    """SIGKILL for calls, agents and etcd at any moment; CNM_SEED repeats a run's choices."""
    seed = int(os.environ.get("CNM_SEED") or random.SystemRandom().randrange(1 << 32))
    churn = Churn(hosts, netns, seed)
    with ThreadPoolExecutor(6) as pool:
        for _ in range(100 if LONG else 8):
            churn.round(pool)
    churn.settle()
    oracle.agree(hosts, about=f"CNM_SEED={seed}:")
    stored = {each.name: each.ips[0] for each in oracle.stored_endpoints(etcd)}
    attached = {f"id-{name}:eth0": address for name, address in churn.attached.items()}
    assert stored == attached, f"CNM_SEED={seed}"
    for _, sandbox in churn.places:
        for address in churn.attached.values():
            if sandbox.name in churn.attached:
                assert sandbox.reaches(address, seconds=cni.PATIENCE), f"CNM_SEED={seed}"
    for host, sandbox in churn.places:
        host.delete(sandbox)
        # A kill may have left a host a block that it does not know of: it takes that one first.
        host.add(sandbox)
        host.delete(sandbox)
    oracle.agree(hosts, about=f"CNM_SEED={seed}:")
    left = [*oracle.keys_below(etcd, "ips/"), *oracle.keys_below(etcd, "blocks/")]
    assert not left, f"CNM_SEED={seed}: {left}"
    for host in hosts:
        assert set(host.netns.links()) == {"lo", "uplink"}, f"CNM_SEED={seed}"
