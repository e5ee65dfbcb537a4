"""What is printed: our figures beside the project's limits, all samples, and the machine."""

import datetime
import os
import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peers import OURS, Peer
from results import Results, Row
from world import find_tool, run

NOTHING = "–"


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

    def __str__(self) -> str:
        sign = "≥" if self.throughput else "≤"
        of = f" × ours in {self.per}" if self.per else " MiB" if self.absolute else ""
        return f"{sign} {self.bound}{of}"

    def figure(self, results: Results) -> float | None:
        """What is to be compared with the bound; None where it was not measured."""
        row = results.rows.get((self.case, self.op))
        if row is None or OURS not in row.peers:
            return None
        ours = row.peers[OURS].median
        if self.absolute:
            return ours
        if self.per:
            other = results.rows.get((self.per, self.op))
            return ours / other.peers[OURS].median if other and OURS in other.peers else None
        return _ratio(row)

    def met(self, figure: float) -> bool:
        return figure >= self.bound if self.throughput else figure <= self.bound


LIMITS = (
    Limit("python", "VERSION", 1.4),
    Limit("memory", "ADD", 20, absolute=True),
    Limit("bridge_gw", "ADD", 1.4),
    Limit("bridge_gw", "CHECK", 1.4),
    Limit("bridge_gw", "DEL", 1.3),
    Limit("par20", "ADD ×20", 1.0, throughput=True),
    Limit("par50", "ADD ×50", 1.0, throughput=True),
    Limit("hlscale_10000", "ADD", 0.15),
    Limit("hlscale_10000", "DEL", 0.15),
    Limit("hlscale_50000", "ADD", 1.3, per="hlscale_0"),
    Limit("hlscale_50000", "DEL", 1.3, per="hlscale_0"),
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
    unmeasured = [f"{each.case} {each.op}" for each in LIMITS if each.figure(results) is None]
    if unmeasured:
        parts.append(f"Limits not measured in this run: {', '.join(unmeasured)}.")
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
    if notes := lingering + results.notes:
        parts += ["### Notes", "\n".join(f"- {note}" for note in notes)]
    if results.failures:
        parts += ["### Failures", "\n".join(f"- {line}" for line in failures(results))]
    return "\n\n".join(parts) + "\n"


def sample_table(results: Results) -> str:
    """Every row of every peer."""
    lines = []
    for (case, op), row in results.rows.items():
        for label, series in row.peers.items():
            values = (min(series.values), series.median, series.quantile(0.9))
            shown = [_amount(value, row.unit) for value in values]
            cpu = NOTHING if series.median_cpu is None else _amount(series.median_cpu)
            lines.append([case, op, label, str(len(series.values)), *shown, cpu])
    return _table(["case", "op", "peer", "n", "min", "median", "p90", "cpu"], 3, lines)


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
                *_verdict(results, limits.get((case, op))),
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
        "lingering": {" ".join(key): wall for key, wall in results.lingering.items()},
        "failures": results.failures,
    }


def _ratio(row: Row) -> float | None:
    """Ours over the best peer's: times, or calls a second where a sample is of many calls."""
    best = row.best_other(OURS)
    if best is None:
        return None
    ours, other = row.peers[OURS].median, row.peers[best].median
    return other / ours if row.calls > 1 else ours / other


def _verdict(results: Results, limit: Limit | None) -> tuple[str, str]:
    if limit is None:
        return "", ""
    figure = limit.figure(results)
    if figure is None:
        return str(limit), "not measured"
    measured = f": {figure:.2f}" if limit.per else ""
    return f"{limit}{measured}", "met" if limit.met(figure) else "**not met**"


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
