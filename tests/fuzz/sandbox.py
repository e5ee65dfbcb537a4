"""A machine that fuzzed configurations may do anything to: nothing of it outlives the process.

Entered by `unshare --net --mount --pid --fork --mount-proc`. All file systems are read-only
but one directory for what is found; where plugins keep state is empty memory. Links, addresses
and rules are of a network namespace that nobody else is in.
"""

import errno
import os
from pathlib import Path

from tests import iproute

MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
_EMPTY = ("/run", "/var/lib", "/tmp", "/dev", "/sys", "/etc/cni", "/etc/docker")
SANDBOX = "/run/netns/fuzz"
_ROOT = Path(__file__).parents[2]


def enter(kept: Path) -> None:
    """Shut the process in; only in `kept`, its working directory then, can it write what stays."""
    kept.mkdir(parents=True, exist_ok=True)
    _mount(str(kept), str(kept), None, MS_BIND)
    os.chdir(kept)
    _mount("/proc/sys/net", "/proc/sys/net", None, MS_BIND)
    writable = {str(kept), "/proc/sys/net"}
    repository = os.open(_ROOT, os.O_PATH)
    for path in _EMPTY:
        if Path(path).is_dir():
            _mount("tmpfs", path, "tmpfs", 0)
            writable.add(path)
    if not _ROOT.exists():  # it was below one of them
        _ROOT.mkdir(parents=True)
        _mount(f"/proc/self/fd/{repository}", str(_ROOT), None, MS_BIND)
    os.close(repository)
    for line in Path("/proc/self/mounts").read_text().splitlines():
        path = line.split()[1].encode().decode("unicode_escape")
        if path not in writable:
            _make_read_only(path)
    for path in ("/etc", str(_ROOT), "/proc/sys/kernel"):
        assert os.statvfs(path).f_flag & os.ST_RDONLY, f"{path} can be written to"
    os.mknod("/dev/null", 0o20666, os.makedev(1, 3))
    renew()


def renew() -> None:
    """A new host: a network namespace with nothing in it, and a sandbox."""
    iproute.checked(iproute.libc.unshare(iproute.CLONE_NEWNET))
    iproute.HOST.ip("link", "set", "lo", "up")
    if Path(SANDBOX).exists():
        iproute.run("ip", "netns", "delete", "fuzz")
    iproute.run("ip", "netns", "add", "fuzz")


def _make_read_only(path: str) -> None:
    try:
        _mount("none", path, None, MS_REMOUNT | MS_BIND | MS_RDONLY)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):  # under another mount: out of reach
            raise


def _mount(source: str, target: str, kind: str | None, flags: int) -> None:
    encoded = (text.encode() if text else None for text in (source, target, kind))
    iproute.checked(iproute.libc.mount(*encoded, flags, None))
