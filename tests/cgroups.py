"""Control groups of the containers that tests run: below one of this process's own."""

import errno
import os
import time
from pathlib import Path

from tests import cni

PARENT = f"/cnm-test-{os.getpid()}"


def remove() -> None:
    """Remove what runtimes leave of them, once what they have killed has ended."""
    for top in Path("/sys/fs/cgroup").glob(f"*{PARENT}"):
        for group in sorted((each for each in top.rglob("*") if each.is_dir()), reverse=True):
            _remove(group)
        _remove(top)


def _remove(group: Path) -> None:
    deadline = time.monotonic() + cni.PATIENCE
    while True:
        try:
            return group.rmdir()
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.05)
