"""The unit of systemd that `make install` puts in place."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
_PATIENCE = 300  # seconds


@pytest.fixture(scope="module")
def unit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installed unit, whose command is installed beside it."""
    prefix = tmp_path_factory.mktemp("prefix")
    words = ["make", "install", "DESTDIR=", f"PREFIX={prefix}", f"CNI_BIN={prefix}/cni"]
    done = subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, timeout=_PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    path = prefix / "lib/systemd/system/cnm-agent.service"
    assert str(path) in done.stdout.splitlines()
    return path


def test_verify(unit: Path) -> None:
    """systemd understands every line of it, and finds the command."""
    done = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False
    )
    ours = [line for line in done.stderr.splitlines() if "cnm-agent" in line]
    assert (done.returncode, ours) == (0, []), done.stderr
    assert f"ExecStart={unit.parents[3]}/bin/cnm agent" in unit.read_text().splitlines()
    assert unit.stat().st_mode & 0o777 == 0o644


def test_confined(unit: Path) -> None:
    """It may do little beside what it is for: systemd's own measure of that, of ten, is low."""
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=30", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
