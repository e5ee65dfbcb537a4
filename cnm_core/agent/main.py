"""The agent: its threads, the kernel's events, and its end."""

import asyncio
import contextlib
import ctypes
import json
import signal
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cnm_core.agent.conflists import Conflists
from cnm_core.agent.follower import Follower
from cnm_core.agent.lease import Lease
from cnm_core.agent.members import Members
from cnm_core.agent.peers import PeerFollower
from cnm_core.agent.readiness import notify
from cnm_core.agent.report import Report
from cnm_core.config.overlay import OverlayConfig
from cnm_core.drivers import overlay
from cnm_core.errors import KernelRefused
from cnm_core.kernel import link
from cnm_core.kernel.netlink import Socket
from cnm_core.store.endpoints import EndpointStore
from cnm_core.store.membership import Membership, open_membership

_LOOK_SECONDS = 0.2
# malloc.h of glibc.
_M_MMAP_THRESHOLD = -3
_LARGE = 1 << 16


async def run(
    options: OverlayConfig,
    keys: dict[str, Any],
    networks: Path,
    listening: socket.socket,
    unknown: Sequence[str],
) -> None:
    """Run until SIGTERM or SIGINT. Traffic goes on as it is afterwards.

    `keys` are those of this host for files of networks, which go into `networks`. Health and
    metrics are told to whoever connects to `listening`. `unknown` are keys of the agent's file that
    say nothing, which it tells.
    """
    _give_back_memory()
    report = Report()
    for key in unknown:
        report.say("unknown-key", key=key)

    def membership() -> Membership:  # each thread has a connection of its own
        return open_membership(options, report.ignore, json.loads)

    follower = Follower(membership(), options, report)
    report.pending = lambda: len(list(follower.membership.pending()))
    threads: tuple[Follower | Members | PeerFollower | Conflists | Lease, ...] = (
        follower,
        Members(membership(), EndpointStore(options.state_dir), report),
        PeerFollower(membership(), options, report),
        Conflists(membership(), networks, keys, report),
        Lease(membership(), report, follower.look),
    )
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(len(threads)))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    server = await asyncio.start_server(report.serve, sock=listening)
    await _predecessor_ended(follower.membership, report, stopping)
    if stopping.is_set():
        return
    with follower.membership.followed(), _listening(follower):
        address = "{}:{}".format(*listening.getsockname())
        report.say("started", node=follower.membership.node, listening=address)
        # Not only once the store answers: without it the agent has its work, too.
        notify("READY=1")
        async with server:
            works = {asyncio.create_task(asyncio.to_thread(each.follow)) for each in threads}
            ended = asyncio.create_task(stopping.wait())
            await asyncio.wait({*works, ended}, return_when=asyncio.FIRST_COMPLETED)
            notify("STOPPING=1")
            for each in threads:
                each.stop()
            await asyncio.gather(*works)
        report.say("stopped")


def _give_back_memory() -> None:
    """Have large blocks go back to the kernel when they are free.

    glibc takes them from its heaps once one was freed (mallopt(3), M_MMAP_THRESHOLD), and keeps
    what a thousand endpoints in one answer of etcd took, in each thread: 8 MiB of 60.
    """
    ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)


async def _predecessor_ended(
    membership: Membership, report: Report, stopping: asyncio.Event
) -> None:
    """Wait until no other agent of this host works any more, or until stopped."""
    if membership.is_followed():
        report.say("waiting", reason="another agent works on this host")
    while membership.is_followed() and not stopping.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), _LOOK_SECONDS)


@contextlib.contextmanager
def _listening(follower: Follower) -> Iterator[None]:
    """Have the kernel compared when a link of an overlay goes, goes down or leaves its bridge.

    By our own socket: pyroute2 would be a quarter of the agent's memory.
    """
    kernel = Socket(groups=link.RTMGRP_LINK)

    def read() -> None:
        try:
            lost = any(_is_loss(kind, link.parse(body)) for kind, body in kernel.events())
        except KernelRefused:
            lost = True  # ENOBUFS: the kernel had more to tell than it keeps
        if lost:
            follower.look()

    loop = asyncio.get_running_loop()
    loop.add_reader(kernel.fileno(), read)
    try:
        yield
    finally:
        loop.remove_reader(kernel.fileno())
        kernel.close()


def _is_loss(kind: int, changed: link.Link) -> bool:
    gone = kind == link.RTM_DELLINK or not changed.up
    return gone and changed.name.startswith(overlay.LINK_PREFIXES)
