"""The agent: its lease, its follower, the kernel's events, and its end."""

import asyncio
import contextlib
import ctypes
import json
import signal
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import Any

from cnm_core.agent.conflists import Conflists
from cnm_core.agent.follower import Follower
from cnm_core.agent.members import Members
from cnm_core.agent.peers import PeerFollower
from cnm_core.agent.readiness import notify
from cnm_core.agent.report import Report
from cnm_core.config.overlay import OverlayConfig
from cnm_core.drivers import overlay
from cnm_core.errors import Error, KernelRefused
from cnm_core.kernel import link
from cnm_core.kernel.netlink import Socket
from cnm_core.store.endpoints import EndpointStore
from cnm_core.store.membership import Membership, open_membership

# A host that has said nothing for so long counts as gone.
LIFETIME_SECONDS = 15
_RETRY_SECONDS = 1.0
_LOOK_SECONDS = 0.2
# malloc.h of glibc.
_M_MMAP_THRESHOLD = -3
_LARGE = 1 << 16


async def run(
    options: OverlayConfig, keys: dict[str, Any], networks: Path, listening: tuple[str, int]
) -> None:
    """Run until SIGTERM or SIGINT. Traffic goes on as it is afterwards.

    `keys` are those of this host for files of networks, which go into `networks`.
    """
    _give_back_memory()
    report = Report()
    # Each thread has a connection of its own.
    follower = Follower(open_membership(options, report.ignore, json.loads), options, report)
    peers = PeerFollower(open_membership(options, report.ignore, json.loads), options, report)
    alive = open_membership(options, report.ignore, json.loads)
    report.pending = lambda: len(list(alive.pending()))
    endpoints = EndpointStore(options.state_dir)
    members = Members(open_membership(options, report.ignore, json.loads), endpoints, report)
    conflists = Conflists(
        open_membership(options, report.ignore, json.loads), networks, keys, report
    )
    followers: tuple[Follower | Members | PeerFollower | Conflists, ...] = (
        follower,
        members,
        peers,
        conflists,
    )
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    server = await asyncio.start_server(report.serve, *listening)
    await _predecessor_ended(follower.membership, report, stopping)
    if stopping.is_set():
        return
    with follower.membership.followed(), _listening(follower):
        report.say("started", node=alive.node, listening="{}:{}".format(*listening))
        # Not only once the store answers: without it the agent has its work, too.
        notify("READY=1")
        async with server, _ended(_live(alive, follower, report)):
            works = {asyncio.create_task(asyncio.to_thread(each.follow)) for each in followers}
            ended = asyncio.create_task(stopping.wait())
            await asyncio.wait({*works, ended}, return_when=asyncio.FIRST_COMPLETED)
            notify("STOPPING=1")
            for each in followers:
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


@contextlib.asynccontextmanager
async def _ended(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Work that goes on meanwhile and is ended afterwards."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


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


async def _live(membership: Membership, follower: Follower, report: Report) -> None:
    """Keep this host's lease, whatever becomes of the store in between.

    Where the lease is new the host may have been fenced: the follower looks at that.
    """
    lease = 0
    try:
        while True:
            try:
                kept = await asyncio.to_thread(_stay, membership, lease)
                if kept != lease:
                    follower.look()
                lease = kept
                report.keep_lease()
            except Error as error:
                report.lose_lease(error)
                lease = 0
            await asyncio.sleep(LIFETIME_SECONDS / 3 if lease else _RETRY_SECONDS)
    finally:
        if lease:
            with contextlib.suppress(Error):
                membership.cluster.store.revoke(lease)


def _stay(membership: Membership, lease: int) -> int:
    """Keep a lease alive, or begin another; which."""
    store = membership.cluster.store
    membership.cluster.check_schema()
    if lease and store.keep_alive(lease) and membership.cluster.is_announced(membership.node):
        return lease
    lease = store.grant(LIFETIME_SECONDS)
    membership.cluster.announce(membership.node, lease)
    return lease
