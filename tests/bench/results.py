"""What was measured, what failed, and what was left out."""

from dataclasses import dataclass, field
from statistics import median


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

    For each verb and peer that leave processes behind: how many milliseconds at most.
    """

    rows: dict[tuple[str, str], Row] = field(default_factory=dict)
    failures: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
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
