"""What the kernel says, by iproute2, and sockets inside network namespaces."""

import ctypes
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
PATIENCE = 60  # seconds until something counts as hanging

libc = ctypes.CDLL(None, use_errno=True)


def checked(status: int) -> None:
    """Raise the errno of a C library call that returned -1."""
    if status == -1:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))


def run(*command: str) -> str:
    """The stdout of a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Netns:
    """A named network namespace; the one of this process where the name is empty."""

    name: str = ""

    @property
    def path(self) -> str:
        """What CNI_NETNS holds for it."""
        return f"/run/netns/{self.name}" if self.name else "/proc/self/ns/net"

    def run(self, command: list[str]) -> str:
        """The stdout of a command inside, which must succeed."""
        inside = ["ip", "netns", "exec", self.name] if self.name else []
        return run(*inside, *command)

    def ip(self, *words: str) -> None:
        """Run iproute2 inside."""
        self._ip(*words)

    def _ip(self, *words: str) -> str:
        return run("ip", *(["-n", self.name] if self.name else []), *words)

    def query(self, *words: str) -> list[dict[str, Any]]:
        """What iproute2 lists, in its JSON."""
        output = self._ip("-j", "-d", *words)
        return [each for each in json.loads(output or "[]") if each]

    def links(self) -> dict[str, dict[str, Any]]:
        """All links by their names."""
        return {link["ifname"]: link for link in self.query("link", "show")}

    def link(self, name: str) -> dict[str, Any]:
        """The link of that name."""
        return self.links()[name]

    def ports(self, bridge: str) -> list[str]:
        """The names of a bridge's ports."""
        return [name for name, link in self.links().items() if link.get("master") == bridge]

    def addresses(self, link: str) -> list[str]:
        """The addresses of a link in CIDR notation, without those that IPv6 makes itself."""
        return [f"{each['local']}/{each['prefixlen']}" for each in self.address_info(link)]

    def address_info(self, link: str) -> list[dict[str, Any]]:
        """What there is to say about each of those addresses."""
        return [
            info
            for each in self.query("addr", "show", "dev", link)
            for info in each["addr_info"]
            if not _link_local(info["local"])
        ]

    def routes(self, family: int, table: str = "main") -> list[dict[str, Any]]:
        """The routes of a family, without IPv6's link-local ones."""
        listed = self.query(f"-{family}", "route", "show", "table", table)
        return [route for route in listed if not _link_local(route["dst"])]

    def sysctl(self, *path: str) -> str:
        """The value of a setting below /proc/sys/net."""
        return self.run(["cat", "/".join(("/proc/sys/net", *path))]).strip()

    def reaches(self, address: str, *, seconds: int | None = None) -> bool:
        """Whether an address answers a ping, which may take its time; or pings for some seconds.

        What is not to be reached needs few of them, and what has yet to settle PATIENCE.
        """
        inside = ["ip", "netns", "exec", self.name] if self.name else []
        ping = [*inside, "ping", "-n", "-q", "-c1", address]
        if seconds is None:
            return _succeeds(*ping, f"-W{PATIENCE}")
        deadline = time.monotonic() + seconds
        while not _succeeds(*ping, f"-w{seconds}"):  # which an ICMP error ends, too
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.05)
        return True

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Have the calling thread inside; sockets opened here stay here."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        inside = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            checked(libc.setns(inside, CLONE_NEWNET))
            yield
        finally:
            checked(libc.setns(home, CLONE_NEWNET))
            os.close(inside)
            os.close(home)


HOST = Netns()


def makes(kind: str) -> bool:
    """Whether the kernel knows a kind of link, of those that stand on another one."""
    HOST.ip("link", "add", "probe0", "type", "veth", "peer", "name", "probe1")
    made = _succeeds("ip", "link", "add", "link", "probe0", "probe2", "type", kind)
    HOST.ip("link", "delete", "probe0")
    return made


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _link_local(address: str) -> bool:
    return address.startswith(("fe80:", "ff00:", "multicast"))


def exchange_by_tcp(client: Netns, server: Netns, address: str, payload: bytes) -> bytes:
    """What a client in one namespace gets back from an echo of `payload` in another."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with server.entered():
        listener = socket.create_server((address, 0), family=family)
    with client.entered():
        near = socket.create_connection(listener.getsockname()[:2], timeout=PATIENCE)
    far, _ = listener.accept()
    far.settimeout(PATIENCE)
    with listener, near, far, near.makefile("rb") as answers, far.makefile("rb") as requests:
        back = b""
        for start in range(0, len(payload), _PIECE):
            piece = payload[start : start + _PIECE]
            near.sendall(piece)
            far.sendall(requests.read(len(piece)))
            back += answers.read(len(piece))
    return back


_PIECE = 16384  # what the kernel buffers while nobody reads


@dataclass(frozen=True)
class Snapshot:
    """Everything that a plugin may leave behind, in a form that compares."""

    links: dict[str, Any]
    addresses: dict[str, Any]
    routes: list[Any]
    sysctls: dict[str, str]
    rules: str
    files: dict[str, Any]


# Not what a call is about: locks, where the next search for an address begins, the index.
_INCIDENTAL = ("lock", ".lock", "last_reserved_ip.", ".cnm")
_FORWARDING = (("ipv4", "ip_forward"), ("ipv6", "conf", "all", "forwarding"))
_ROUTE = ("dst", "dev", "gateway", "metric", "table", "scope", "type")


def snapshot(*namespaces: Netns, directories: tuple[Path, ...]) -> Snapshot:
    """The state of the host, of some network namespaces, and of state directories."""
    all_of_them = (HOST, *namespaces)
    shown = {each.name: each.query("addr", "show") for each in all_of_them}
    return Snapshot(
        {netns: {link["ifname"]: _link(link) for link in links} for netns, links in shown.items()},
        {netns: dict(map(_addresses, links)) for netns, links in shown.items()},
        [_routes(each) for each in all_of_them],
        {path[-1]: HOST.sysctl(*path) for path in _FORWARDING},
        run("nft", "--stateless", "list", "ruleset"),
        {path: content for root in directories for path, content in _files(root)},
    )


def _link(link: dict[str, Any]) -> dict[str, Any]:
    """A link without what changes by itself: timers, carrier."""
    info = link.get("linkinfo", {})
    port = info.get("info_slave_data", {})
    return {
        **{key: link.get(key) for key in ("ifindex", "address", "mtu", "master", "promiscuity")},
        "up": "UP" in link["flags"],
        "kind": info.get("info_kind"),
        "port": {key: port.get(key) for key in ("hairpin", "isolated")},
    }


def _addresses(link: dict[str, Any]) -> tuple[str, list[str]]:
    infos = [each for each in link["addr_info"] if not _link_local(each["local"])]
    return link["ifname"], sorted(f"{each['local']}/{each['prefixlen']}" for each in infos)


def _routes(netns: Netns) -> list[str]:
    """The routes of both families, without those in table local that the kernel has for addresses.

    Of IPv6 these come some time after the address (addrconf_dad_work in net/ipv6/addrconf.c).
    """
    return sorted(
        str({key: route.get(key) for key in _ROUTE})
        for route in netns.routes(4, "all") + netns.routes(6, "all")
        if (route.get("table"), route.get("protocol")) != ("local", "kernel")
    )


def _files(root: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if path.is_file() and not any(part.startswith(_INCIDENTAL) for part in parts):
            yield str(path), path.read_bytes()
