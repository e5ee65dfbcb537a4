"""A real systemd as the first process of namespaces of its own, in the network of a host."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import cni
from tests.iproute import Netns

# What a service needs of units beside itself; the machine's own would start the machine.
_TARGETS = ("sysinit", "basic", "network-online", "shutdown", "multi-user")
# In a mount namespace that goes with it: /etc is the machine's below a layer, /run is empty but
# for what is to be seen there, and control groups begin at its own.
_BOOT = """
set -eu
mount --make-rprivate /
mount -t proc proc /proc
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t overlay -o lowerdir=/etc,upperdir=$LAYERS/etc,workdir=$LAYERS/work overlay /etc
mount --bind $LAYERS/usr /usr/local
mkdir $LAYERS/run/cnm
mount --bind /run/cnm $LAYERS/run/cnm
mount --rbind $LAYERS/run /run
exec /lib/systemd/systemd --system --unit=multi-user.target --show-status=no --log-target=null
"""


@dataclass(frozen=True)
class Systemd:
    """One that runs."""

    pid: int

    @property
    def root(self) -> Path:
        """The file system as it sees that."""
        return Path(f"/proc/{self.pid}/root")

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command beside it."""
        command = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--net", *words]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=cni.PATIENCE, check=False
        )

    def systemctl(self, *words: str) -> str:
        """The stdout of a systemctl that must succeed."""
        done = self.call("systemctl", *words)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def property(self, unit: str, name: str) -> str:
        """What systemctl shows of a unit."""
        return self.systemctl("show", f"--property={name}", "--value", unit).strip()


@contextmanager
def booted(netns: Netns, layers: Path, units: Path) -> Iterator[Systemd]:
    """Have it run the units of a directory below `layers`/run, until all of it is killed.

    `layers` is on a file system that overlayfs can lay over another one; its `run` becomes
    /run, and its `usr` /usr/local.
    """
    for name in ("work", "etc", "run", "usr"):
        (layers / name).mkdir(exist_ok=True)
    for name in _TARGETS:
        (units / f"{name}.target").write_text("[Unit]\nDefaultDependencies=no\n")
    group = _cgroup()
    seen = Path("/run") / units.relative_to(layers / "run")
    kinds = ("--mount", "--pid", "--cgroup", "--ipc", "--uts")
    enter = ["bash", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "bash"]
    unshare = ["unshare", *kinds, "--fork", "--kill-child"]
    inside = ["ip", "netns", "exec", netns.name, *unshare, "bash", "-c", _BOOT]
    environment = {
        "PATH": os.environ["PATH"],
        "LAYERS": str(layers),
        "SYSTEMD_UNIT_PATH": str(seen),
        "container": "cnm-test",
    }
    process = subprocess.Popen([*enter, *inside], env=environment, process_group=0)
    try:
        yield _await(process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(cni.PATIENCE)
        _remove(group)


def _await(process: "subprocess.Popen[bytes]") -> Systemd:
    """The one that a process has as its child, once it takes commands."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + cni.PATIENCE
    while True:
        assert process.poll() is None and time.monotonic() < deadline, "systemd does not boot"
        for child in children.read_text().split():
            found = Systemd(int(child))
            state = found.call("systemctl", "is-system-running").stdout.strip()
            if state in ("running", "degraded"):
                return found
        time.sleep(0.05)


def _cgroup() -> Path:
    """A control group of version 2 below this process's own."""
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    top = next(words[4] for words in mounts if words[words.index("-") + 1] == "cgroup2")
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    own = next(line.removeprefix("0::") for line in lines if line.startswith("0::"))
    group = Path(top, own.lstrip("/"), f"cnm-systemd-{os.getpid()}")
    group.mkdir()
    return group


def _remove(group: Path) -> None:
    """Remove a control group whose processes have been killed."""
    deadline = time.monotonic() + cni.PATIENCE
    while "populated 1" in (group / "cgroup.events").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for each in sorted((each for each in group.rglob("*") if each.is_dir()), reverse=True):
        each.rmdir()
    group.rmdir()
