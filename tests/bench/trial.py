"""One case being run: calls to plugins in rotating order, checked, and recorded."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from world import Host, World

WARM_UP = 2
UNSUPPORTED_FIELD = 2  # CNI's error code for a key that a plugin cannot honour


class NotSupported(Exception):
    """Our plugins cannot do what the case is about."""


@dataclass(frozen=True)
class Step:
    """One plugin of a chain, and its configuration."""

    plugin: str
    config: Config


Chain = Sequence[Step]


def alone(plugin: str, config_for: Callable[[Peer, Path], Config]) -> Callable[[Peer, Path], Chain]:
    """The chains of one plugin that nothing comes after."""
    return lambda peer, data: [Step(plugin, config_for(peer, data))]


@dataclass(frozen=True)
class Place:
    """Where a case runs, for each peer: its host, its data directory; and what rows are called."""

    row: str
    hosts: Mapping[Peer, Host]
    data: Mapping[Peer, Path]


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

    def host(self, peer: Peer) -> Host:
        """What a peer takes for the host where nothing else is said."""
        return self.world.host(str(peer.index))

    def place(self, row: str = "", host: str = "") -> Place:
        """Each peer's host, or another by name, with new data directories."""
        return Place(
            row=row or self.case,
            hosts={peer: self.world.host(f"{host}{peer.index}") for peer in self.peers},
            data={peer: self.world.directory() for peer in self.peers},
        )

    def start(
        self,
        peer: Peer,
        plugin: str,
        verb: str,
        config: Config,
        attachment: Attachment | None,
        host: Host | None = None,
    ) -> Process:
        """Start a plugin as a runtime does, on the peer's host if on no other."""
        with host or self.host(peer):
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
        row: str = "",
        host: Host | None = None,
    ) -> dict[str, Any] | None:
        """One call; recorded where it is timed and succeeds."""
        answer, wall, cpu = self._measured(peer, plugin, verb, config, attachment, host)
        if timed and answer is not None:
            self.results.record(row or self.case, verb, peer.label, wall, cpu)
        return answer

    def chain(
        self,
        peer: Peer,
        verb: str,
        steps: Chain,
        attachment: Attachment,
        host: Host | None = None,
        *,
        row: str | None = None,
        only: str = "",
    ) -> dict[str, Any] | None:
        """The calls that a runtime makes for one verb, one after the other; DEL goes backwards.

        If there is a row and all succeed, their sum is recorded there, or one plugin's share.
        The answer is the last one's; in an ADD it is the next one's prevResult.
        """
        sum_wall = sum_cpu = 0.0
        answer = None
        for step in reversed(steps) if verb == "DEL" else steps:
            config = step.config
            if verb == "ADD" and answer is not None:
                config = {**config, "prevResult": answer}
            answer, wall, cpu = self._measured(peer, step.plugin, verb, config, attachment, host)
            if answer is None:
                return None
            if only in ("", step.plugin):
                sum_wall, sum_cpu = sum_wall + wall, sum_cpu + cpu
        if row is not None:
            self.results.record(row, verb, peer.label, sum_wall, sum_cpu)
        return answer

    def attach(
        self,
        steps_for: Callable[[Peer, Path], Chain],
        verbs: Sequence[str] = ("ADD", "DEL"),
        *,
        rounds: int | None = None,
        places: Sequence[Place] = (),
        only: str = "",
    ) -> None:
        """Attach and detach one container a round, each peer in a namespace of its own.

        Where there are several places they take turns as the peers do. With `only`, one
        plugin's share is recorded.
        """
        namespaces = self.namespace_of_each()
        places = places or [self.place()]
        chains = {(p, x.row): steps_for(p, x.data[p]) for p in self.peers for x in places}
        for number, peer in self.rotation(rounds):
            attachment = Attachment(container_id(number + WARM_UP), namespaces[peer])
            for place in places:
                steps = chains[peer, place.row]
                row = place.row if number >= 0 else None
                for verb in verbs:
                    host = place.hosts[peer]
                    answer = self.chain(peer, verb, steps, attachment, host, row=row, only=only)
                    if verb == "ADD" and answer is not None:
                        steps = [_with_result(step, answer) for step in steps]

    def _measured(
        self,
        peer: Peer,
        plugin: str,
        verb: str,
        config: Config,
        attachment: Attachment | None,
        host: Host | None,
    ) -> tuple[dict[str, Any] | None, float, float]:
        """One call: its answer, None for a failure, and its wall and CPU time in ms."""
        outcome = self.start(peer, plugin, verb, config, attachment, host).finish()
        cpu = outcome.cpu + self.settle(peer, verb)
        return self.checked(peer, verb, outcome), outcome.wall, cpu

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
            self.host(peer).clear()

    def keep_supporting(
        self,
        steps_for: Callable[[Peer, Path], Chain],
        flaw: Callable[[Host], str] | None = None,
    ) -> None:
        """Leave out the peers that refuse a key of the configuration.

        The same for those whose ADD leaves something behind that `flaw` finds words for. Any
        other failure stays one: it comes up again when the case is timed.
        """
        namespaces = self.namespace_of_each()
        supporting = []
        for peer in self.peers:
            host = self.host(peer)
            steps = steps_for(peer, self.world.directory())
            attachment = Attachment(container_id(0), namespaces[peer])
            problem = self._problem(peer, steps, attachment, host, flaw)
            for step in reversed(steps):
                self.start(peer, step.plugin, "DEL", step.config, attachment).finish()
            self.settle(peer, "DEL")
            if not problem:
                supporting.append(peer)
            elif peer.label == OURS:
                raise NotSupported(problem)
            else:
                self.results.note(f"{self.case}: without {peer.label}: {problem}")
        self.peers = supporting

    def _problem(
        self,
        peer: Peer,
        steps: Chain,
        attachment: Attachment,
        host: Host,
        flaw: Callable[[Host], str] | None,
    ) -> str:
        """Why a peer cannot do what an ADD of the chain asks for; "" if it can, or just fails."""
        answer: dict[str, Any] | None = None
        for step in steps:
            config = step.config if answer is None else {**step.config, "prevResult": answer}
            outcome = self.start(peer, step.plugin, "ADD", config, attachment).finish()
            if outcome.exit_code != 0:
                return _refusal(outcome)
            answer = json.loads(outcome.stdout)
        return flaw(host) if flaw is not None else ""

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


def _with_result(step: Step, answer: dict[str, Any]) -> Step:
    return Step(step.plugin, {**step.config, "prevResult": answer})


def _refusal(outcome: Outcome) -> str:
    """The plugin's words where it says that it does not support a key."""
    try:
        answer = json.loads(outcome.stdout)
        if outcome.exit_code != 0 and answer["code"] == UNSUPPORTED_FIELD:
            return str(answer["msg"])
    except (ValueError, KeyError, TypeError):
        pass
    return ""
