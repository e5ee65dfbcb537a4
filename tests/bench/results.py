"""What was measured, what failed, and what was left out."""

import os
import resource
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import monotonic


@dataclass
class Series:
    """The samples of one peer in one row."""

    values: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def median_cpu(self) -> float | None:
        return median(self.cpu) if self.cpu else None

    def quantile(self, share: float) -> float:
        ordered = sorted(self.values)
        return ordered[round(share * (len(ordered) - 1))]


@dataclass
class Row:
    """One operation in one case; a sample is the milliseconds, or MiB, of `calls` calls."""

    unit: str
    calls: int
    peers: dict[str, Series] = field(default_factory=dict)

    def best_other(self, label: str) -> str | None:
        """The peer with the lowest median, but for this one."""
        others = {other: series.median for other, series in self.peers.items() if other != label}
        return min(others, key=others.__getitem__, default=None)


@dataclass
class Results:
    """Rows by case and operation; failures by place; notes in the order they came up.

    `load` has the CPU time that others took during a case, as a share of one CPU, by row.
    For each verb and peer that leave processes behind: how many milliseconds at most.
    """

    rows: dict[tuple[str, str], Row] = field(default_factory=dict)
    failures: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    load: dict[tuple[str, str], float] = field(default_factory=dict)
    lingering: dict[tuple[str, str], float] = field(default_factory=dict)

    def record(
        self,
        case: str,
        op: str,
        peer: str,
        value: float,
        cpu: float | None = None,
        *,
        unit: str = "ms",
        calls: int = 1,
    ) -> None:
        row = self.rows.setdefault((case, op), Row(unit, calls))
        series = row.peers.setdefault(peer, Series())
        series.values.append(value)
        if cpu is not None:
            series.cpu.append(cpu)

    def fail(self, place: str, message: str) -> None:
        self.failures.setdefault(place, []).append(message)

    def linger(self, verb: str, peer: str, wall: float) -> None:
        self.lingering[verb, peer] = max(wall, self.lingering.get((verb, peer), 0))

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


class Load:
    """What others do with the machine's CPUs from now on: they make figures doubtful.

    Others are processes of others, other guests of the same hardware, and what the kernel
    does in threads of its own, some of it on behalf of plugins.
    """

    def __init__(self) -> None:
        self._began, self._others = monotonic(), self._spent()

    def of_others(self) -> float:
        """The CPU time that others have taken since, as a share of one CPU."""
        return (self._spent() - self._others) / (monotonic() - self._began)

    @staticmethod
    def _spent() -> float:
        """Seconds for which a CPU was neither idle nor ours (proc_stat(5): the line cpu)."""
        user, nice, system, _idle, _wait, irq, softirq, steal = map(
            int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        )
        busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return busy - sum(usage.ru_utime + usage.ru_stime for usage in usages)
