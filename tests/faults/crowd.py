"""Many calls at once: who holds which address, and calls that are killed at a moment."""

import subprocess
import threading
from collections import Counter
from dataclasses import dataclass, field

from tests import cni
from tests.cni import Config, Endpoint, Outcome


@dataclass
class Held:
    """Who may use each address, by the answers that were given."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    holders: dict[str, Endpoint] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def take(self, endpoint: Endpoint, addresses: list[str]) -> None:
        """Note an answer. No address may be somebody else's yet."""
        with self.lock:
            for address in addresses:
                assert address not in self.holders, f"{address} was given twice"
                self.holders[address] = endpoint

    def give_back(self, endpoint: Endpoint) -> None:
        """Note that the endpoint's DEL may begin to free its addresses from now on."""
        with self.lock:
            mine = [address for address, each in self.holders.items() if each == endpoint]
            for address in mine:
                del self.holders[address]

    def count(self, command: str, outcome: Outcome) -> None:
        """Note how a call ended."""
        with self.lock:
            self.counts[f"{command} {_ending(outcome)}"] += 1


def run(
    endpoint: Endpoint,
    command: str,
    config: Config,
    kill_after: float | None = None,
    **changes: str,
) -> Outcome:
    """Run a command; where it is killed first, after some seconds, its status is negative."""
    with subprocess.Popen(
        [endpoint.binary],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=cni.environment(command, **{**endpoint.variables, **changes}),
    ) as process:
        try:
            out, err = process.communicate(cni.encoded(config), timeout=kill_after)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
    return Outcome(process.returncode, out, err)


def _ending(outcome: Outcome) -> str:
    if outcome.code < 0:
        return "killed"
    return f"error {outcome.error()['code']}" if outcome.code else "done"
