"""What the agent says of itself: lines of JSON on stderr, health, and Prometheus metrics."""

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from cnm_core.drivers.returned import Again, CutOff
from cnm_core.errors import Error, NotAvailable
from cnm_core.inet import format_ip
from cnm_core.store.shared import Unreachable

_REQUEST_SECONDS = 5
_SAID_LIMIT = 1000
# https://prometheus.io/docs/instrumenting/exposition_formats/
_TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"


@dataclass
class Report:
    """The agent's state in words and numbers.

    `trouble` is why the agent does not follow the store, "" while it does; `lease_lost` why
    other hosts take this one for gone, "" while they do not; `no_member` why this host is no member
    of the cluster. `mended` counts entries of
    the kernel that were missing or stale, `ignored` entries of the store that make no
    sense or break its rules, each time they are read. `cut_off` are endpoints of this host, by
    network, whose addresses became others' while it was fenced. `pending` counts the releases
    that wait in the journal.
    """

    trouble: str = "the store has not been read yet"
    lease_lost: str = "there is no lease yet"
    no_member: str = ""
    revision: int = 0
    mended: int = 0
    ignored: int = 0
    endpoints: dict[str, int] = field(default_factory=dict)
    cut_off: dict[str, tuple[CutOff, ...]] = field(default_factory=dict)
    pending: Callable[[], int] = lambda: 0
    _said: set[str] = field(default_factory=set)
    _failures: dict[str, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def say(self, event: str, **fields: object) -> None:
        """One line: when, what, and more."""
        line = json.dumps({"time": round(time.time(), 3), "event": event, **fields})
        with self._lock:
            print(line, file=sys.stderr, flush=True)

    def ignore(self, error: Error) -> None:
        """Count what is passed over in the store, and say it once."""
        self.ignored += 1
        if error.msg not in self._said:
            if len(self._said) == _SAID_LIMIT:
                self._said.clear()
            self._said.add(error.msg)
            self.say("ignored", error=error.msg, details=error.details)

    def fail(self, work: str, error: Error | None) -> None:
        """Say what keeps a thread from its work, once until that is something else, or nothing.

        That the store does not answer, or not to this host, `lose_store` says.
        """
        if error is None:
            self._failures.pop(work, None)
        elif not isinstance(error, Unreachable | NotAvailable):
            if self._failures.get(work) != error.msg:
                self.say("failed", work=work, error=error.msg, details=error.details)
            self._failures[work] = error.msg

    def find_store(self, revision: int) -> None:
        """Note that the store was read."""
        if self.trouble:
            self.say("store-up", revision=revision)
        self.trouble, self.revision = "", revision

    def lose_store(self, error: Error) -> None:
        """Note that the store does not answer, or cannot be followed; say each trouble once."""
        if self.trouble != error.msg:
            event = "store-down" if isinstance(error, Unreachable) else "failed"
            self.say(event, error=error.msg, details=error.details)
        self.trouble = error.msg

    def return_all(self, network: str, again: Again) -> None:
        """Note what became of endpoints that were forgotten when this host was fenced."""
        if again.known:
            self.say("republished", network=network, endpoints=list(map(str, again.known)))
        for each in again.cut_off:
            if each not in self.cut_off.get(network, ()):
                address = format_ip(each.ip)
                fields = {"endpoint": str(each.key), "address": address, "holder": each.holder}
                self.say("cut-off", network=network, **fields)
        # Another thread may be reading it.
        self.cut_off = {**self.cut_off, network: again.cut_off}

    def keep_cut_off(self, networks: Collection[str]) -> None:
        """Note which networks have containers here: of others nobody is cut off any more."""
        kept = {name: each for name, each in self.cut_off.items() if name in networks}
        self.cut_off = kept

    def keep_lease(self) -> None:
        """Note that the lease is alive."""
        if self.lease_lost:
            self.say("lease-kept")
        self.lease_lost = ""

    def lose_lease(self, error: Error) -> None:
        """Note that the lease could not be kept."""
        if self.lease_lost != error.msg:
            self.say("lease-lost", error=error.msg)
        self.lease_lost = error.msg

    def health(self) -> str:
        """What is wrong, a line each; "" while all is well."""
        troubles = (
            ("store", self.trouble),
            ("lease", self.lease_lost),
            ("member", self.no_member),
        )
        return "".join(f"{what}: {why}\n" for what, why in troubles if why)

    def metrics(self) -> str:
        """The numbers in Prometheus' text format."""
        cut_off = {name: len(found) for name, found in self.cut_off.items()}
        parts = (
            _family("store_up", "gauge", "Whether the store is followed.", int(not self.trouble)),
            _family(
                "lease_up", "gauge", "Whether others count us alive.", int(not self.lease_lost)
            ),
            _family("store_revision", "gauge", "Revision that is followed.", self.revision),
            _family("pending_releases", "gauge", "Removals in the journal.", self.pending()),
            _family(
                "mended_entries_total", "counter", "Kernel entries that differed.", self.mended
            ),
            _family(
                "ignored_entries_total", "counter", "Senseless reads of the store.", self.ignored
            ),
            _family("endpoints", "gauge", "Endpoints on all hosts.", self.endpoints),
            _family("cut_off_endpoints", "gauge", "Ours with others' addresses.", cut_off),
        )
        return "".join(parts)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one HTTP request: GET /metrics, or GET /healthz, which is 503 if not well."""
        try:
            request = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _REQUEST_SECONDS)
            method, target, *_ = *request.split(b" ", 2), b""
            target = target.partition(b"?")[0]
            status, body = "404 Not Found", "there are /metrics and /healthz\n"
            if method not in (b"GET", b"HEAD"):
                status, body = "405 Method Not Allowed", "there are GET and HEAD\n"
            elif target == b"/metrics":
                status, body = "200 OK", self.metrics()
            elif target == b"/healthz":
                body = self.health() or "ok\n"
                status = "503 Service Unavailable" if self.health() else "200 OK"
            head = f"HTTP/1.1 {status}\r\nContent-Type: {_TEXT_FORMAT}\r\nConnection: close\r\n"
            content = body.encode()
            head += f"Content-Length: {len(content)}\r\n\r\n"
            writer.write(head.encode() + (b"" if method == b"HEAD" else content))
            await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, OSError):
            pass  # whoever asked has gone, or does not speak HTTP
        finally:
            writer.close()


def _family(name: str, kind: str, about: str, value: int | dict[str, int]) -> str:
    """A metric, with a value for each network where there are many.

    Names of networks have no character that the format would want escaped.
    """
    name = f"cnm_agent_{name}"
    lines = [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]
    if isinstance(value, dict):
        each = sorted(value.items())
        lines += [f'{name}{{network="{network}"}} {number}' for network, number in each]
    else:
        lines.append(f"{name} {value}")
    return "\n".join([*lines, ""])
