"""Has VXLAN packets taken from members of the cluster only, for every overlay network here.

The members are read at the start, and followed. The rules are looked at every second, since
whoever flushes them opens the networks to anybody, and all elements compared every minute:
with the members as they were last known, while the store does not answer.
"""

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from cnm_core.agent.report import Report
from cnm_core.agent.turns import turns
from cnm_core.drivers import overlay
from cnm_core.drivers.vtep_guard import Guard
from cnm_core.errors import Error
from cnm_core.kernel import link
from cnm_core.kernel.netlink import Socket
from cnm_core.kernel.vxlan import Vxlan
from cnm_core.store.endpoints import EndpointStore
from cnm_core.store.entries import Member
from cnm_core.store.membership import Membership, View

_PREFIX = "members/"
_COMPARE_SECONDS = 60.0
_LOOK_SECONDS = 1.0


@dataclass
class Members:
    """One thread's work: `follow` returns after `stop`. `endpoints` has the lock of links."""

    membership: Membership
    endpoints: EndpointStore
    report: Report
    _members: list[Member] | None = None
    _stopping: threading.Event = field(default_factory=threading.Event)
    _devices: set[Vxlan] = field(default_factory=set)
    _compared: float = 0.0

    def __post_init__(self) -> None:
        self._host = Socket()

    def stop(self) -> None:
        """Have `follow` return within a second, or when the store has answered."""
        self._stopping.set()

    def follow(self) -> None:
        """Follow the members until stopped."""
        while not self._stopping.is_set():
            try:
                store = self.membership.cluster.store
                for changed in turns(store, _PREFIX, self._stopping, _LOOK_SECONDS):
                    if changed:
                        self._read()
                    else:
                        self._look()
            except Error:  # of the store: the follower of endpoints meets it too, and reports it
                self._look()
                self._stopping.wait(_LOOK_SECONDS)

    def _read(self) -> None:
        self._members = self.membership.cluster.members()
        self._mend(everything=True)

    def _look(self) -> None:
        due = time.monotonic() - self._compared > _COMPARE_SECONDS
        self._mend(everything=due)

    def _mend(self, *, everything: bool) -> None:
        """Mend networks whose packets are not looked at; or compare all members of all of them."""
        try:
            self._compare(Guard(), everything=everything)
            self.report.fail("guard", None)
        except Error as error:
            self.report.fail("guard", error)

    def _compare(self, guard: Guard, *, everything: bool) -> None:
        """Under the lock only where something is to be changed: an ADD may be waiting for it."""
        if self._members is None:
            return
        views = list(self._views())
        devices = {overlay.device_of(each) for each in views}
        # A VTEP of this host's own that has changed is in each element of its networks.
        everything |= not devices <= self._devices
        differ = {
            each.network.name for each in views if self._differs(guard, each, everything=everything)
        }
        if everything:
            self._compared, self._devices = time.monotonic(), devices
        if not differ and not (everything and guard.has_others(overlay.devices(self._host))):
            return
        # No network's device is being made or deleted meanwhile.
        with self.endpoints.lock_of_parents():
            for view in self._views():
                if view.network.name in differ:
                    self._admit(guard, view)
            if everything:
                guard.keep(overlay.devices(self._host))

    def _admit(self, guard: Guard, view: View) -> None:
        vteps = overlay.others(view, self._members or ())
        changes = guard.admit(overlay.device_of(view), view.network.name, vteps)
        if changes:
            self.report.mended += changes
            self.report.say("guarded", network=view.network.name, changes=changes)

    def _differs(self, guard: Guard, view: View, *, everything: bool) -> bool:
        device = overlay.device_of(view)
        if not everything:
            return not guard.stands(device)
        return bool(guard.drift(device, overlay.others(view, self._members or ())))

    def _views(self) -> Iterable[View]:
        """The networks that have their device."""
        for name in self.membership.networks():
            view = self.membership.known(name)
            if view is not None and link.find(self._host, overlay.device_name(view.network)):
                yield view
