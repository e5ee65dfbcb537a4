"""Has this host's files of networks that `cnm network create` made on other hosts.

A file comes when the network does and goes when it goes, unless containers here still use
it. Only files that cnm made for networks of this cluster are ever touched; whoever changes
the directory by `cnm network` waits for its lock, and so does this.
"""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnm_core.agent.report import Report
from cnm_core.agent.turns import turns
from cnm_core.cli import overlay_file
from cnm_core.cli.conflists import Conflist, Directory
from cnm_core.cli.main import Failure
from cnm_core.errors import Error, StateFailure, attempt, raise_all
from cnm_core.store import files
from cnm_core.store.endpoints import EndpointStore
from cnm_core.store.entries import SharedNetwork
from cnm_core.store.membership import Membership

_PREFIX = "conflists/"
_COMPARE_SECONDS = 60.0
_RETRY_SECONDS = 1.0


@dataclass
class Conflists:
    """One thread's work: `follow` returns after `stop`. `keys` are this host's, of the agent."""

    membership: Membership
    directory: Path
    keys: dict[str, Any]
    report: Report
    _stopping: threading.Event = field(default_factory=threading.Event)
    _said: set[str] = field(default_factory=set)

    def stop(self) -> None:
        """Have `follow` return within a second, or when the store has answered."""
        self._stopping.set()

    def follow(self) -> None:
        """Follow the networks until stopped."""
        while not self._stopping.is_set():
            try:
                store = self.membership.cluster.store
                for _ in turns(store, _PREFIX, self._stopping, _COMPARE_SECONDS):
                    self._compare()
                    self.report.fail("conflists", None)
            except Error as error:
                self.report.fail("conflists", error)
                self._stopping.wait(_RETRY_SECONDS)

    def _compare(self) -> None:
        """Make the files what the store has; it is read while nobody makes or removes networks."""
        with Directory(self.directory) as directory:
            self.membership.cluster.check_schema()
            shared = self.membership.cluster.conflists()
            networks = self.membership.cluster.networks()
            self._forget(shared, {each.name for each in networks})
            present = {each.name: each for each in directory.read()[0]}
            for document in self._documents(networks, shared):
                self._have(directory, present.get(document["name"]), document)
            failures: list[Error] = []
            for name, network in present.items():
                if name not in shared and overlay_file.is_of(network, self.keys):
                    attempt(failures, self._remove, directory, network)
            raise_all(failures)

    def _forget(self, shared: dict[str, str], networks: set[str]) -> None:
        """Take what the store has of files whose networks are gone as gone, and out of it."""
        for name in shared.keys() - networks:
            # A network that makes no sense is one all the same: the store decides.
            if self.membership.cluster.forget_conflist(name):
                del shared[name]
                self.report.say("conflist-forgotten", network=name)

    def _documents(
        self, networks: list[SharedNetwork], shared: dict[str, str]
    ) -> Iterator[dict[str, Any]]:
        """The files that make sense; one that does not stays as it is."""
        for network in networks:
            if network.name in shared:
                try:
                    yield overlay_file.document(network, shared[network.name], self.keys)
                except StateFailure as error:
                    self.report.ignore(error)

    def _have(
        self, directory: Directory, present: Conflist | None, document: dict[str, Any]
    ) -> None:
        """Write a file, or write it anew where it is the agent's and says another thing."""
        name = document["name"]
        if present is None:
            try:
                path = directory.write(document, overlay_file.MODE)
            except Failure as failure:  # a file of that name is another network's
                self._say("conflist-in-the-way", network=name, error=failure.message)
                return
            self.report.say("conflist-written", network=name, path=str(path))
        elif not overlay_file.is_of(present, self.keys):
            self._say("conflist-in-the-way", network=name, path=str(present.path))
        elif present.by_agent and present.document != document:
            text = json.dumps(document, indent=2) + "\n"
            files.replace(str(present.path), text, overlay_file.MODE)
            self.report.say("conflist-written", network=name, path=str(present.path))

    def _remove(self, directory: Directory, network: Conflist) -> None:
        """Remove a network's file with what else is left here, unless it is in use."""
        from cnm_core.cli.remove import clear_host

        if EndpointStore(self.membership.state_dir).keys(network.name):
            self._say("conflist-in-use", network=network.name, path=str(network.path))
            return
        try:
            clear_host(network)
        except Failure as failure:
            raise StateFailure(failure.message, details=failure.advice) from None
        self.membership.remove(network.name)
        directory.remove(network)
        self.report.say("conflist-removed", network=network.name, path=str(network.path))

    def _say(self, event: str, **fields: object) -> None:
        """Say a thing once."""
        text = json.dumps([event, fields])
        if text not in self._said:
            self._said.add(text)
            self.report.say(event, **fields)
