#!/usr/bin/env python3
"""Time our CNI plugins beside others, in one run and with the same kernel state for each.

Peers are directories of plugins: ours (dist/cnm/bin) and debian (/usr/lib/cni, from the
package containernetworking-plugins), and any other given as LABEL=DIRECTORY. Needs root, and
of Python only the standard library. Exit code 0: every call did what it should; 1: some did
not; 2: could not begin. Whether limits are met has no part in that.
"""

import argparse
import gc
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import report
from cases import CASES, Case
from peers import OURS, Peer, adopt_orphans
from results import Load, Results
from trial import NotSupported, Trial
from world import World, WorldError, require_host, unshared

ROOT = Path(__file__).resolve().parents[2]
DIRECTORIES = {OURS: "dist/cnm/bin", "debian": "/usr/lib/cni"}
HINTS = {OURS: "run `make build`", "debian": "install containernetworking-plugins"}


def main(argv: Sequence[str]) -> int:
    options = parse(argv)
    if options.list:
        for case in CASES.values():
            print(f"{case.name:12} {case.summary}")
        return 0
    try:
        if options.inside:
            return inside(options)
        require_host()
        return outside(options, argv)
    except WorldError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.py", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "peers",
        nargs="*",
        metavar="LABEL=DIRECTORY",
        help="a further peer, or another directory for ours or debian",
    )
    parser.add_argument("--cases", metavar="A,B", help="only these; --list tells which there are")
    parser.add_argument("-n", type=int, default=30, metavar="ROUNDS", help="default: 30")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the report there")
    parser.add_argument(
        "--scratch",
        metavar="DIRECTORY",
        help="where data directories are made, on a disk as /var/lib is; default: TMPDIR",
    )
    parser.add_argument("--list", action="store_true", help="list the cases and end")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_intermixed_args(argv)
    names = options.cases.split(",") if options.cases else list(CASES)
    if unknown := [name for name in names if name not in CASES]:
        parser.error(f"no such case: {', '.join(unknown)}")
    if options.n < 1:
        parser.error("-n must be at least 1")
    for each in options.peers:
        label, equals, directory = each.partition("=")
        if not (label and equals and directory):
            parser.error(f"{each}: not LABEL=DIRECTORY")
    options.selected = [CASES[name] for name in names]
    return options


def outside(options: argparse.Namespace, argv: Sequence[str]) -> int:
    """Run this program again in a world of its own, with a scratch directory."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    find_peers(options.peers)
    with tempfile.TemporaryDirectory(prefix="cni-bench-", dir=options.scratch) as scratch:
        again = [sys.executable, os.path.abspath(__file__), "--inside", scratch, *argv]
        return subprocess.run(unshared(again), check=False).returncode


def inside(options: argparse.Namespace) -> int:
    """Run the cases and report."""
    scratch: Path = options.inside
    gc.disable()
    adopt_orphans()
    world = World(scratch)
    peers = find_peers(options.peers)
    setting = report.Setting.of(command(options), peers, scratch)
    results = Results()
    stderr = os.open(scratch / "stderr", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    for case in options.selected:
        began = time.monotonic()
        run_case(case, peers, options.n, world, results, stderr)
        print(f"{case.name}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
    text = report.document(results, setting)
    print(text, end="", flush=True)
    if options.markdown:
        options.markdown.write_text(text)
    if options.json:
        options.json.write_text(json.dumps(report.as_json(results, setting)) + "\n")
    complaints = (scratch / "stderr").read_text(errors="replace")
    if complaints:
        print(f"bench: plugins wrote to stderr:\n{complaints[:2000]}", file=sys.stderr)
    for line in report.failures(results):
        print(f"bench: failed: {line}", file=sys.stderr)
    return 1 if results.failures else 0


def run_case(
    case: Case, peers: Sequence[Peer], rounds: int, world: World, results: Results, stderr: int
) -> None:
    """Run one case with the peers that have its plugins, and tidy up after it."""
    present = []
    for peer in peers:
        missing = [plugin for plugin in case.plugins if not peer.has(plugin)]
        if case.ours_only and peer.label != OURS:
            continue
        if not missing:
            present.append(peer)
        elif peer.label == OURS:
            results.note(f"{case.name}: skipped, {OURS} has no {' and no '.join(missing)}")
            return
        else:
            results.note(f"{case.name}: without {peer.label}, which has no {', '.join(missing)}")
    failures, rows, load = len(results.failures), set(results.rows), Load()
    try:
        case.run(Trial(case.name, present, rounds, world, results, stderr))
    except NotSupported as reason:
        results.note(f"{case.name}: skipped: {reason}")
    except (WorldError, OSError, subprocess.CalledProcessError) as error:
        results.fail(case.name, f"{type(error).__name__}: {error}")
    results.load |= dict.fromkeys(results.rows.keys() - rows, load.of_others())
    world.drop_hosts()
    if len(results.failures) > failures:
        world.drop_namespaces()
    world.clear_data()


def find_peers(given: Sequence[str]) -> list[Peer]:
    """The peers of a run; where ours and debian lie unless told otherwise is known."""
    directories = DIRECTORIES | dict(each.split("=", 1) for each in given)
    peers = []
    for index, (label, name) in enumerate(directories.items()):
        # Ours is found from any directory; reports show it as it is called in the repository.
        directory = ROOT / name if name == DIRECTORIES[OURS] else Path(name).absolute()
        if not directory.is_dir():
            hint = HINTS.get(label, "")
            raise WorldError(f"{label}: {name} is no directory{': ' if hint else ''}{hint}")
        peers.append(Peer(index, label, directory, name))
    return peers


def command(options: argparse.Namespace) -> str:
    """The command that repeats a run, without the files that it wrote."""
    words = ["python", "tests/bench/bench.py", "-n", str(options.n)]
    if options.cases:
        words += ["--cases", options.cases]
    return shlex.join([*words, *options.peers])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
