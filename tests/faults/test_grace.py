"""gcGraceSeconds: an attachment that is younger than the list of the valid ones survives GC."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests import cni
from tests.cni import Config, Endpoint, Outcome

GRACE = 600  # seconds

Call = Callable[..., Outcome]
MakeEndpoint = Callable[[], Endpoint]


def _age(endpoint: Endpoint, seconds: int) -> None:
    """Let an attachment have been made some seconds ago."""
    then = time.time() - seconds
    owner = (endpoint.container_id, endpoint.ifname)
    addresses = [cni.LEASES / "blue" / ip for ip, each in cni.leases().items() if each == owner]
    for path in [*addresses, *Path("/run/cnm/blue").glob(f"{endpoint.container_id}:*")]:
        os.utime(path, (then, then))


def _graceful(config: Config) -> Config:
    return cni.changed(config, "ipam.gcGraceSeconds", GRACE)


def test_young_attachments(endpoint: MakeEndpoint, call: Call, config: Config) -> None:
    """Record, link and address stay for the grace's time, and go after it."""
    config = _graceful(config)
    old, young = endpoint(), endpoint()
    old.add(config)
    _age(old, GRACE + 1)
    result = young.add(config)
    _age(young, GRACE - 60)
    call("GC", cni.collected(config)).silent()
    assert list(cni.leases().values()) == [(young.container_id, "eth0")]
    assert "eth0" not in old.netns.links()
    young.check(config, result).silent()
    _age(young, GRACE + 1)
    call("GC", cni.collected(config)).silent()
    assert not cni.leases()
    assert "eth0" not in young.netns.links()


def test_a_young_address(endpoint: MakeEndpoint, call: Call, config: Config) -> None:
    """So does the address of an ADD that has not written its record yet."""
    config = _graceful(config)
    eth0 = endpoint()
    eth0.add(config)
    Path(f"/run/cnm/blue/{eth0.container_id}:eth0").unlink()
    call("GC", cni.collected(config)).silent()
    assert len(cni.leases()) == 1
    _age(eth0, GRACE + 1)
    call("GC", cni.collected(config)).silent()
    assert not cni.leases()


def test_a_configuration_that_became_invalid(
    endpoint: MakeEndpoint, call: Call, config: Config
) -> None:
    """The grace is kept when another key of `ipam` has become invalid."""
    config = _graceful(config)
    eth0 = endpoint()
    result = eth0.add(config)
    invalid = cni.changed(config, "ipam.ranges", "x")
    call("GC", cni.collected(invalid)).silent()
    eth0.check(config, result).silent()
    eth0.delete(invalid)
    assert not cni.leases()


def test_adds_while_gc_runs(endpoint: MakeEndpoint, call: Call, config: Config) -> None:
    """Whatever step of an ADD a GC meets, the attachment is whole afterwards."""
    ports = {"portMappings": [{"hostPort": 8000, "containerPort": 80, "protocol": "tcp"}]}
    config = _graceful(config) | {"ipMasq": True, "macspoofchk": True}
    endpoints = [endpoint() for _ in range(16)]
    with ThreadPoolExecutor(4) as threads:
        adding = [threads.submit(each.add, config) for each in endpoints[1:]]
        adding.append(threads.submit(endpoints[0].add, config | {"runtimeConfig": ports}))
        while not all(each.done() for each in adding):
            call("GC", cni.collected(config)).silent()
    for each, added in zip([*endpoints[1:], endpoints[0]], adding, strict=True):
        each.check(config, added.result()).silent()


def test_a_half_written_record(endpoint: MakeEndpoint, call: Call, config: Config) -> None:
    """What a kill left of a record goes by GC, after the grace."""
    config = _graceful(config)
    endpoint().add(config)
    half = Path("/run/cnm/blue/.c1:eth0.new")
    half.touch()
    call("GC", cni.collected(config)).silent()
    assert half.exists()
    os.utime(half, (0, 0))
    call("GC", cni.collected(config)).silent()
    assert not half.exists()
    assert len(cni.leases()) == 1
