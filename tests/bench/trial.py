"""One case being run: calls to plugins in rotating order, checked, and recorded."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from networks import Config, encode
from peers import (
    OURS,
    Attachment,
    Outcome,
    Peer,
    Process,
    await_orphans,
    container_id,
    environment,
)
from results import Results
from world import World

WARM_UP = 2
UNSUPPORTED_FIELD = 2  # CNI's error code for a key that a plugin cannot honour


class NotSupported(Exception):
    """Our plugins cannot do what the case is about."""


class Trial:
    """Who takes part in a case, how many rounds it has, and where its samples go."""

    def __init__(
        self,
        case: str,
        peers: Sequence[Peer],
        rounds: int,
        world: World,
        results: Results,
        stderr: int,
    ) -> None:
        self.case = case
        self.peers = list(peers)
        self.rounds = rounds
        self.world = world
        self.results = results
        self.stderr = stderr

    def rotation(
        self, rounds: int | None = None, *, warm_up: int = WARM_UP
    ) -> Iterator[tuple[int, Peer]]:
        """Each peer once a round, each round led by another; rounds below 0 only warm up."""
        for number in range(-warm_up, self.rounds if rounds is None else rounds):
            lead = number % len(self.peers)
            for peer in self.peers[lead:] + self.peers[:lead]:
                yield number, peer

    def namespace_of_each(self) -> dict[Peer, str]:
        """A container namespace for each peer."""
        namespaces = self.world.namespaces(1 + max(peer.index for peer in self.peers))
        return {peer: namespaces[peer.index] for peer in self.peers}

    def start(
        self, peer: Peer, plugin: str, verb: str, config: Config, attachment: Attachment | None
    ) -> Process:
        """Start a plugin as a runtime does."""
        return Process.start(
            [peer.executable(plugin)],
            environment(peer, verb, attachment),
            encode(config),
            self.stderr,
        )

    def checked(self, peer: Peer, verb: str, outcome: Outcome) -> dict[str, Any] | None:
        """The JSON that a plugin answered, {} for none; None for a failure, which is recorded."""
        place = f"{self.case} {verb} {peer.label}"
        if outcome.exit_code != 0:
            answer = outcome.stdout.decode(errors="replace").strip()[:400]
            self.results.fail(place, f"exit code {outcome.exit_code}: {answer or 'no answer'}")
            return None
        if not outcome.stdout and verb not in ("ADD", "VERSION"):
            return {}
        try:
            answer = json.loads(outcome.stdout)
        except ValueError as error:
            self.results.fail(place, f"no JSON on stdout: {error}: {outcome.stdout[:200]!r}")
            return None
        return dict(answer)

    def settle(self, peer: Peer, verb: str) -> float:
        """Wait for what calls have left behind; its CPU time belongs to them."""
        orphans = await_orphans()
        if orphans.count:
            self.results.linger(verb, peer.label, orphans.wall)
        return orphans.cpu

    def call(
        self,
        peer: Peer,
        plugin: str,
        verb: str,
        config: Config,
        attachment: Attachment | None = None,
        *,
        timed: bool,
        case: str = "",
    ) -> dict[str, Any] | None:
        """One call; recorded where it is timed and succeeds."""
        outcome = self.start(peer, plugin, verb, config, attachment).finish()
        cpu = outcome.cpu + self.settle(peer, verb)
        answer = self.checked(peer, verb, outcome)
        if timed and answer is not None:
            row = case or self.case
            self.results.record(row, verb, peer.label, outcome.wall, cpu)
        return answer

    def attach(
        self,
        plugin: str,
        config_for: Callable[[Peer, Path], Config],
        verbs: Sequence[str] = ("ADD", "DEL"),
        *,
        rounds: int | None = None,
        case: str = "",
    ) -> None:
        """Attach and detach one container a round, each peer in a namespace of its own."""
        namespaces = self.namespace_of_each()
        configs = {peer: config_for(peer, self.world.directory()) for peer in self.peers}
        for number, peer in self.rotation(rounds):
            attachment = Attachment(container_id(number + WARM_UP), namespaces[peer])
            config = configs[peer]
            for verb in verbs:
                answer = self.call(
                    peer, plugin, verb, config, attachment, timed=number >= 0, case=case
                )
                if verb == "ADD" and answer is not None:
                    config = {**config, "prevResult": answer}

    def attach_at_once(
        self, plugin: str, config_for: Callable[[Peer, Path], Config], count: int, rounds: int
    ) -> None:
        """Attach, then detach, count containers by as many processes at the same time."""
        namespaces = self.world.namespaces(count)
        attachments = [Attachment(container_id(k), path) for k, path in enumerate(namespaces)]
        for number, peer in self.rotation(rounds, warm_up=1):
            config = config_for(peer, self.world.directory())
            for verb in ("ADD", "DEL"):
                begun = perf_counter()
                processes = [self.start(peer, plugin, verb, config, each) for each in attachments]
                outcomes = [process.finish() for process in processes]
                wall = (perf_counter() - begun) * 1e3
                cpu = sum(outcome.cpu for outcome in outcomes) + self.settle(peer, verb)
                answers = [self.checked(peer, verb, outcome) for outcome in outcomes]
                good = None not in answers
                if verb == "ADD":
                    good &= self._all_distinct(peer, answers)
                if good and number >= 0:
                    op = f"{verb} ×{count}"
                    self.results.record(self.case, op, peer.label, wall, cpu, calls=count)
            self.world.clear_host()

    def keep_supporting(
        self,
        plugin: str,
        config_for: Callable[[Peer, Path], Config],
        flaw: Callable[[], str] | None = None,
    ) -> None:
        """Leave out the peers that refuse a key of the configuration.

        The same for those whose ADD leaves something behind that `flaw` finds words for. Any
        other failure stays one: it comes up again when the case is timed.
        """
        namespaces = self.namespace_of_each()
        supporting = []
        for peer in self.peers:
            config = config_for(peer, self.world.directory())
            attachment = Attachment(container_id(0), namespaces[peer])
            outcome = self.start(peer, plugin, "ADD", config, attachment).finish()
            problem = _refusal(outcome)
            if flaw is not None and outcome.exit_code == 0:
                problem = flaw()
            self.start(peer, plugin, "DEL", config, attachment).finish()
            self.settle(peer, "DEL")
            if not problem:
                supporting.append(peer)
            elif peer.label == OURS:
                raise NotSupported(problem)
            else:
                self.results.note(f"{self.case}: without {peer.label}: {problem}")
        self.peers = supporting

    def _all_distinct(self, peer: Peer, answers: Sequence[dict[str, Any] | None]) -> bool:
        """Whether each answer has addresses, and no address is in two of them."""
        found = [[ip.get("address") for ip in (each or {}).get("ips", [])] for each in answers]
        place = f"{self.case} ADD {peer.label}"
        without = sum(not addresses for addresses in found)
        if without:
            self.results.fail(place, f"{without} of {len(found)} answers without an address")
        given = [address for addresses in found for address in addresses]
        if len(set(given)) < len(given):
            self.results.fail(place, f"{len(set(given))} addresses given {len(given)} times")
            return False
        return not without


def _refusal(outcome: Outcome) -> str:
    """The plugin's words where it says that it does not support a key."""
    try:
        answer = json.loads(outcome.stdout)
        if outcome.exit_code != 0 and answer["code"] == UNSUPPORTED_FIELD:
            return str(answer["msg"])
    except (ValueError, KeyError, TypeError):
        pass
    return ""
