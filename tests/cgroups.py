"""Control groups of the containers that tests run: below one of this process's own."""

import os
from pathlib import Path

PARENT = f"/cnm-test-{os.getpid()}"


def remove() -> None:
    """Remove what runtimes leave of them; fails while a process is in one."""
    for top in Path("/sys/fs/cgroup").glob(f"*{PARENT}"):
        for group in sorted((each for each in top.rglob("*") if each.is_dir()), reverse=True):
            group.rmdir()
        top.rmdir()
