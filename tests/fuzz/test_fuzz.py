"""Every target for some seconds, from the same seed each time: what it finds is no accident."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.__main__ import HERE, NAMES, ROOT

SECONDS = 60


def test_every_target_has_seeds() -> None:
    """Nothing is left out, and inputs that once crashed a target are tried first."""
    pytest.importorskip("atheris", reason="atheris is built for x86_64 only")
    from tests.fuzz.targets import TARGETS

    assert tuple(sorted(TARGETS)) == NAMES
    assert all(any((HERE / "corpus" / name).iterdir()) for name in NAMES)


def test_targets(tmp_path: Path) -> None:
    """No input has another end than a result or an error object."""
    pytest.importorskip("atheris", reason="atheris is built for x86_64 only")
    command = [sys.executable, "-m", "tests.fuzz", "--seed", "1", "--seconds", str(SECONDS)]
    done = subprocess.run(
        [*command, "--kept", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout.count(" 0 crashes") == len(NAMES)
