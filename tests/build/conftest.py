"""What a build is packed into."""

import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def release(request: pytest.FixtureRequest) -> Path:
    """The directory of a release of the executables under test."""
    root = request.config.rootpath
    done = subprocess.run(
        ["make", "release"], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return root / "dist/release"
