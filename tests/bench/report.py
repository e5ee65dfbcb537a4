"""What is printed: our figures beside the project's limits, all samples, and the machine."""

import datetime
import os
import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from peers import OURS, Peer
from results import Results, Row
from world import find_tool, run

NOTHING = "–"
ALL, EVEN, ODD = slice(None), slice(0, None, 2), slice(1, None, 2)
BUSY = 0.3  # share of one CPU; what others take beyond that makes figures doubtful


@dataclass(frozen=True)
class Limit:
    """What the project holds itself to in one row.

    A plain limit bounds our median over the best peer's; one with `per` our median over our
    own in another case; an absolute one our median itself; one of throughput our calls a
    second over the best peer's, from below.
    """

    case: str
    op: str
    bound: float
    per: str = ""
    absolute: bool = False
    throughput: bool = False
    aim: float | None = None

    def __str__(self) -> str:
        return f"{'≥' if self.throughput else '≤'} {self.bound:g}"

    def described(self, results: Results) -> str:
        """The limit with its unit or what it is relative to, and what it is an aim for."""
        row = results.rows[self.case, self.op]
        of = f" × ours in {self.per}" if self.per else f" {row.unit}" if self.absolute else ""
        return f"{self}{of}" + (f", aim {self.aim:g}" if self.aim is not None else "")

    def figure(self, results: Results, part: slice = ALL) -> float | None:
        """What is to be compared with the bound; None where it was not measured.

        `part` chooses some of the samples.
        """
        row = results.rows.get((self.case, self.op))
        if row is None or OURS not in row.peers:
            return None
        ours = median(row.peers[OURS].values[part])
        if self.absolute:
            return ours
        if self.per:
            other = results.rows.get((self.per, self.op))
            if other is None or OURS not in other.peers:
                return None
            return ours / median(other.peers[OURS].values[part])
        return _ratio(row, part)

    def met(self, figure: float) -> bool:
        return figure >= self.bound if self.throughput else figure <= self.bound

    def verdict(self, results: Results) -> str:
        """Whether the limit is met, and whether either half of the samples says the same."""
        figure = self.figure(results)
        if figure is None:
            return "not measured"
        word = "met" if self.met(figure) else "**not met**"
        if self.aim is not None and self.met(figure):
            word += ", the aim too" if figure <= self.aim else ", the aim not"
        halves = (
            [self.figure(results, part) for part in (EVEN, ODD)] if self._halves(results) else []
        )
        if any(half is not None and self.met(half) != self.met(figure) for half in halves):
            word += ", but not steadily"
        return word

    def _halves(self, results: Results) -> bool:
        """Whether there are enough samples to look at each half."""
        return all(len(s.values) > 3 for s in results.rows[self.case, self.op].peers.values())


LIMITS = (
    Limit("python", "VERSION", 1.4),
    Limit("memory", "ADD", 20, absolute=True),
    Limit("bridge_gw", "ADD", 1.4),
    Limit("bridge_gw", "CHECK", 1.4),
    Limit("bridge_gw", "DEL", 1.3),
    Limit("macvlan", "ADD", 1.4, aim=1.0),
    Limit("macvlan", "DEL", 1.3, aim=1.0),
    *(
        Limit(f"{name}{backend}", op, bound)
        for name, op, bound in (
            ("masq", "ADD", 0.6),
            ("masq", "DEL", 0.4),
            ("ports", "ADD", 0.25),
            ("ports", "DEL", 0.2),
            ("portmap", "ADD", 0.35),
            ("portmap", "DEL", 0.35),
        )
        for backend in ("", "_nft")
    ),
    *(
        Limit(f"crowd_1000_{name}", op, 1.2, per=f"crowd_0_{name}")
        for name in ("masq", "ports", "portmap")
        for op in ("ADD", "DEL")
    ),
    Limit("par20", "ADD ×20", 1.0, throughput=True),
    Limit("par50", "ADD ×50", 1.0, throughput=True),
    *(
        limit
        for name in ("hlscale", "hlrest", "hlstatic")
        for op in ("ADD", "DEL")
        for limit in (
            Limit(f"{name}_10000", op, 0.15),
            Limit(f"{name}_50000", op, 1.3, per=f"{name}_0"),
        )
    ),
    Limit("cnm_start", "start", 300, absolute=True),
    Limit("cnm_create", "create", 400, absolute=True),
    Limit("cnm_ls", "ls", 1000, absolute=True),
)


@dataclass(frozen=True)
class Setting:
    """How and where a run was made."""

    command: str
    peers: Sequence[Peer]
    began: datetime.datetime
    cpu: str
    kernel: str
    filesystem: str
    load: float

    @classmethod
    def of(cls, command: str, peers: Sequence[Peer], scratch: Path) -> "Setting":
        """The setting of a run that begins now."""
        model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
        return cls(
            command=command,
            peers=peers,
            began=datetime.datetime.now(datetime.UTC),
            cpu=f"{model[1] if model else platform.machine()}, {os.cpu_count()} CPUs",
            kernel=f"{os.uname().sysname} {os.uname().release} {os.uname().machine}",
            filesystem=run(["stat", "--file-system", "--format=%T", str(scratch)]).strip(),
            load=os.getloadavg()[0],
        )


def document(results: Results, setting: Setting) -> str:
    """A section of Markdown with everything that a run has shown."""
    peers = "; ".join(f"{peer.label} = {_described(peer)}" for peer in setting.peers)
    parts = [
        f"## Benchmark of {setting.began:%Y-%m-%d}",
        f"    {setting.command}",
        f"- CPU: {setting.cpu}; load when it began: {setting.load:.2f}\n"
        f"- kernel: {setting.kernel}\n"
        f"- data directories on: {setting.filesystem}\n"
        f"- peers, taking turns in each round: {peers}",
        "### Beside the best peer",
        "Medians in ms where no unit stands. The ratio is ours over the best peer's; for calls"
        " a second (/s) too, and there more is better.",
        ratio_table(results),
    ]
    unmeasured = dict.fromkeys(each.case for each in LIMITS if each.figure(results) is None)
    if unmeasured:
        parts.append(f"With limits, but not measured in this run: {', '.join(unmeasured)}.")
    parts += [
        "### All samples",
        "In ms where no unit stands; cpu is the median of user and system time.",
        sample_table(results),
    ]
    lingering = [
        f"{verb} of {peer} leaves processes behind, for {wall:.0f} ms at most: the next call"
        " waits for their end, and cpu is with theirs"
        for (verb, peer), wall in results.lingering.items()
    ]
    if notes := lingering + _doubts(results) + results.notes:
        parts += ["### Notes", "\n".join(f"- {note}" for note in notes)]
    if results.failures:
        parts += ["### Failures", "\n".join(f"- {line}" for line in failures(results))]
    return "\n\n".join(parts) + "\n"


def _doubts(results: Results) -> list[str]:
    """Which figures are doubtful, because others kept the machine busy meanwhile."""
    busy = {case: share for (case, _), share in results.load.items() if share > BUSY}
    if not busy:
        return []
    cases = ", ".join(f"{case} {share:.0%}" for case, share in busy.items())
    return [f"doubtful, since others took more than {BUSY:.0%} of a CPU meanwhile: {cases}"]


def sample_table(results: Results) -> str:
    """Every row of every peer."""
    lines = []
    for (case, op), row in results.rows.items():
        for label, series in row.peers.items():
            values = (min(series.values), series.median, series.quantile(0.95))
            shown = [_amount(value, row.unit) for value in values]
            cpu = NOTHING if series.median_cpu is None else _amount(series.median_cpu)
            lines.append([case, op, label, str(len(series.values)), *shown, cpu])
    return _table(["case", "op", "peer", "n", "min", "median", "p95", "cpu"], 3, lines)


def ratio_table(results: Results) -> str:
    """Our median, the best peer's, and the limits."""
    limits = {(limit.case, limit.op): limit for limit in LIMITS}
    lines = []
    for (case, op), row in results.rows.items():
        if OURS not in row.peers:
            continue
        best, ratio = row.best_other(OURS), _ratio(row)
        lines.append(
            [
                case,
                op,
                _speed(row, OURS),
                f"{_speed(row, best)} ({best})" if best else NOTHING,
                f"{ratio:.2f}" if ratio is not None else NOTHING,
                *_limit(results, limits.get((case, op))),
            ]
        )
    return _table(["case", "op", "ours", "best peer", "ratio", "limit", "verdict"], 2, lines)


def failures(results: Results) -> list[str]:
    """One line for each place where something failed, with the first message."""
    return [
        f"{place}: {len(messages)} ×: {messages[0]}" for place, messages in results.failures.items()
    ]


def as_json(results: Results, setting: Setting) -> dict[str, Any]:
    """The run, for other programs."""
    return {
        "command": setting.command,
        "began": setting.began.isoformat(timespec="seconds"),
        "cpu": setting.cpu,
        "kernel": setting.kernel,
        "filesystem": setting.filesystem,
        "load": setting.load,
        "peers": {peer.label: peer.given for peer in setting.peers},
        "rows": [
            {
                "case": case,
                "op": op,
                "unit": row.unit,
                "calls": row.calls,
                "peers": {
                    label: {"values": series.values, "cpu": series.cpu}
                    for label, series in row.peers.items()
                },
            }
            for (case, op), row in results.rows.items()
        ],
        "notes": results.notes,
        "load of others": {" ".join(key): share for key, share in results.load.items()},
        "lingering": {" ".join(key): wall for key, wall in results.lingering.items()},
        "failures": results.failures,
    }


def _ratio(row: Row, part: slice = ALL) -> float | None:
    """Ours over the best peer's: times, or calls a second where a sample is of many calls."""
    best = row.best_other(OURS)
    if best is None:
        return None
    ours, other = (median(row.peers[label].values[part]) for label in (OURS, best))
    return other / ours if row.calls > 1 else ours / other


def _limit(results: Results, limit: Limit | None) -> tuple[str, str]:
    """The cells about a limit; a figure that stands in no other cell comes with it."""
    if limit is None:
        return "", ""
    figure = limit.figure(results)
    measured = f": {figure:.2f}" if limit.per and figure is not None else ""
    return limit.described(results) + measured, limit.verdict(results)


def _speed(row: Row, label: str) -> str:
    median = row.peers[label].median
    return f"{1e3 * row.calls / median:.0f}/s" if row.calls > 1 else _amount(median, row.unit)


def _amount(value: float, unit: str = "ms") -> str:
    return f"{value:.{2 if value < 100 else 0}f}" + ("" if unit == "ms" else f" {unit}")


def _described(peer: Peer) -> str:
    """A peer's directory, and the Debian package it is of."""
    name = f"`{peer.given}`"
    if find_tool("dpkg-query") is None:
        return name
    owner = run(["dpkg-query", "--search", peer.executable("bridge")], check=False)
    if found := re.match(r"(\S+): /", owner):
        shown = ["dpkg-query", "--show", "--showformat=${Package} ${Version}", found[1]]
        return f"{name} ({run(shown)})"
    return name


def _table(header: Sequence[str], texts: int, lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose columns, but for the first ones, are numbers."""
    rule = ["---"] * texts + ["--:"] * (len(header) - texts)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *lines))
