"""The world that plugins are timed in: namespaces of its own, gone with the last process in it.

The machine's links, firewall rules, named namespaces and state directories are out of reach,
and nothing has to be undone: mounts, links and rules end with the namespaces. What plugins
take for the host is a namespace too, another for each peer, so that none meets the rules and
links of another.
"""

import ctypes
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import monotonic, sleep

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TOOLS = {"unshare": "util-linux", "mount": "mount", "ip": "iproute2", "nft": "nftables"}

CLONE_NEWNET = 0x40000000  # include/uapi/linux/sched.h
_LIBC = ctypes.CDLL(None, use_errno=True)

# Where plugins, and `ip netns`, keep state: directories by their parent.
STATE = {"/run": ("netns", "cnm"), "/var/lib": ("cni", "cnm")}


class WorldError(Exception):
    """The world cannot be made, or a tool in it failed."""


def run(argv: Sequence[str], *, stdin: str = "", check: bool = True) -> str:
    """Run a tool of the host and return what it printed."""
    done = subprocess.run(
        argv,
        input=stdin,
        text=True,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={"PATH": PATH, "LC_ALL": "C.UTF-8"},
    )
    if check and done.returncode != 0:
        raise WorldError(f"{' '.join(argv)}: exit code {done.returncode}: {done.stdout.strip()}")
    return done.stdout


def find_tool(name: str) -> str | None:
    """Where a tool is, looking where root looks."""
    return shutil.which(name, path=PATH)


def require_host() -> None:
    """Raise unless this is root on a machine with the tools that a world is made with."""
    if os.geteuid() != 0:
        raise WorldError("network namespaces need root")
    for tool, package in TOOLS.items():
        if find_tool(tool) is None:
            raise WorldError(f"{tool} is missing: install {package}")


def unshared(argv: Sequence[str]) -> list[str]:
    """The command that runs argv in network and mount namespaces of its own."""
    return [find_tool("unshare") or "unshare", "-m", "-n", "--propagation", "private", *argv]


class World:
    """The inside of ``unshared``: the host's side, container namespaces, data directories."""

    def __init__(self, scratch: Path) -> None:
        """Hide the machine's state directories.

        Data directories lie in scratch, on whatever it is on: a plugin that waits for a
        real disk must wait here too.
        """
        for parent, names in STATE.items():
            _hide(Path(parent), names)
        if not scratch.is_dir():
            raise WorldError(f"{scratch}: no place for scratch files, {list(STATE)} are hidden")
        self.scratch = scratch
        self._home = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._namespaces: list[str] = []
        self._hosts: dict[str, Host] = {}

    def host(self, name: str) -> "Host":
        """The host of that name, made when needed."""
        if name not in self._hosts:
            self._hosts[name] = Host(f"host-{name}", self._home)
        return self._hosts[name]

    def drop_hosts(self, *names: str) -> None:
        """Remove these hosts, or all, and wait until nothing is left of them."""
        for name in names or list(self._hosts):
            self._hosts.pop(name).drop()
        self._await_removal()

    def namespaces(self, count: int) -> list[str]:
        """Paths of the first count container namespaces, made when needed."""
        while len(self._namespaces) < count:
            name = f"bench{len(self._namespaces)}"
            run(["ip", "netns", "add", name])
            run(["ip", "-n", name, "link", "set", "lo", "up"])
            self._namespaces.append(f"/run/netns/{name}")
        return self._namespaces[:count]

    def drop_namespaces(self) -> None:
        """Remove all container namespaces with whatever is in them."""
        for path in self._namespaces:
            run(["ip", "netns", "del", os.path.basename(path)])
        self._namespaces.clear()
        self._await_removal()

    def _await_removal(self) -> None:
        """Wait until removed namespaces are gone.

        The kernel takes them in turn (cleanup_net, net/core/net_namespace.c), and the last
        one's end shows in a link that it had the other end of.
        """
        run(["ip", "netns", "add", "last"])
        run(["ip", "link", "add", "last", "type", "veth", "peer", "name", "end", "netns", "last"])
        run(["ip", "netns", "del", "last"])
        deadline = monotonic() + 60
        while os.path.exists("/proc/sys/net/ipv4/conf/last"):
            if monotonic() > deadline:
                raise WorldError("the kernel keeps links whose namespace is gone")
            sleep(0.01)

    def directory(self) -> Path:
        """A new, empty data directory."""
        return Path(tempfile.mkdtemp(prefix="data-", dir=self.scratch))

    def clear_data(self) -> None:
        """Remove all data directories, and what plugins keep of their own."""
        for path in self.scratch.glob("data-*"):
            shutil.rmtree(path)
        for parent, names in STATE.items():
            for name in names:
                for path in Path(parent, name).iterdir():
                    if name != "netns":
                        shutil.rmtree(path) if path.is_dir() else path.unlink()


class Host:
    """A network namespace that plugins take for the host; ``with`` enters it."""

    def __init__(self, name: str, home: int) -> None:
        self.name, self.path, self._home = name, f"/run/netns/{name}", home
        run(["ip", "netns", "add", name])
        self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        self.run(["ip", "link", "set", "lo", "up"])
        self._own_links = self._links()

    def __enter__(self) -> None:
        _enter(self._fd)

    def __exit__(self, *_: object) -> None:
        _enter(self._home)

    def run(self, argv: Sequence[str], *, stdin: str = "", check: bool = True) -> str:
        """Run a tool there and return what it printed."""
        with self:
            return run(argv, stdin=stdin, check=check)

    def clear(self) -> None:
        """Remove all links and firewall rules that were made there."""
        made = self._links() - self._own_links
        if made:
            # Half a veth pair is gone with the other half: errors do not count.
            deletions = "".join(f"link del {name}\n" for name in sorted(made))
            self.run(["ip", "-force", "-batch", "-"], stdin=deletions, check=False)
        self.run(["nft", "flush", "ruleset"])

    def drop(self) -> None:
        """Remove it; the kernel takes its time with what is in it."""
        os.close(self._fd)
        run(["ip", "netns", "del", self.name])

    def _links(self) -> set[str]:
        return {link["ifname"] for link in json.loads(self.run(["ip", "-json", "link", "show"]))}


def _enter(namespace: int) -> None:
    """setns(2), which os has from Python 3.12 on."""
    if _LIBC.setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _hide(parent: Path, names: Sequence[str]) -> None:
    """Lay empty directories over parent's, or over parent where one of them is missing there.

    So the disk needs no mount point that would have to be removed afterwards.
    """
    places = [parent / name for name in names]
    missing = not all(place.is_dir() for place in places)
    for place in [parent] if missing else places:
        run(["mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", str(place)])
    for place in places:
        place.mkdir(exist_ok=True)
