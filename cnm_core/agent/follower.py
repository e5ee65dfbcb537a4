"""Makes this host's entries what the store says, for every overlay network it has.

The store is read whole at the start and whenever a watch breaks off; after that changes
are applied as they come. The kernel is compared with what is wanted every minute, or less
often where that would take more than an 800th of a processor's time, and at once when a link
goes. What is wanted follows from the store alone: nothing that the agent remembers could be
wrong.
"""

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from cnm_core.agent.report import Report
from cnm_core.config.overlay import OverlayConfig
from cnm_core.drivers import overlay
from cnm_core.drivers.returned import republish
from cnm_core.errors import (
    Error,
    InvalidNetworkConfig,
    KernelRefused,
    NotAvailable,
    StateFailure,
)
from cnm_core.ipam.cluster import ClusterIpam, member_of
from cnm_core.kernel import link, neighbour
from cnm_core.kernel.netlink import Socket
from cnm_core.model import EndpointKey
from cnm_core.store.cluster import Outdated
from cnm_core.store.endpoints import EndpointStore
from cnm_core.store.entries import Member, Published, endpoint_of, endpoint_place
from cnm_core.store.membership import Membership, View
from cnm_core.store.shared import Change, Compacted

_PREFIX = "endpoints/"
_COMPARE_SECONDS = 60.0
_COMPARE_SHARE = 800  # of a processor's time at most one in so many seconds
_RETRY_SECONDS = 1.0
_FENCE_SECONDS = 5.0

Endpoints = dict[tuple[str, EndpointKey], Published]


@dataclass
class Follower:
    """One thread's work: `follow` returns after `stop`."""

    membership: Membership
    options: OverlayConfig
    report: Report
    _networks: dict[str, Endpoints] = field(default_factory=dict)
    _known: set[str] = field(default_factory=set)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _look: threading.Event = field(default_factory=threading.Event)
    _due: float = 0.0

    def __post_init__(self) -> None:
        self._host = Socket()

    def stop(self) -> None:
        """Have `follow` return within a second, or when the store has answered."""
        self._stopping.set()

    def look(self) -> None:
        """Have the kernel compared soon: something has changed there."""
        self._look.set()

    def follow(self) -> None:
        """Follow the store until stopped."""
        while not self._stopping.is_set():
            try:
                revision = self._read()
                self._watch(revision)
            except Compacted:
                self.report.say("watch-compacted")
            except Error as error:
                self.report.lose_store(error)
                self._stopping.wait(_RETRY_SECONDS)

    def _read(self) -> int:
        """Read all endpoints, and make the kernel's entries theirs; the revision."""
        self.membership.cluster.check_schema()
        self._release_blocks()
        revision = self._read_endpoints()
        self._compare()
        self.report.find_store(revision)
        return revision

    def _read_endpoints(self) -> int:
        found = self.membership.cluster.store.range(_PREFIX)
        self._networks = {}
        for entry in found.entries:
            self._take(entry.key, entry.value)
        return found.revision

    def _watch(self, revision: int) -> None:
        for changes in self.membership.cluster.store.watch(_PREFIX, revision):
            if changes:
                self._apply(changes)
                self.report.revision = changes[-1].revision
            if self._stopping.is_set():
                return
            if any(self.membership.pending()):
                self.membership.replay()
                self.report.say("replayed")
                self._release_blocks()
            due = time.monotonic() > self._due
            fresh = set(self.membership.networks()) - self._known
            if self._look.is_set() or due or fresh:
                if not self.membership.cluster.has_member(self.membership.node):
                    return  # fenced, of which the watch may not have told all yet
                self._compare()

    def _release_blocks(self) -> None:
        """Give blocks back that the store was not there for when the last endpoint went."""
        for name in self.membership.networks():
            ClusterIpam(name, self.options, self.membership).release_unused_blocks()

    def _take(self, key: str, value: str) -> None:
        """Note what an entry says, or report that it makes no sense."""
        try:
            endpoint = endpoint_of(key, value)
        except StateFailure as error:
            self.report.ignore(error)
            return
        self._networks.setdefault(endpoint.network, {})[endpoint.node, endpoint.key] = endpoint

    def _apply(self, changes: Iterable[Change]) -> None:
        """Apply changes to the kernel, those of a network together.

        What there is in the end counts: one batch may have an endpoint that came and went.
        """
        stale: dict[str, list[Published]] = {}
        touched: dict[str, set[tuple[str, EndpointKey]]] = {}
        for change in changes:
            place = endpoint_place(change.key)
            if place is not None:
                network, node, key = place
                touched.setdefault(network, set()).add((node, key))
                gone = self._networks.setdefault(network, {}).pop((node, key), None)
                if gone is not None:
                    stale.setdefault(network, []).append(gone)
            if change.value is not None:
                self._take(change.key, change.value)
        self._count()
        for network, keys in touched.items():
            view = self.membership.known(network)
            if view is not None:
                endpoints = self._networks[network]
                fresh = [endpoints[key] for key in keys if key in endpoints]
                self._change(view, fresh, stale.get(network, []))

    def _change(self, view: View, fresh: list[Published], stale: list[Published]) -> None:
        """Have entries for endpoints, and none any more for others."""
        names = overlay.bridge_name(view.network), overlay.device_name(view.network)
        bridge, device = (link.find(self._host, name) for name in names)
        if bridge is None or device is None:
            return  # it comes with the next endpoint, or by the next comparison
        present = self._networks.get(view.network.name, {}).values()
        wanted = overlay.rows(view, bridge, device, fresh)
        unwanted = overlay.rows(view, bridge, device, stale)
        if view.network.floods and unwanted:
            # A host has one entry for everybody, whatever the number of its endpoints.
            unwanted -= overlay.rows(view, bridge, device, present)
        try:
            if view.network.routed:  # what a block has follows from all endpoints in it
                overlay.reconcile(self._host, view, present)
            else:
                neighbour.apply(self._host, wanted, unwanted)
        except KernelRefused as error:
            self.report.say("failed", network=view.network.name, error=error.msg)
            self._look.set()

    def _compare(self) -> None:
        """Compare all networks of this host with the kernel, and mend what differs."""
        self._look.clear()
        begun = time.thread_time()
        self._known = set(self.membership.networks())
        self._count()
        member, pause = self._join()
        here: set[str] = set()
        for name in self._known:
            view = self.membership.known(name)
            if view is not None and link.find(self._host, overlay.bridge_name(view.network)):
                here.add(name)
                # Who is cut off goes first: its frames would have entries of its heir's moved.
                view = self._republish(view, member)
                self._mend(view, self._networks.get(name, {}).values())
        self.report.keep_cut_off(here)
        taken = time.thread_time() - begun
        self._due = time.monotonic() + max(pause, taken * _COMPARE_SHARE)

    def _count(self) -> None:
        """Report how many endpoints there are, of the networks that this host knows."""
        self.report.endpoints = {name: len(self._networks.get(name, ())) for name in self._known}

    def _join(self) -> tuple[Member | None, float]:
        """This host as the member that it is, also after it was fenced; None where it cannot be.

        And after how many seconds to look again.
        """
        cluster, node = self.membership.cluster, self.membership.node
        absent = not cluster.has_member(node)
        try:
            member = cluster.join(member_of(self.options, node))
        except InvalidNetworkConfig as error:
            self.report.fail("member", error)
            self.report.no_member = error.msg
            return None, _COMPARE_SECONDS
        self.report.fail("member", None)
        self.report.no_member = ""
        if absent:
            self.report.say("joined", node=node)
            # The fence may still be under way: look again soon at what it has taken.
            return member, _FENCE_SECONDS
        return member, _COMPARE_SECONDS

    def _republish(self, view: View, member: Member | None) -> View:
        """Make endpoints of this host known that the cluster has forgotten; the newest view."""
        if member is None:
            return view
        name = view.network.name
        present: View | None = view
        if view.member.revision != member.revision:
            present = self.membership.rejoin(view, member)
        if present is None:
            error = "the cluster has no such network any more; its endpoints here are alone"
            self.report.say("failed", network=name, error=error)
            return view
        known = self._networks.get(name, {}).values()
        try:
            again = republish(self._host, self.membership, present, known)
        except Outdated:
            self._look.set()
            return present
        self.report.return_all(name, again)
        if present.returned:
            self.membership.settle(present)
        return present

    def _mend(self, view: View, endpoints: Iterable[Published]) -> None:
        name = view.network.name
        try:
            # Or a device would be made for a bridge that a DEL is about to delete.
            with EndpointStore(self.options.state_dir).lock_of_parents():
                if link.find(self._host, overlay.bridge_name(view.network)) is None:
                    return
                if view.network.encrypted and self._ensure_tunnel(view):
                    self.report.say("made-tunnel")
                if overlay.ensure_device(self._host, view):
                    self.report.say("made-device", network=name)
            missing, stale = overlay.reconcile(self._host, view, endpoints)
        except (KernelRefused, InvalidNetworkConfig, NotAvailable) as error:
            self.report.say("failed", network=name, error=error.msg)
            return
        if missing or stale:
            self.report.mended += len(missing) + len(stale)
            self.report.say("mended", network=name, missing=len(missing), stale=len(stale))

    def _ensure_tunnel(self, view: View) -> bool:
        encrypted = view.network.encrypted
        tunnel = overlay.tunnel_of(self._host, self.options, self.membership, encrypted)
        made = tunnel.ensure(view.member)
        if made:
            tunnel.reconcile(view.member)
        return made
