#!/usr/bin/env python3
"""Measure overlay networks: namespaces as hosts on one underlay, an agent on each, one etcd.

Prints a table of figures, in markdown, beside the limits that the project set itself, and
after each step compares the entries of the hosts with the store. Exit code 0: everything
did what it should; whether limits are met has no part in that. Needs root;
`make bench-overlay` has the rest ready.
"""

import argparse
import datetime
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import crowd_of_endpoints
import propagation
import speed
from world import World, WorldError, require_host, run, unshared

from tests import oracle
from tests.hosts import Host, cluster
from tests.iproute import HOST, Netns

ROOT = Path(__file__).resolve().parents[2]
SUBNET = "10.128.0.0/10"
# Agents start one after the other, or they would wait for each other's imports.
AT_ONCE = os.cpu_count() or 1
# p50 and p99 in ms that adding an endpoint may take, by the number of hosts.
REACHABLE = {3: (20.0, 100.0), 100: (None, 300.0)}


@dataclass
class Figures:
    """The rows of the table, which are printed as they come."""

    rows: list[str] = field(default_factory=list)

    def put(self, what: str, value: float, unit: str, most: float | None = None) -> None:
        """A figure, which may be at most so much."""
        self._row(what, f"{value:,.3g} {unit}", f"< {most:g} {unit}" if most else "", value, most)

    def ratio(self, what: str, value: float, *, most: float = 0.0, least: float = 0.0) -> None:
        """A figure over another one of the same run, at most or at least so much."""
        if most:
            self._row(what, f"{value:.2f}", f"≤ {most:g}", value, most)
        else:
            self._row(what, f"{value:.2f}", f"≥ {least:g}", -value, -least)

    def _row(self, what: str, shown: str, limit: str, value: float, most: float | None) -> None:
        verdict = "" if not most else "met" if value <= most else "**not met**"
        self.rows.append(f"| {what} | {shown} | {limit} | {verdict} |")
        print(self.rows[-1], flush=True)


def main(argv: Sequence[str]) -> int:
    options = parse(argv)
    try:
        if options.inside:
            return inside(options)
        require_host()
        with tempfile.TemporaryDirectory(prefix="overlay-bench-") as scratch:
            again = [sys.executable, os.path.abspath(__file__), "--inside", scratch, *argv]
            return subprocess.run(unshared(again), check=False).returncode
    except WorldError as error:
        print(f"bench-overlay: {error}", file=sys.stderr)
        return 2


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="overlay.py", description=__doc__.split("\n\n")[0])
    option = parser.add_argument
    option("--hosts", default="3,30,100", metavar="A,B", help="how many; default: %(default)s")
    option("-n", type=int, default=60, metavar="ROUNDS", help="default: %(default)s")
    option("--endpoints", type=int, default=10_000, help="of other hosts; default: %(default)s")
    option("--idle", type=float, default=200, metavar="SECONDS", help="default: %(default)s")
    option("--seconds", type=int, default=3, help="of each of 6 TCP flows; default: %(default)s")
    option("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if not re.fullmatch(r"\d+(,\d+)*", options.hosts):
        parser.error("--hosts: numbers with commas between them")
    options.counts = sorted({int(each) for each in options.hosts.split(",")})
    if options.counts[0] < 2 or options.counts[-1] > 250:
        parser.error("--hosts: from 2 to 250")
    return options


def inside(options: argparse.Namespace) -> int:
    """Build the hosts, and measure."""
    began = time.monotonic()
    print(setting(options), flush=True)
    World(options.inside)
    HOST.ip("link", "set", "lo", "up")
    figures = Figures()
    with cluster(options.counts[-1], options.inside, ROOT / "dist/cnm/bin") as (hosts, _):
        residents: list[Netns] = []
        for count in options.counts:
            begin(hosts[len(residents) : count], residents)
            oracle.agree(hosts[:count], seconds=120, about=f"{count} hosts:")
            rounds = options.n if count < 50 else options.n // 2
            samples = propagation.measure(hosts[:count], residents, rounds)
            report(figures, samples, count)
            oracle.agree(hosts[:count], seconds=120, about=f"{count} hosts:")
        for host in hosts[2:]:
            host.stop_agent()
        speed.add_and_del(hosts[0], options.n, figures.ratio, figures.put)
        speed.throughput(hosts[:2], residents[:2], options.seconds, figures.ratio, figures.put)
        crowd_of_endpoints.measure(hosts[0], options.endpoints, options.idle, figures.put)
    print("\nAfter each step the entries of every host were those that the store asks for.")
    print(f"It took {time.monotonic() - began:.0f} s.")
    return 0


def begin(hosts: Sequence[Host], residents: list[Netns]) -> None:
    """Have an agent on each of these hosts, and a container that stays."""
    for host in hosts:
        host.overrides = {"subnets": [{"subnet": SUBNET}]}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(Host.start_agent, hosts))
    for host in hosts:
        residents.append(Netns(f"resident-{host.number}"))
        HOST.ip("netns", "add", residents[-1].name)
        host.add(residents[-1])


def report(figures: Figures, samples: propagation.Samples, count: int) -> None:
    """What adding an endpoint took with so many hosts."""
    half, most = REACHABLE.get(count, (None, None))
    what = f"{count} hosts: endpoint added → reachable from every other one"
    figures.put(f"{what}, p50", propagation.quantile(samples.from_answer, 0.5), "ms", half)
    figures.put(f"{what}, p99", propagation.quantile(samples.from_answer, 0.99), "ms", most)
    what = f"{count} hosts: the same from the call of ADD on"
    figures.put(f"{what}, p50", propagation.quantile(samples.from_call, 0.5), "ms")
    figures.put(f"{what}, p99", propagation.quantile(samples.from_call, 0.99), "ms")


def setting(options: argparse.Namespace) -> str:
    """How and where, and the head of the table."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    words = ["make", "bench-overlay"]
    given = ["--hosts", options.hosts, "-n", options.n, "--endpoints", options.endpoints]
    etcd = run(["etcd", "--version"]).splitlines()[0].rpartition(" ")[2]
    return f"""\
## Overlay, {datetime.date.today()}

    {shlex.join(words)} ARGS="{" ".join(map(str, given))}"

- CPU: {model[1] if model else "unknown"}, {os.cpu_count()} CPUs; load when it began: \
{os.getloadavg()[0]:.2f}
- kernel: {platform.release()}; etcd {etcd} on the same machine, without fsync

| what | figure | limit | verdict |
| --- | --: | --: | --- |"""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
