"""Keeps this host's lease, by which others know that its agent is there."""

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from cnm_core.agent.report import Report
from cnm_core.errors import Error
from cnm_core.store.membership import Membership

# A host that has said nothing for so long counts as gone.
LIFETIME_SECONDS = 15
_RETRY_SECONDS = 1.0


@dataclass
class Lease:
    """One thread's work: `follow` returns after `stop`, when the lease has ended.

    `begun` is called where the lease is new: the host may have been fenced.
    """

    membership: Membership
    report: Report
    begun: Callable[[], None]
    _stopping: threading.Event = field(default_factory=threading.Event)

    def stop(self) -> None:
        """Have `follow` return at once, or when the store has answered."""
        self._stopping.set()

    def follow(self) -> None:
        """Keep the lease until stopped, whatever becomes of the store in between."""
        lease = 0
        while not self._stopping.is_set():
            pause = _RETRY_SECONDS
            try:
                kept = self._keep(lease)
                if kept != lease:
                    self.begun()
                lease, pause = kept, LIFETIME_SECONDS / 3
                self.report.keep_lease()
            except Error as error:
                self.report.lose_lease(error)
            self._stopping.wait(pause)
        if lease:
            with contextlib.suppress(Error):  # it ends by itself then
                self.membership.cluster.store.revoke(lease)

    def _keep(self, lease: int) -> int:
        """Keep a lease alive, or begin another; which."""
        cluster, node = self.membership.cluster, self.membership.node
        cluster.check_schema()
        if lease and cluster.store.keep_alive(lease) and cluster.is_announced(node):
            return lease
        lease = cluster.store.grant(LIFETIME_SECONDS)
        cluster.announce(node, lease)
        return lease
