#!/usr/bin/env python3
"""How long a pod takes from RunPodSandbox to its address, by directory of CNI plugins.

usage: python -m tests.bench.pods [-n PODS] [--containerd DIR] LABEL=DIR...

Every directory has a containerd of its own, in network and mount namespaces of this process.
They take turns, a pod each, which is removed before the next one's turn; then each starts all
pods at once. Times are those of crictl, whose start is the same for all. Needs root.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter

from tests import cni, iproute
from tests.containerd import Containerd, Pod

MS_REC, MS_PRIVATE = 0x4000, 1 << 18
DIRECTORIES = (b"/run/containerd", b"/run/netns", b"/run/cnm", b"/var/lib/cni", b"/var/lib/cnm")
AT_ONCE = 10  # how many are asked for before the first has to be there


@dataclass
class Peer:
    """One directory of plugins, and what was measured of it, in milliseconds."""

    label: str
    daemon: Containerd
    start: list[float] = field(default_factory=list)
    removal: list[float] = field(default_factory=list)
    together: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("-n", type=int, default=30, help="pods of each; default: %(default)s")
    parser.add_argument("--containerd", type=Path, default=Path("/usr/bin"), metavar="DIR")
    parser.add_argument("peers", nargs="+", metavar="LABEL=DIR")
    options = parser.parse_args()
    _leave()
    with tempfile.TemporaryDirectory(prefix="cnm-pods-") as scratch, ExitStack() as daemons:
        peers = []
        for number, each in enumerate(options.peers):
            label, _, plugins = each.partition("=")
            place = Path(scratch, str(number))
            daemon = Containerd(place, options.containerd, Path(plugins).absolute())
            daemons.enter_context(_running(daemon, number))
            peers.append(Peer(label, daemon))
        measure(peers, options.n)
    print(f"{options.n} pods each, load {os.getloadavg()[0]:.2f}, milliseconds\n")
    print(report(peers))


def _leave() -> None:
    """Have network and mounts to ourselves."""
    iproute.checked(iproute.libc.unshare(iproute.CLONE_NEWNET | iproute.CLONE_NEWNS))
    iproute.checked(iproute.libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
    for directory in DIRECTORIES:
        os.makedirs(directory, exist_ok=True)
        iproute.checked(iproute.libc.mount(b"tmpfs", directory, b"tmpfs", 0, None))
    iproute.HOST.ip("link", "set", "lo", "up")


@contextmanager
def _running(daemon: Containerd, number: int) -> Iterator[None]:
    bridge = {
        "type": "bridge",
        "bridge": f"bench{number}",
        "isDefaultGateway": True,
        "ipMasq": True,
        "ipam": cni.host_local(f"10.{number + 1}.0.0/16"),
    }
    daemon.configure(bridge, version="1.0.0", name=f"bench{number}")
    daemon.start()
    try:
        daemon.load()
        yield
    finally:
        daemon.stop()


def measure(peers: Sequence[Peer], count: int) -> None:
    """Start and remove pods, in turns and then together; the first of each warms it up."""
    for number in range(count + 1):
        for peer in peers:
            begun = perf_counter()
            pod = _start(peer.daemon)
            started = perf_counter()
            peer.daemon.remove(pod)
            if number:
                peer.start.append((started - begun) * 1e3)
                peer.removal.append((perf_counter() - started) * 1e3)
    for peer in peers:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            begun = perf_counter()
            pods = list(pool.map(_start, [peer.daemon] * count))
            peer.together = (perf_counter() - begun) * 1e3
            list(pool.map(peer.daemon.remove, pods))


def _start(daemon: Containerd) -> Pod:
    pod = daemon.run_pod(daemon.pod())
    assert daemon.addresses(pod)[0].startswith("10.")
    return pod


def report(peers: Sequence[Peer]) -> str:
    """The figures, as a table."""
    rows = ["| plugins | start, median | start, p95 | removal, median | all at once |"]
    rows.append("| --- | --: | --: | --: | --: |")
    for peer in peers:
        p95 = quantiles(peer.start, n=20)[-1]
        cells = (median(peer.start), p95, median(peer.removal), peer.together)
        rows.append(f"| {peer.label} | {' | '.join(f'{cell:.0f}' for cell in cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
