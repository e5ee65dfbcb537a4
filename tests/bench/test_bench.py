"""The benchmark runs, checks what plugins answer, and reports; how fast they are is not tested."""

import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).with_name("bench.py")
PLUGINS = BENCH.parents[2] / "dist/cnm/bin"


def test_one_round_runs_and_reports() -> None:
    assert PLUGINS.is_dir(), "dist/cnm/bin is missing: run `make build`"
    done = subprocess.run(
        [sys.executable, BENCH, "-n", "1", "--cases", "version,bridge_gw"],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| case | op | ours | best peer | ratio | limit | verdict |" in done.stdout
    assert "| case | op | peer | n | min | median | p95 | cpu |" in done.stdout
    for peer in ("ours", "debian"):
        assert f"| version | VERSION | {peer} | 1 |" in done.stdout
        for op in ("ADD", "CHECK", "DEL"):
            assert f"| bridge_gw | {op} | {peer} | 1 |" in done.stdout


def test_overlay_runs_and_reports() -> None:
    small = ["--hosts", "2,3", "-n", "2", "--endpoints", "1500", "--idle", "1", "--seconds", "1"]
    done = subprocess.run(
        [sys.executable, BENCH.with_name("overlay.py"), *small],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for words in (
        "| 3 hosts: endpoint added → reachable from every other one, p99 |",
        "| overlay ADD / our bridge ADD |",
        "| TCP between hosts, overlay / VXLAN by hand |",
        "| 1,500 endpoints of other hosts: the agent's memory (RSS) |",
        "After each step the entries of every host were those that the store asks for.",
    ):
        assert words in done.stdout
