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
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| case | op | ours | best peer | ratio | limit | verdict |" in done.stdout
    assert "| case | op | peer | n | min | median | p95 | cpu |" in done.stdout
    for peer in ("ours", "debian"):
        assert f"| version | VERSION | {peer} | 1 |" in done.stdout
        for op in ("ADD", "CHECK", "DEL"):
            assert f"| bridge_gw | {op} | {peer} | 1 |" in done.stdout
