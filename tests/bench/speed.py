"""What an overlay costs beside what does not cross hosts, or is set up by hand, in one run."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from statistics import median

from peers import Process

from tests import cni
from tests.hosts import Host
from tests.iproute import HOST, Netns

_ROUNDS = 3


def add_and_del(
    host: Host, rounds: int, ratio: Callable[..., None], put: Callable[..., None]
) -> None:
    """ADD and DEL of an overlay endpoint and of one of a bridge, in turn."""
    bridge: cni.Config = {
        "cniVersion": cni.NEWEST,
        "name": "plain",
        "type": "bridge",
        "bridge": "plain0",
        "isDefaultGateway": True,
        "ipMasq": True,
        "stateDir": str(host.directory / "run"),
        "ipam": {
            "type": "host-local",
            "dataDir": str(host.directory / "lib"),
            "ranges": [[{"subnet": "10.200.0.0/16"}]],
        },
    }
    stays, comes = Netns("plain-stays"), Netns("comes-and-goes")
    for each in (stays, comes):
        HOST.ip("netns", "add", each.name)
    _timed(host, "bridge", "ADD", bridge, stays)
    taken: dict[tuple[str, str], list[float]] = {}
    for number in range(-2, rounds):
        for name, config in (("overlay", host.network()), ("bridge", bridge)):
            for command in ("ADD", "DEL"):
                wall = _timed(host, name, command, config, comes)
                if number >= 0:
                    taken.setdefault((name, command), []).append(wall)
    for command in ("ADD", "DEL"):
        overlay, plain = (median(taken[name, command]) for name in ("overlay", "bridge"))
        ratio(f"overlay {command} / our bridge {command}", overlay / plain, most=2)
        put(f"overlay {command}", overlay, "ms")
        put(f"our bridge {command}", plain, "ms")


def _timed(host: Host, plugin: str, command: str, config: cni.Config, sandbox: Netns) -> float:
    """The milliseconds that a call takes, which must succeed."""
    variables = {"container_id": f"id-{sandbox.name}", "netns": sandbox.path, "ifname": "eth0"}
    environment = cni.environment(command, path=str(host.bin), **variables)
    with host.netns.entered():
        process = Process.start([f"{host.bin}/{plugin}"], environment, cni.encoded(config), 2)
        outcome = process.finish()
    assert outcome.exit_code == 0, outcome
    return outcome.wall


def throughput(
    hosts: Sequence[Host],
    residents: Sequence[Netns],
    seconds: int,
    ratio: Callable[..., None],
    put: Callable[..., None],
) -> None:
    """TCP from a container to another through the overlay, and through VXLAN made with ip."""
    ways = {"overlay": list(residents), "by hand": _by_hand(hosts)}
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(_ROUNDS):
        for name in sorted(ways, reverse=bool(number % 2)):
            rates[name].append(_iperf(*ways[name], seconds))
    overlay, plain = (median(rates[name]) for name in ("overlay", "by hand"))
    ratio("TCP between hosts, overlay / VXLAN by hand", overlay / plain, least=0.9)
    put("TCP through the overlay", overlay / 1e9, "Gbit/s")
    put("TCP through VXLAN by hand", plain / 1e9, "Gbit/s")


def _by_hand(hosts: Sequence[Host]) -> list[Netns]:
    """A container on each of two hosts, on a bridge with a VXLAN device."""
    made = []
    for host, other in zip(hosts, reversed(hosts), strict=True):
        inside = Netns(f"by-hand-{host.number}")
        HOST.ip("netns", "add", inside.name)
        vxlan = ["type", "vxlan", "id", "77", "dstport", "4790", "local", host.address]
        host.netns.ip("link", "add", "hand0", "type", "bridge")
        host.netns.ip("link", "add", "hand1", "mtu", "1450", *vxlan, "remote", other.address)
        peer = ["peer", "name", "eth0", "netns", inside.name]
        host.netns.ip("link", "add", "hand2", "mtu", "1450", "type", "veth", *peer)
        for name in ("hand1", "hand2"):
            host.netns.ip("link", "set", name, "master", "hand0", "up")
        host.netns.ip("link", "set", "hand0", "up")
        inside.ip("addr", "add", f"10.201.0.{host.number}/24", "dev", "eth0")
        inside.ip("link", "set", "eth0", "mtu", "1450", "up")
        made.append(inside)
    return made


def _iperf(client: Netns, server: Netns, seconds: int) -> float:
    """Bits a second."""
    address = server.addresses("eth0")[0].partition("/")[0]
    inside = ["ip", "netns", "exec"]
    command = [*inside, server.name, "iperf3", "--server", "--one-off", "--forceflush"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as listening:
        assert listening.stdout is not None
        while b"listening" not in os.read(listening.stdout.fileno(), 4096):
            time.sleep(0.01)
        words = ["iperf3", "--client", address, "--time", str(seconds), "--json"]
        done = subprocess.run(
            [*inside, client.name, *words], capture_output=True, check=False, timeout=60
        )
        answer = json.loads(done.stdout)
        assert "error" not in answer, answer
        rate: float = answer["end"]["sum_received"]["bits_per_second"]
        listening.communicate()
        return rate
