"""The world that plugins are timed in: namespaces of its own, gone with the last process in it.

The host's links, firewall rules, named namespaces and state directories are out of reach,
and nothing has to be undone: mounts, links and rules end with the namespaces.
"""

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
        """Hide the host's state directories and bring ``lo`` up.

        Data directories lie in scratch, on whatever it is on: a plugin that waits for a
        real disk must wait here too.
        """
        for parent, names in STATE.items():
            _hide(Path(parent), names)
        if not scratch.is_dir():
            raise WorldError(f"{scratch}: no place for scratch files, {list(STATE)} are hidden")
        run(["ip", "link", "set", "lo", "up"])
        self.scratch = scratch
        self._own_links = _links()
        self._namespaces: list[str] = []

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

    def directory(self) -> Path:
        """A new, empty data directory."""
        return Path(tempfile.mkdtemp(prefix="data-", dir=self.scratch))

    def clear_host(self) -> None:
        """Remove all links and firewall rules that were made on the host's side."""
        made = _links() - self._own_links
        if made:
            # Half a veth pair is gone with the other half: errors do not count.
            deletions = "".join(f"link del {name}\n" for name in sorted(made))
            run(["ip", "-force", "-batch", "-"], stdin=deletions, check=False)
        run(["nft", "flush", "ruleset"])

    def wait_for_no_ports(self, bridge: str) -> None:
        """Wait until the kernel has removed a bridge's ports, whose namespace is gone."""
        deadline = monotonic() + 60
        while run(["ip", "-oneline", "link", "show", "master", bridge]):
            if monotonic() > deadline:
                raise WorldError(f"{bridge} keeps ports whose namespace is gone")
            sleep(0.05)

    def clear_data(self) -> None:
        """Remove all data directories."""
        for path in self.scratch.glob("data-*"):
            shutil.rmtree(path)


def _links() -> set[str]:
    return {link["ifname"] for link in json.loads(run(["ip", "-json", "link", "show"]))}


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
