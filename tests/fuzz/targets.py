"""What is fuzzed. A target takes bytes, and raises where a call should not have ended so.

Inputs of several parts have a line of four hyphens between them.
"""

import json
import os
import shutil
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from cnm_core import http
from cnm_core.cli import overlay_file
from cnm_core.cni import result
from cnm_core.cni.invocation import VERSIONS
from cnm_core.config.remote import RemoteConfig
from cnm_core.drivers import overlay
from cnm_core.errors import Error
from cnm_core.inet import parse_address, parse_ip
from cnm_core.ipam import docker_plugin
from cnm_core.ipam.remote import Remote
from cnm_core.kernel import (
    address,
    link,
    neighbour,
    netlink,
    nftables,
    route,
    vlan,
)
from cnm_core.model import Endpoint, EndpointKey, Sandbox
from cnm_core.store import entries, tunnels
from cnm_core.store.cluster import Cluster
from cnm_core.store.endpoints import EndpointStore
from cnm_core.store.etcd import Access, EtcdStore
from cnm_core.store.membership import Membership, View
from cnm_core.store.shared import Compacted, Delete, Entry, Put, Range
from cnm_core.store.shared_files import FileStore
from tests.fuzz import calls

_SEPARATOR = b"\n----\n"
_KEY = EndpointKey("c1", "eth0")
_STATE = (Path("/run/cnm"), Path("/var/lib/cni"), Path("/var/lib/cnm"))


def _bridge(**members: Any) -> dict[str, Any]:
    ipam = {"type": "host-local", "ranges": [[{"subnet": "10.1.0.0/24"}]], "quarantineSeconds": 60}
    return {"cniVersion": "1.1.0", "name": "blue", "type": "bridge", "ipam": ipam, **members}


def call(data: bytes) -> None:
    """A whole call: the plugin's name and the environment, a line each, and stdin.

    What was added is deleted again, by the same configuration, and that must succeed.
    """
    head, _, stdin = data.partition(_SEPARATOR)
    name, *lines = head.split(b"\n")
    pairs = (line.partition(b"=") for line in lines if b"\0" not in line)
    environment = calls.environment("ADD") | {key: value for key, _, value in pairs if key}
    executable = name.decode("utf-8", "replace")
    if executable not in calls.plugins.EXECUTABLES or not environment[b"CNI_COMMAND"]:
        return
    error = calls.serve(executable, environment, stdin)
    if error is None and environment[b"CNI_COMMAND"] == b"ADD":
        deletion = environment | {b"CNI_COMMAND": b"DEL"}
        error = calls.serve(executable, deletion, stdin)
        if error is not None:
            raise calls.Defect(f"DEL failed after ADD: {error}")


def previous(data: bytes) -> None:
    """A prevResult, for CHECK of an endpoint that is there, for portmap, and by itself."""
    config = json.dumps(_bridge()).encode()[:-1] + b', "prevResult": ' + data + b"}"
    calls.serve("bridge", calls.environment("CHECK"), config)
    calls.serve("loopback", calls.environment("ADD"), config)
    ports = b', "runtimeConfig": {"portMappings": [{"hostPort": 80, "containerPort": 80}]}}'
    calls.serve("portmap", calls.environment("CHECK"), config[:-1] + ports)
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return
    for version in VERSIONS:
        with suppress(Error):
            result.to_document(result.from_document(document, version), version)


def record(data: bytes) -> None:
    """An endpoint's record, of a network plugin and of portmap: DEL and GC do without it.

    Not without the IPAM plugin that it names: whoever gave an address takes it back.
    """
    for name, command in (("bridge", "CHECK"), ("bridge", "DEL"), ("bridge", "GC")):
        _plant("/run/cnm/blue/c1:eth0", data)
        config = _bridge(prevResult={"cniVersion": "1.1.0"}) | {"cni.dev/valid-attachments": []}
        error = calls.serve(name, calls.environment(command), json.dumps(config).encode())
        if error is not None and command != "CHECK" and "ipam.type" not in error["msg"]:
            raise calls.Defect(f"{command} failed: {error}")
    for command in ("DEL", "GC"):
        _plant("/run/cnm/.portmap/blue/c1:eth0", data)
        config = {"cniVersion": "1.1.0", "name": "blue", "type": "portmap"}
        calls.succeed("portmap", command, config | {"cni.dev/valid-attachments": []})
    with suppress(Error):
        _plant("/run/cnm/blue/c1:eth0", data)
        other = Endpoint(network="blue", key=EndpointKey("c2", "eth0"), sandbox=Sandbox(""))
        EndpointStore("/run/cnm").shares_parent("x", other)


def allocations(data: bytes) -> None:
    """Files of addresses and of their index, which claims to be in step with them."""
    parts = [*data.split(_SEPARATOR), *[b""] * 6][:6]
    files, index = Path("/var/lib/cni/networks/blue"), Path("/var/lib/cni/networks/.cnm/blue")
    shutil.rmtree("/var/lib/cni", ignore_errors=True)
    _plant(files / "10.1.0.2", parts[0])
    _plant(files / "last_reserved_ip.0", parts[1])
    _plant(index / "used/4-a01", parts[2])
    _plant(index.parent / ".blue.resting", parts[3])
    (index / "owners").mkdir()
    for target, name in ((parts[4], b"c1:eth0"), (b"10.1.0.9@0", parts[5])):
        with suppress(OSError, ValueError):  # no name of a file
            os.symlink(target, os.fsencode(index / "owners") + b"/" + name.replace(b"/", b""))
    for directory in (files, index):
        os.utime(directory, (1, 1))
    config = json.dumps(_bridge(type="host-local") | {"cni.dev/valid-attachments": []}).encode()
    for command in ("ADD", "DEL", "GC", "STATUS"):
        calls.serve("host-local", calls.environment(command), config)
    # Whatever it was, GC and ADD have repaired it.
    for command in ("GC", "ADD", "DEL"):
        error = calls.serve("host-local", calls.environment(command), config)
        if error is not None:
            raise calls.Defect(f"{command} failed after GC: {error}")


def shared_files(data: bytes) -> None:
    """The files of one host's store, and what a host last knew of a network."""
    parts = [*data.split(_SEPARATOR), *[b""] * 6][:6]
    shutil.rmtree("/run/cnm", ignore_errors=True)
    names = ("entries/networks/=blue", "revision", "history", "leases/1", "journal")
    for name, content in zip(names, parts, strict=False):
        if content:
            _plant(f"/run/cnm/store/{name}", content)
    _plant("/run/cnm/.overlay/blue", parts[5])
    Membership(Cluster(FileStore("/run/cnm/store"), _ignore), "/run/cnm", "n1").known("blue")
    for step in (
        lambda: FileStore("/run/cnm/store").get("networks/blue"),
        lambda: FileStore("/run/cnm/store").range(""),
        lambda: FileStore("/run/cnm/store").grant(5),
        lambda: FileStore("/run/cnm/store").keep_alive(1),
        lambda: next(FileStore("/run/cnm/store").watch("", 1)),
        lambda: FileStore("/run/cnm/store").commit((), (Put("a/b", "c", 1), Delete("d"))),
    ):
        with suppress(Error, Compacted):
            step()


class _Answers:
    """In place of an HTTP connection: each request gets the next part."""

    def __init__(self, parts: list[bytes]) -> None:
        self._parts = parts

    def request(self, *_: object, **__: object) -> http.Answer:
        if not self._parts:
            raise http.Unanswered("no more answers")
        status, _, body = self._parts.pop(0).partition(b" ")
        return http.Answer(404 if status == b"404" else 500 if status == b"500" else 200, "", body)

    def stream(self, *_: object, **__: object) -> Iterator[bytes]:
        yield from self._parts
        raise http.Unanswered("the end")

    def close(self) -> None:
        """Nothing is open."""


def etcd(data: bytes) -> None:
    """Answers of etcd's gateway, for each question of its client and of the cluster."""
    parts = data.split(_SEPARATOR)
    http.Connection = lambda _: _Answers(list(parts))  # type: ignore[assignment,misc]
    ignored: list[Error] = []
    for step in (
        lambda store: store.get("networks/blue"),
        lambda store: store.range("networks/"),
        lambda store: store.commit((), (Put("a/b", "c"),)),
        lambda store: list(store.watch("", 1)),
        lambda store: store.grant(5),
        lambda store: store.keep_alive(1),
        lambda store: store.revoke(1),
        lambda store: Cluster(store, ignored.append).members(),
        lambda store: Cluster(store, ignored.append).blocks("blue", "n1"),
        lambda store: Cluster(store, ignored.append).conflists(),
        lambda store: Cluster(store, ignored.append).alive(),
    ):
        access = Access((http.Server(host="10.0.0.1", port=2379),), "root", "secret")
        with suppress(Error, Compacted):
            step(EtcdStore(access, "cnm/v1/default/"))


def _ignore(_: Error) -> None:
    pass


def member(data: bytes) -> None:
    """What another member of an overlay may write: a key and its value, several of both.

    What is believed of it can be put into words and into messages to the kernel.
    """
    found = []
    for part in data.split(_SEPARATOR):
        key, _, value = part.decode("utf-8", "replace").partition("\n")
        found.append(Entry(key, value, 2, 1))
    store = _Entries(found)
    cluster = Cluster(store, _ignore)
    with suppress(Error):
        cluster.members()
    with suppress(Error):
        cluster.blocks("blue", "n1")
    with suppress(Error):
        tunnels.ends(cluster)
    shared = cluster.conflists()
    for network in cluster.networks():
        entries.encode_network(network)
        with suppress(Error):
            overlay_file.document(network, shared.get(network.name, "{}"), {})
    believed = []
    for entry in found:
        entries.endpoint_place(entry.key)
        with suppress(Error):
            believed.append(entries.endpoint_of(entry.key, entry.value))
    for view in _views():
        mine = [each for each in believed if each.network == "blue"]
        for row in overlay.rows(view, _link(b"br"), _link(b"vx"), mine):
            netlink.encode(neighbour.replace(row), 1)
            netlink.encode(neighbour.delete(row), 1)


class _Entries:
    """A store that has these entries."""

    def __init__(self, found: list[Entry]) -> None:
        self._found = found

    def get(self, key: str) -> Entry | None:
        return next((each for each in self._found if each.key == key), None)

    def range(self, prefix: str) -> Range:
        return Range(tuple(each for each in self._found if each.key.startswith(prefix)), 2)


def _views() -> Iterator[View]:
    for vtep, subnet in (("192.0.2.1", "10.1.0.0/24"), ("fd01::1", "fd00::/64")):
        for encrypted in (False, True):
            address_ = parse_address(subnet)
            gateway = entries.Subnet(
                address_, parse_ip(subnet.partition("/")[0].removesuffix("0") + "1")
            )
            network = entries.SharedNetwork(
                "blue", 4097, 4789, 1400, False, (gateway,), bum="ingress-replication",
                encrypted=encrypted,
            )  # fmt: skip
            yield View(entries.Member("n1", parse_ip(vtep), 1500), network)


def _link(name: bytes) -> link.Link:
    return link.Link(7, name.decode(), "bridge", b"", 1500, 1, 0, "")


def docker_ipam(data: bytes) -> None:
    """Answers of a Docker IPAM driver to ADD and DEL, and what is recorded of them.

    A driver may keep an address from being had; it never breaks a call.
    """
    shutil.rmtree("/var/lib/cnm", ignore_errors=True)
    parts = data.split(_SEPARATOR)
    docker_plugin.Connection = lambda _: _Answers(parts)  # type: ignore[assignment,misc]
    driver = Remote("blue", RemoteConfig(driver="fuzz"), lambda _: None)
    for step in (lambda: driver.request(_KEY), driver.check_status, lambda: driver.release(_KEY)):
        with suppress(Error):
            step()
    # The answers once more, as the files that are left of them.
    for name, content in zip(
        ("network", "endpoints/c1:eth0"), data.split(_SEPARATOR)[-2:], strict=False
    ):
        _plant(f"/var/lib/cnm/remote/blue/{name}", content)
    parts.clear()
    driver.release(_KEY)
    driver.collect(())


def http_answer(data: bytes) -> None:
    """The bytes that a server sends, in pieces, for a request and for a stream."""
    for work in (
        lambda connection: connection.request("GET", "/", seconds=5, limit=1 << 16),
        lambda connection: list(connection.stream("GET", "/", b"", {}, seconds=5, pause=0)),
    ):
        connection = http.Connection(http.Server(path="/run/x.sock"))
        connection._connect = lambda: _Pieces(data)  # type: ignore[method-assign]
        connection._socket = _Pieces(b"")  # type: ignore[assignment]
        with suppress(http.Unanswered, http.NotHttp):
            work(connection)


class _Pieces:
    """In place of a socket."""

    def __init__(self, data: bytes) -> None:
        self._pieces = [data[at : at + 100] for at in range(0, len(data), 100)]

    def recv(self, _: int) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""

    def sendall(self, _: bytes) -> None: ...
    def settimeout(self, _: float) -> None: ...
    def close(self) -> None: ...

    def fileno(self) -> int:
        return 0


_MALFORMED = (struct.error, LookupError, ValueError, OverflowError)


class _NoMore(Exception):
    """The kernel has told all that it will."""


class _Kernel:
    """In place of a netlink socket of the kernel's."""

    def __init__(self, data: bytes) -> None:
        self._messages = data.split(_SEPARATOR)

    def send(self, _: bytes) -> None: ...
    def setblocking(self, _: bool) -> None: ...
    def setsockopt(self, *_: object) -> None: ...

    def recv(self, *_: int) -> bytes:
        if not self._messages:
            raise _NoMore
        return self._messages.pop(0)


def _questions() -> Iterator[Callable[[netlink.Socket], object]]:
    yield lambda socket: link.find(socket, "eth0")
    yield link.list_links
    yield lambda socket: address.list_of(socket, 1)
    yield route.default_links
    yield lambda socket: route.list_of(socket, 1)
    yield lambda socket: route.local_addresses(socket, 2)
    yield lambda socket: neighbour.list_of(socket, 1, 1)
    yield lambda socket: vlan.members_of(socket, 1)
    yield lambda socket: nftables.rules(socket, "ip", "cnm", "x")
    yield lambda socket: nftables.elements(socket, "ip", "cnm", "x", interval=True)
    yield lambda socket: nftables.chain_uses(socket, "ip", "cnm", ["x"])
    yield lambda socket: nftables.commit(socket, [nftables.add_table("ip", "cnm")])
    yield netlink.Socket.events


def kernel(data: bytes) -> None:
    """Answers of netlink: whatever reads them comes to an end.

    What the kernel says is believed. That it breaks its own protocol would be a defect to report,
    which is what `cnm_core.cni.main` makes of these errors.
    """
    for question in _questions():
        socket_ = netlink.Socket.__new__(netlink.Socket)
        socket_._socket = _Kernel(data)  # type: ignore[assignment]
        socket_._sequence = 0
        with suppress(Error, _NoMore, *_MALFORMED):
            question(socket_)


def _plant(path: str | Path, content: bytes) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def prepare(name: str) -> None:
    """What a target finds when it begins."""
    if name == "docker_ipam":
        Path("/run/docker/plugins").mkdir(parents=True)
        socket.socket(socket.AF_UNIX).bind("/run/docker/plugins/fuzz.sock")
    if name == "previous":
        calls.succeed("bridge", "ADD", _bridge())


TARGETS: dict[str, Callable[[bytes], None]] = {
    "call": call,
    "previous": previous,
    "record": record,
    "allocations": allocations,
    "shared_files": shared_files,
    "etcd": etcd,
    "member": member,
    "docker_ipam": docker_ipam,
    "http": http_answer,
    "kernel": kernel,
}
