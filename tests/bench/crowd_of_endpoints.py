"""An agent that has thousands of endpoints of other hosts to keep."""

import json
import os
import time
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

from tests import oracle
from tests.etcd import Etcd
from tests.hosts import Host

_FIRST = (10 << 24) | (150 << 16)
_HOSTS = 100
_PER_TRANSACTION = 50  # two keys each, of the 128 operations that etcd takes
_PATIENCE = 60.0


def measure(host: Host, count: int, idle: float, put: Callable[..., None]) -> None:
    """How long it takes to have their entries, and what the agent takes meanwhile and after."""
    host.stop_agent()
    publish(host.etcd, count)
    began = time.time()
    host.start_agent()
    what = f"{count:,} endpoints of other hosts"
    put(f"{what}: from the agent's start until all are reachable", _mended(host, began), "s", 2)
    oracle.agree([host], about=what)
    began = time.time()
    host.netns.ip("link", "delete", "vx-001001")
    put(f"{what}: anew after the device was deleted", _mended(host, began), "s", 2)
    oracle.agree([host], about=what)
    assert host._agent is not None
    pid = host._agent.pid
    time.sleep(2)
    put(f"{what}: the agent's memory (RSS)", _memory(pid, "VmRSS"), "MiB", 60)
    put(f"{what}: at its peak", _memory(pid, "VmHWM"), "MiB")
    before = _cpu(pid)
    time.sleep(idle)
    share = (_cpu(pid) - before) / idle
    put(f"{what}: the agent's CPU in {idle:g} idle s", 100 * share, "%", 0.5)
    oracle.agree([host], about=what)


def publish(etcd: Etcd, count: int) -> None:
    """Have so many endpoints in the store, on hosts that there are not."""
    for first in range(0, count, _PER_TRANSACTION):
        puts = []
        for number in range(first, min(first + _PER_TRANSACTION, count)):
            packed = (_FIRST + number).to_bytes(4, "big")
            ip, node = ".".join(map(str, packed)), number % _HOSTS
            owner = f"elsewhere-{node}/{number:064x}:eth0"
            mac = bytes((2, 0x42, *packed)).hex(":")
            value = json.dumps({"ips": [ip], "mac": mac, "vtep": f"10.98.0.{node + 1}"})
            puts += [_put(f"ips/blue/{ip}", owner), _put(f"endpoints/blue/{owner}", value)]
        etcd.call("/v3/kv/txn", success=puts)


def _put(key: str, value: str) -> dict[str, object]:
    key, value = (b64encode(each.encode()).decode() for each in (oracle.PREFIX + key, value))
    return {"request_put": {"key": key, "value": value}}


def _mended(host: Host, since: float) -> float:
    """Seconds until the agent said that it had entries made which were missing."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        for line in reversed(host.log.read_text().splitlines()):
            said = json.loads(line)
            if said["time"] < since:
                break
            if said["event"] == "mended" and said["missing"] > 1000:
                return float(said["time"] - since)
        time.sleep(0.02)
    raise AssertionError(host.log.read_text()[-2000:])


def _memory(pid: int, field: str) -> float:
    """MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise AssertionError(field)


def _cpu(pid: int) -> float:
    """The seconds that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
