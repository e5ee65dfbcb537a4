"""How long after an ADD the other hosts can reach the endpoint.

The kernel of each host tells of every entry when it is made (RTNLGRP_NEIGH), so that nobody
polls and the time is that of the last of three entries on the last of the hosts. Then
containers of other hosts send one datagram each, which must arrive.
"""

import math
import select
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests import cni
from tests.hosts import Host
from tests.iproute import HOST, Netns

_RTMGRP_NEIGH = 1 << 2
_RTM_NEWNEIGH = 28
_NTF_SELF = 2
_SO_RCVBUFFORCE = 33  # include/uapi/asm-generic/socket.h
_MESSAGE = struct.Struct("=IHHIIBxxxiHBB")  # nlmsghdr and ndmsg
_PATIENCE = 30.0  # seconds
_PORT = 9
# More would be more neighbour entries than the kernel keeps by default for all namespaces
# together (net.ipv4.neigh.default.gc_thresh3, 1024).
_SENDERS = 8


@dataclass
class Samples:
    """Milliseconds until every other host had its entries."""

    from_call: list[float] = field(default_factory=list)
    from_answer: list[float] = field(default_factory=list)


class Listeners:
    """A socket on each host that hears of its entries."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self._poll = select.epoll()
        self._sockets: dict[int, tuple[str, socket.socket]] = {}
        for host in hosts:
            with host.netns.entered():
                opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
            opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 20)
            opened.bind((0, _RTMGRP_NEIGH))
            self._sockets[opened.fileno()] = host.name, opened
            self._poll.register(opened, select.EPOLLIN)

    def await_entries(self, mac: bytes, names: set[str]) -> float:
        """When the last of these hosts had its three entries for a MAC address."""
        kinds: dict[str, set[tuple[int, bool]]] = {name: set() for name in names}
        deadline = time.perf_counter() + _PATIENCE
        while any(len(each) < 3 for each in kinds.values()):
            left = deadline - time.perf_counter()
            assert left > 0, {name: each for name, each in kinds.items() if len(each) < 3}
            for number, _ in self._poll.poll(left):
                name, opened = self._sockets[number]
                data = opened.recv(1 << 16)
                _, kind, _, _, _, family, _, _, flags, _ = _MESSAGE.unpack_from(data)
                if kind == _RTM_NEWNEIGH and mac in data and name in kinds:
                    kinds[name].add((family, bool(flags & _NTF_SELF)))
        return time.perf_counter()

    def drain(self) -> None:
        """Forget what was heard."""
        while ready := self._poll.poll(0):
            for number, _ in ready:
                self._sockets[number][1].recv(1 << 16)

    def close(self) -> None:
        """Close the sockets."""
        self._poll.close()
        for _, opened in self._sockets.values():
            opened.close()


def measure(hosts: Sequence[Host], residents: Sequence[Netns], rounds: int) -> Samples:
    """Add and remove an endpoint so often, on a few of the hosts in turn."""
    samples = Samples()
    listeners = Listeners(hosts)
    sandbox = Netns("newcomer")
    HOST.ip("netns", "add", sandbox.name)
    with sandbox.entered():
        sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sink.bind(("", _PORT))
    sink.settimeout(5)
    try:
        for number in range(rounds):
            host = hosts[number % min(len(hosts), 3)]
            others = {each.name for each in hosts} - {host.name}
            listeners.drain()
            called = time.perf_counter()
            result = host.add(sandbox)
            answered = time.perf_counter()
            mac = next(each["mac"] for each in result["interfaces"] if each.get("sandbox"))
            done = listeners.await_entries(bytes.fromhex(mac.replace(":", "")), others)
            samples.from_call.append((done - called) * 1e3)
            samples.from_answer.append((done - answered) * 1e3)
            senders = [
                (each.name, inside)
                for each, inside in zip(hosts, residents, strict=True)
                if each is not host
            ]
            first = number % len(senders)
            chosen = (senders + senders)[first : first + min(_SENDERS, len(senders))]
            _reach(sink, cni.addresses(result)[0], chosen)
            host.delete(sandbox)
    finally:
        sink.close()
        listeners.close()
        HOST.ip("netns", "delete", sandbox.name)
    return samples


def _reach(sink: socket.socket, address: str, senders: Sequence[tuple[str, Netns]]) -> None:
    """One datagram from a container of each of these hosts must arrive."""
    for name, inside in senders:
        with inside.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as source:
            source.sendto(name.encode(), (address, _PORT))
    missing = {name for name, _ in senders}
    while missing:
        missing.remove(sink.recv(256).decode())


def quantile(values: Sequence[float], share: float) -> float:
    """The value that so many of them do not exceed."""
    return sorted(values)[math.ceil(share * len(values)) - 1]
