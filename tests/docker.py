"""A dockerd of a test's own, and Docker's command line with it."""

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import cni


@dataclass(frozen=True)
class Docker:
    """Docker's command line with a daemon of our own."""

    socket: Path
    home: Path

    def call(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run a command."""
        return subprocess.run(
            ["/usr/bin/docker", "--host", f"unix://{self.socket}", *words],
            env={"PATH": cni.SEARCH_PATH, "HOME": str(self.home)},
            capture_output=True,
            text=True,
            timeout=cni.PATIENCE,
            check=False,
        )

    def run(self, *words: str) -> str:
        """The output of a command, which must succeed."""
        done = self.call(*words)
        assert done.returncode == 0, done
        return done.stdout.strip()


@contextmanager
def daemon(directory: Path) -> Iterator[Docker]:
    """A dockerd in the namespaces of the test, with its files in a directory and no image."""
    socket = directory / "docker.sock"
    command = [
        "unshare", "--mount", "--propagation", "private",
        "/usr/sbin/dockerd", "--host", f"unix://{socket}", "--bridge", "none",
        "--data-root", str(directory / "data"), "--exec-root", str(directory / "exec"),
        "--pidfile", str(directory / "pid"), "--storage-driver", "vfs",
    ]  # fmt: skip
    log = directory / "dockerd.log"
    environment = {"PATH": cni.SEARCH_PATH, "HOME": str(directory)}
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    client = Docker(socket, directory)
    try:
        deadline = time.monotonic() + cni.PATIENCE
        while client.call("version").returncode:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield client
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(cni.PATIENCE)
