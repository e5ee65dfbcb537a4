"""What endpoints that live lack: their links on the host, and what they have in nftables.

``nft flush ruleset``, or a firewall that starts anew, takes rules of ours with it. The next ADD
that needs any brings all of them back; until then ports lead nowhere.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from time import sleep

from cnm_core.cli.doctor.finding import ERROR, Finding
from cnm_core.drivers.firewall import Firewall, Target
from cnm_core.drivers.restore import restore
from cnm_core.drivers.spoofcheck import SpoofCheck
from cnm_core.errors import Error
from cnm_core.kernel import link
from cnm_core.kernel.netlink import Socket
from cnm_core.model import Drift, Endpoint
from cnm_core.store.endpoints import EndpointStore

AREA = "state"
# Seconds, after which an ADD or a DEL that was under way has ended, as a rule.
_UNDER_WAY = 1


@dataclass(frozen=True)
class Recorded:
    """An endpoint by its record, in a store of the directory `state_dir` or of one below it."""

    state_dir: str
    store: EndpointStore
    endpoint: Endpoint

    def again(self) -> "Recorded | None":
        """The endpoint as it is recorded by now; None where it is gone, or cannot be told."""
        try:
            endpoint = self.store.load(self.endpoint.network, self.endpoint.key)
        except Error:
            return None
        return Recorded(self.state_dir, self.store, endpoint) if endpoint else None

    @property
    def written(self) -> int:
        """When its record was."""
        return self.store.written(self.endpoint.network, self.endpoint.key)


def findings(recorded: list[Recorded]) -> list[Finding]:
    """What is missing, and still is after what may be under way has ended."""
    if not list(_findings(recorded)):
        return []
    sleep(_UNDER_WAY)
    return list(_findings([now for each in recorded if (now := each.again())]))


def _findings(recorded: list[Recorded]) -> Iterator[Finding]:
    links = {each.name for each in link.list_links(Socket())}
    for each in recorded:
        name = each.endpoint.host_link
        if name and name not in links:
            message = f"the link {name} of {each.endpoint.key} is gone: its container is cut off"
            advice = "make the container anew"
            yield Finding(AREA, f"{each.endpoint.network} {name}", ERROR, message, advice)
    for state_dir in sorted({each.state_dir for each in recorded}):
        found = [each for each in recorded if each.state_dir == state_dir]
        try:
            lost = list(dict.fromkeys(map(str, _drift(found))))
        except Error:
            continue  # no nftables, which is a finding about the kernel
        if lost:
            more = f", and {len(lost) - 1} more" if len(lost) > 1 else ""
            advice = "cnm doctor --fix makes them again, as does the next container that has any"
            mend = partial(_restore, state_dir)
            yield Finding(AREA, "nftables", ERROR, f"{lost[0]}{more}", advice, mend)


def _drift(recorded: list[Recorded]) -> Iterator[Drift]:
    """What nftables lacks of the endpoints; of a network's policy as its newest one has it."""
    firewall, sources = Firewall(), SpoofCheck()
    newest = {
        each.endpoint.network: each for each in sorted(recorded, key=lambda each: each.written)
    }
    for endpoint in (each.endpoint for each in newest.values()):
        if policy := endpoint.policy:
            leases = endpoint.addressing.leases
            yield from firewall.drift(policy, [policy.subnet_of(each.address) for each in leases])
    for endpoint in (each.endpoint for each in recorded):
        if endpoint.ports:
            yield from firewall.port_drift(endpoint.ports, Target.of(endpoint))
        if endpoint.source_checked and endpoint.mac is not None:
            yield from sources.drift(endpoint.host_link, endpoint.mac)


def _restore(state_dir: str) -> str:
    restore(state_dir)
    return f"made rules of nftables again, by the records in {state_dir}"
