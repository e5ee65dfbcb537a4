"""Keeps the peers of this host's tunnels those that the store has, for encrypted networks.

The public key of a host may change at any time. Until the others have the new one, nothing
reaches them from there: so this follows the store by itself, and waits for nothing else.
"""

import threading
from dataclasses import dataclass, field

from cnm_core.agent.report import Report
from cnm_core.agent.turns import turns
from cnm_core.config.overlay import OverlayConfig
from cnm_core.drivers.tunnel import Tunnel
from cnm_core.drivers.tunnel_esp import EspTunnel
from cnm_core.errors import Error
from cnm_core.kernel.netlink import Socket
from cnm_core.store.membership import Membership

# What the keys of tunnels.py and tunnels_esp.py begin with.
_PREFIX = "tunnels"
_COMPARE_SECONDS = 60.0
_RETRY_SECONDS = 1.0
_TURN_SECONDS = 0.5


@dataclass
class PeerFollower:
    """One thread's work: `follow` returns after `stop`."""

    membership: Membership
    options: OverlayConfig
    report: Report
    _stopping: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._wireguard = Tunnel(Socket(), self.options, self.membership)
        self._esp = EspTunnel(Socket(), self.options, self.membership)

    def stop(self) -> None:
        """Have `follow` return within a second, or when the store has answered."""
        self._stopping.set()

    def follow(self) -> None:
        """Follow the store until stopped."""
        while not self._stopping.is_set():
            try:
                store = self.membership.cluster.store
                for _ in turns(store, _PREFIX, self._stopping, _COMPARE_SECONDS):
                    self._compare()
                    # For some seconds after this host's key is another one.
                    while not self._esp.settled and not self._stopping.wait(_TURN_SECONDS):
                        self._reconcile(self._esp)
            except Error as error:  # NotAvailable where it was fenced: it joins again in a moment
                self.report.fail("peers", error)
                self._stopping.wait(_RETRY_SECONDS)

    def _compare(self) -> None:
        """Compare the peers with the store's, unless this host has no encrypted networks."""
        for tunnel in (self._wireguard, self._esp):
            self._reconcile(tunnel)
        self.report.fail("peers", None)

    def _reconcile(self, tunnel: Tunnel | EspTunnel) -> None:
        came, went = tunnel.reconcile()
        if came or went:
            self.report.say("peers-changed", came=came, went=went)
